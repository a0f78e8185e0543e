"""Regions leave their colour where they lie; tags, list and sizes of the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from patchioner.drawing import draw_overlay
from patchioner.drawing.overlay import (
    FINE,
    MAX_LISTED,
    _entries,
    _free_place,
    draw_shapes,
    shapes_of,
)
from patchioner.drawing.panel import MARGIN, PAPER, Display, colour_of
from patchioner.geometry import ImageGeometry, fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    Trace,
    WholeImage,
)

RED = (230, 57, 70)
SIZE = (800, 600)
DISPLAY = Display.of(Image.new("RGB", SIZE, "white"))
GEOMETRY = fit_image(SIZE, mode="stretch", size=224, patch_size=14)


def _layer(region: Region, geometry: ImageGeometry | None = GEOMETRY) -> npt.NDArray[np.uint8]:
    shapes = shapes_of(region, DISPLAY, geometry)
    return np.asarray(draw_shapes([(shape, RED) for shape in shapes], SIZE, width=3))


def _is_red(pixel: npt.NDArray[np.uint8]) -> bool:
    return bool(np.abs(pixel[:3].astype(int) - RED).max() < 12 and pixel[3] > 0)


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
    layer = _layer(region)
    assert all(_is_red(layer[y, x]) for x, y in on)
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


def test_labels_and_long_lists() -> None:
    entries = _entries(_boxes(MAX_LISTED + 5), ["name"] + [None] * (MAX_LISTED + 4))
    assert entries[0].note == "name" and entries[1].note == ""
    assert len(entries) == MAX_LISTED + 1
    assert entries[-1].text == "… and 5 more"
    assert draw_overlay(Image.new("RGB", (300, 300)), _boxes(MAX_LISTED + 5)).width > 720


def test_tags_step_aside_and_stay_inside() -> None:
    taken = [(0.0, 0.0, 20.0, 20.0)]
    assert _free_place([(0, 0), (50, 50)], (20, 20), (100, 100), taken)[:2] == (50, 50)
    assert _free_place([(-9, 95)], (20, 20), (100, 100), [])[:2] == (0, 80)
