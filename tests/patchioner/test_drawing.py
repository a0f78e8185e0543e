"""Regions leave their colour where they lie; tags, list, lines of text and sizes of the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchioner.drawing import (
    BLACK,
    FINE,
    MARGIN,
    MAX_LISTED,
    PAPER,
    WHITE,
    Display,
    Entry,
    add_list,
    colour_of,
    draw_list,
    draw_overlay,
    draw_shapes,
    ink_on,
    load_font,
    luminance,
    shapes_of,
    wrap_text,
)
from patchioner.geometry import fit_image
from patchioner.regions import Box, Mask, Patch, Point, Polygon, Region, Trace, WholeImage

RED = (230, 57, 70)
SIZE = (800, 600)
DISPLAY = Display.of(Image.new("RGB", SIZE, "white"))
GEOMETRY = fit_image(SIZE, mode="stretch", size=224, patch_size=14)


def _disc(radius: float = 80.0) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[:600, :800]
    disc: npt.NDArray[np.bool_] = (x - 400) ** 2 + (y - 300) ** 2 < radius**2
    return disc


@pytest.mark.parametrize(
    ("region", "on", "off"),
    [
        (Box(100, 100, 300, 200), [(100, 150), (200, 100), (299, 150)], [(200, 150), (50, 50)]),
        (WholeImage(), [(3, 300), (796, 300), (400, 3)], [(400, 300)]),
        (Point(400, 300), [(400, 300)], [(430, 300)]),
        (Patch(2, 3), [(150, 90), (199, 90)], [(175, 94), (400, 300)]),
        (
            Trace([(100, 100), (300, 100), (300, 200)]),
            [(100, 100), (200, 100), (300, 150)],
            [(200, 150)],
        ),
        (Trace([(0.5, 0.5)], normalized=True), [(400, 300)], [(1, 1)]),
        (Polygon([(100, 100), (300, 100), (200, 300)]), [(200, 100), (200, 180)], [(110, 250)]),
        (Mask(_disc()), [(400, 300), (400 - 82, 300)], [(400 - 95, 300), (10, 10)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Region) else "",
)
def test_colour_lies_on_the_region_only(
    region: Region, on: list[tuple[int, int]], off: list[tuple[int, int]]
) -> None:
    shapes = [(shape, RED) for shape in shapes_of(region, DISPLAY, GEOMETRY)]
    layer = np.asarray(draw_shapes(shapes, SIZE, width=3)).astype(int)
    for x, y in on:
        assert np.abs(layer[y, x, :3] - RED).max() < 12 and layer[y, x, 3] > 0
    assert all(layer[y, x, 3] == 0 for x, y in off)


def test_only_the_surroundings_of_a_mask_are_kept() -> None:
    (shape,) = shapes_of(Mask(_disc()), DISPLAY, None)
    assert shape.mask is not None
    assert shape.mask.size == (159 * FINE, 159 * FINE)
    inside = np.asarray(shape.mask) > 0
    np.testing.assert_array_equal(
        inside[FINE // 2 :: FINE, FINE // 2 :: FINE], _disc()[221:380, 321:480]
    )


def test_the_anchor_of_a_mask_lies_on_it() -> None:
    mask = np.zeros((600, 800), dtype=bool)
    mask[50:60, 700:720] = mask[300:400, 100:200] = True
    (shape,) = shapes_of(Mask(mask), DISPLAY, None)
    x, y = (int(value / FINE) for value in shape.anchor)
    assert mask[y, x]


@dataclass(frozen=True)
class Said:
    """A caption."""

    region: Region
    text: str


LONG = "a very long caption that goes on and on about a red bus " * 6


def _boxes(count: int) -> list[Said]:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 250, (count, 2))
    high = low + rng.uniform(5, 50, (count, 2))
    return [Said(Box(*a, *b), f"box {i}") for i, (a, b) in enumerate(zip(low, high, strict=True))]


@pytest.mark.parametrize("size", [(300, 300), (1, 1), (3, 2000), (2000, 3), (5000, 4000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_photo_gets_a_picture_with_its_caption(size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size)
    picture = draw_overlay(image, [Said(WholeImage(), LONG)])
    assert picture.mode == "RGB"
    assert image.size == size and image.mode == mode
    pixels = np.asarray(picture)
    assert (pixels == colour_of(0)).all(axis=2).any()
    for edge in (pixels[: MARGIN // 2], pixels[-MARGIN // 2 :], pixels[:, -MARGIN // 2 :]):
        assert (edge == PAPER).all(), "something is off the edge"


def test_every_region_of_a_crowd_has_its_tag_inside_the_photo() -> None:
    said = _boxes(12)
    display = Display.of(Image.new("RGB", (300, 300), "white"))
    photo = np.asarray(draw_overlay(display, said))[MARGIN:-MARGIN, MARGIN : MARGIN + 720]
    for number in range(12):
        assert (photo == colour_of(number)).all(axis=2).sum() > 100


def test_a_long_list_is_cut_and_labels_take_room() -> None:
    white, said = Image.new("RGB", (300, 300)), _boxes(MAX_LISTED + 9)
    long, longer = draw_overlay(white, said[:-4]), draw_overlay(white, said)
    assert long.size == longer.size
    few = _boxes(20)
    assert draw_overlay(white, few, labels=["a name"] * 20).size != draw_overlay(white, few).size


def test_ink_contrasts_with_every_colour() -> None:
    def contrast(*pair: tuple[int, int, int]) -> float:
        low, high = sorted(map(luminance, pair))
        return (high + 0.05) / (low + 0.05)

    for colour in map(colour_of, range(100)):
        best = max(contrast(WHITE, colour), contrast(BLACK, colour))
        assert contrast(ink_on(colour), colour) == best >= 4.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcmiW.,é", min_size=1, max_size=30), max_size=12), st.integers(25, 300))
def test_lines_fit_and_keep_every_character(words: list[str], width: int) -> None:
    font = load_font(17)
    lines = wrap_text(" ".join(words), font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 40), (720, 480)),
        ((1000, 800), (1000, 800)),
        ((5600, 2800), (1400, 700)),
        ((5000, 1), (1400, 1)),
        ((1, 1), (720, 720)),
    ],
)
def test_the_long_side_is_brought_into_range(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    display = Display.of(Image.new("RGB", size))
    assert (display.photo.size, display.image_size) == (expected, size)


def _entries(count: int, text: str) -> list[Entry]:
    return [Entry(colour_of(i), str(i + 1), text, "a note") for i in range(count)]


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("text", ["a bus", LONG, "W" * 300])
def test_no_ink_touches_the_right_or_the_lower_edge(columns: int, text: str) -> None:
    panel = np.asarray(draw_list(_entries(9, text), 800, columns, load_font(18)))
    assert panel.shape[1] == 800
    assert (panel[:, -1] == PAPER).all() and (panel[-1] == PAPER).all()


def test_upright_photos_get_the_list_beside_wide_ones_below() -> None:
    for size, grows in (((600, 800), (True, False)), ((800, 400), (False, True))):
        page = add_list(Image.new("RGB", size), _entries(3, "a bus"), load_font(15))
        assert tuple(np.subtract(page.size, size) > 2 * MARGIN) == grows
