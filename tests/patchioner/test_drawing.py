"""Regions leave their colour where they lie; tags, list, lines of text and sizes; the map of all patches."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from patchioner import Caption, drawing
from patchioner.base.errors import OptionError
from patchioner.drawing import (
    FINE,
    MARGIN,
    PAPER,
    Display,
    cluster_captions,
    colour_of,
    draw_overlay,
    draw_patch_map,
    shapes_of,
)
from patchioner.geometry import fit_image
from patchioner.regions import Box, Mask, Patch, Point, Polygon, Region, Trace, WholeImage

Points = list[tuple[int, int]]
RED = (230, 57, 70)
SIZE = (800, 600)
DISPLAY = Display.of(Image.new("RGB", SIZE, "white"))
GEOMETRY = fit_image(SIZE, mode="stretch", size=224, patch_size=14)
Y, X = np.mgrid[:600, :800]
DISC: npt.NDArray[np.bool_] = (X - 400) ** 2 + (Y - 300) ** 2 < 80.0**2
LONG = "a very long caption that goes on and on about a red bus " * 6


@pytest.mark.parametrize(("region", "on", "off"), [
    (Box(100, 100, 300, 200), [(100, 150), (200, 100), (299, 150)], [(200, 150), (50, 50)]),
    (WholeImage(), [(3, 300), (796, 300), (400, 3)], [(400, 300)]), (Point(400, 300), [(400, 300)], [(430, 300)]),
    (Patch(2, 3), [(150, 90), (199, 90)], [(175, 94), (400, 300)]),
    (Trace([(100, 100), (300, 100), (300, 200)]), [(100, 100), (300, 150)], [(200, 150)]),
    (Trace([(0.5, 0.5)], normalized=True), [(400, 300)], [(1, 1)]),
    (Polygon([(100, 100), (300, 100), (200, 300)]), [(200, 100), (200, 180)], [(110, 250)]),
    (Mask(DISC), [(400, 300), (400 - 82, 300)], [(400 - 95, 300), (10, 10)]),
])  # fmt: skip
def test_colour_lies_on_the_region_only(region: Region, on: Points, off: Points) -> None:
    shapes = [(shape, RED) for shape in shapes_of(region, DISPLAY, GEOMETRY)]
    layer = np.asarray(drawing.draw_shapes(shapes, SIZE, width=3)).astype(int)
    for x, y in on:
        assert np.abs(layer[y, x, :3] - RED).max() < 12 and layer[y, x, 3] > 0
    assert all(layer[y, x, 3] == 0 for x, y in off)


def test_only_the_surroundings_of_a_mask_are_kept_and_its_anchor_lies_on_it() -> None:
    (shape,) = shapes_of(Mask(DISC), DISPLAY, None)
    assert shape.mask is not None and shape.mask.size == (159 * FINE, 159 * FINE)
    inside = np.asarray(shape.mask)[FINE // 2 :: FINE, FINE // 2 :: FINE] > 0
    np.testing.assert_array_equal(inside, DISC[221:380, 321:480])
    mask = np.zeros((600, 800), dtype=bool)
    mask[50:60, 700:720] = mask[300:400, 100:200] = True
    (shape,) = shapes_of(Mask(mask), DISPLAY, None)
    x, y = (int(value / FINE) for value in shape.anchor)
    assert mask[y, x]


def caption(region: Region, text: str) -> Caption:
    return Caption(text, 0.0, region)


def boxes(count: int) -> list[Caption]:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 250, (count, 2))
    corners = np.concatenate([low, low + rng.uniform(5, 50, (count, 2))], axis=1)
    return [caption(Box(*row), f"box {number}") for number, row in enumerate(corners)]


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (1, 1)), ("RGBA", (3, 2000)), ("RGB", (2000, 3)), ("L", (1600, 900))]
)
def test_any_photo_gets_a_picture_with_its_caption(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    picture = draw_overlay(image, [caption(WholeImage(), LONG)])
    assert (picture.mode, image.size, image.mode) == ("RGB", size, mode)
    pixels = np.asarray(picture)
    assert (pixels == colour_of(0)).all(axis=2).any()
    for edge in (pixels[: MARGIN // 2], pixels[-MARGIN // 2 :], pixels[:, -MARGIN // 2 :]):
        assert (edge == PAPER).all(), "something is off the edge"


def test_every_region_of_a_crowd_has_its_tag_and_a_long_list_is_cut() -> None:
    white = Image.new("RGB", (300, 300), "white")
    many = boxes(drawing.MAX_LISTED + 9)
    photo = np.asarray(draw_overlay(white, many[:12]))[MARGIN:-MARGIN, MARGIN : MARGIN + 720]
    for number in range(12):
        assert (photo == colour_of(number)).all(axis=2).sum() > 100
    assert draw_overlay(white, many[:-4]).size == draw_overlay(white, many).size
    named = draw_overlay(white, many[:20], labels=["a name"] * 20)
    assert named.size != draw_overlay(white, many[:20]).size


def test_ink_contrasts_with_every_colour() -> None:
    for colour in map(colour_of, range(100)):
        contrasts = []
        for ink in (drawing.WHITE, drawing.BLACK, drawing.ink_on(colour)):
            low, high = sorted(map(drawing.luminance, (ink, colour)))
            contrasts.append((high + 0.05) / (low + 0.05))
        assert contrasts[2] == max(contrasts) >= 4.5


@given(st.lists(st.text("abcmiW.,é", min_size=1, max_size=30), max_size=12), st.integers(25, 300))
def test_lines_fit_and_keep_every_character(words: list[str], width: int) -> None:
    font = ImageFont.load_default(17)
    lines = drawing.wrap_text(" ".join(words), font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)


def test_the_long_side_is_in_range() -> None:
    sizes = {(60, 40): (720, 480), (1000, 800): (1000, 800), (2800, 1400): (1400, 700)}
    for size, expected in (sizes | {(5000, 1): (1400, 1), (1, 1): (720, 720)}).items():
        display = Display.of(Image.new("RGB", size))
        assert (display.photo.size, display.image_size) == (expected, size)


def entries(count: int, text: str) -> list[drawing.Entry]:
    return [drawing.Entry(colour_of(i), str(i + 1), text, "a note") for i in range(count)]


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("text", ["a bus", LONG, "W" * 300])
def test_no_ink_touches_the_right_or_the_lower_edge(columns: int, text: str) -> None:
    panel = np.asarray(drawing.draw_list(entries(9, text), 800, columns, ImageFont.load_default(18)))
    assert panel.shape[1] == 800
    assert (panel[:, -1] == PAPER).all() and (panel[-1] == PAPER).all()


def test_upright_photos_get_the_list_beside_wide_ones_below() -> None:
    for size, grows in (((600, 800), (True, False)), ((800, 400), (False, True))):
        page = drawing.add_list(Image.new("RGB", size), entries(3, "a bus"), ImageFont.load_default(15))
        assert tuple(np.subtract(page.size, size) > 2 * MARGIN) == grows


# The map of all patches: captions fall into few groups, and cells get the colour of theirs.

WORDS = st.lists(st.sampled_from(["cup", "a", "spoon", "table", "wood", "red"]), max_size=5)


def test_equal_captions_fall_together_whatever_case_and_stops() -> None:
    clusters = cluster_captions(["A cup.", "a table", "a cup", "a cup"])
    told = [(c.text, c.members, c.share) for c in clusters]
    assert told == [("a cup", (0, 2, 3), 0.75), ("a table", (1,), 0.25)]


def test_hundreds_of_variants_are_merged_until_most_are_named() -> None:
    things = ["cat fur whiskers", "wooden table grain", "blue sky cloud"]
    texts = [f"{thing} {extra}" for thing in things for extra in range(100)]
    groups = [set(cluster.members) for cluster in cluster_captions(texts, limit=3)]
    assert groups == [set(range(start, start + 100)) for start in (0, 100, 200)]


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=40), st.integers(1, 6))
def test_every_caption_is_in_exactly_one_cluster(texts: list[str], limit: int) -> None:
    clusters = cluster_captions(texts, limit=limit)
    members = sorted(member for cluster in clusters for member in cluster.members)
    assert members == list(range(len(texts)))
    assert len([c for c in clusters if c.text]) <= limit
    assert all(c.members for c in clusters)
    assert clusters == cluster_captions(texts, limit=limit)


def test_the_map_shows_each_caption_where_it_was_given() -> None:
    geometry = fit_image((800, 400), mode="stretch", size=56, patch_size=14)
    told = [caption(one, "a cup" if one.col < 2 else "a table") for one in Patch.all(geometry)]
    picture = np.asarray(draw_patch_map(Image.new("RGB", (800, 400)), told[:-1], geometry))
    for number, column in enumerate((200, 600)):
        shown = picture[16 + 200, 16 + column]
        np.testing.assert_allclose(shown, np.array(colour_of(number)) / 2, atol=1)
    assert picture[16 + 390, 16 + 790].max() == 0, "the patch without a caption stays as it was"
    assert (picture == colour_of(0)).all(axis=2).any(), "the legend shows the colour itself"
    for region in (Box(0, 0, 9, 9), Patch(4, 0), Patch(0, 4)):
        with pytest.raises(OptionError, match="4 x 4 grid"):
            draw_patch_map(Image.new("RGB", (800, 400)), [caption(region, "x")], geometry)
