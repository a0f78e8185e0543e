"""The whole picture: tags, list, sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from patchioner.drawing import Display, draw_overlay
from patchioner.drawing.canvas import MARGIN
from patchioner.drawing.overlay import MAX_LISTED, _entries, _free_place
from patchioner.drawing.palette import PAPER, colour_of
from patchioner.geometry import fit_image
from patchioner.regions import Box, Patch, Point, Region, RegionSet, WholeImage


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


def test_each_label_needs_a_caption() -> None:
    with pytest.raises(ValueError, match="shorter"):
        draw_overlay(Image.new("RGB", (300, 300)), _boxes(2), labels=["one"])


def test_patches_and_sets_are_drawn_with_the_geometry() -> None:
    geometry = fit_image((300, 300), mode="stretch", size=224, patch_size=14)
    said = [Said(Patch(1, 1), "a patch"), Said(RegionSet([Point(9, 9), Patch(3, 3)]), "two")]
    picture = draw_overlay(Image.new("RGB", (300, 300)), said, geometry=geometry)
    assert (np.asarray(picture) == colour_of(1)).all(axis=2).sum() > 500


def test_no_captions_give_the_photo_alone() -> None:
    assert draw_overlay(Image.new("RGB", (900, 300)), []).width == 900 + 2 * MARGIN


def test_tags_step_aside_and_stay_inside() -> None:
    taken = [(0.0, 0.0, 20.0, 20.0)]
    assert _free_place([(0, 0), (50, 50)], (20, 20), (100, 100), taken)[:2] == (50, 50)
    assert _free_place([(-9, 95)], (20, 20), (100, 100), [])[:2] == (0, 80)


def test_the_same_input_gives_the_same_picture() -> None:
    one, two = (draw_overlay(Image.new("RGB", (300, 300)), _boxes(5)) for _ in range(2))
    assert one.tobytes() == two.tobytes()
