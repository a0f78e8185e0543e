"""Display sizes and the page."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from patchioner.drawing.canvas import LARGEST, SMALLEST, Display, below, beside


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 40), (SMALLEST, 480)),
        ((1000, 800), (1000, 800)),
        ((5600, 2800), (LARGEST, LARGEST // 2)),
        ((5000, 1), (LARGEST, 1)),
        ((1, 1), (SMALLEST, SMALLEST)),
    ],
)
def test_the_long_side_is_brought_into_range(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    display = Display.of(Image.new("RGB", size))
    assert display.photo.size == expected
    assert display.image_size == size


def test_points_follow_the_photo() -> None:
    display = Display.of(Image.new("RGB", (100, 50)))
    np.testing.assert_allclose(
        display.to_display([[0, 0], [50, 25], [100, 50]]),
        np.array([[0, 0], [SMALLEST / 2, SMALLEST / 4], [SMALLEST, SMALLEST / 2]]),
    )


def test_the_photo_given_is_not_changed_and_a_display_is_kept() -> None:
    image = Image.new("L", (100, 50), 7)
    display = Display.of(image)
    assert image.size == (100, 50) and image.mode == "L"
    assert display.photo.mode == "RGB"
    assert Display.of(display) is display


def test_pages_hold_both_pictures_whole() -> None:
    photo, panel = Image.new("RGB", (100, 80), "red"), Image.new("RGB", (60, 200), "blue")
    for page in (beside(photo, panel), below(photo, panel)):
        pixels = np.asarray(page)
        assert (pixels == (255, 0, 0)).all(axis=2).sum() == 100 * 80
        assert (pixels == (0, 0, 255)).all(axis=2).sum() == 60 * 200
