"""Photos that show nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from patchioner.detail.filter import why_blank
from patchioner.detail.filter.blank import colour_range, structure
from tests.support.tiny import noise_photo


def noise(width: int = 448, height: int = 448, spread: int = 256) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, spread, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("colour", ["gray", "black", "white", (10, 200, 30)])
@pytest.mark.parametrize("size", [(448, 448), (3, 5), (641, 7)])
def test_one_colour_shows_nothing(
    colour: str | tuple[int, int, int], size: tuple[int, int]
) -> None:
    assert "one colour" in (why_blank(Image.new("RGB", size, colour)) or "")


def test_noise_in_the_dark_is_one_colour() -> None:
    assert "one colour" in (why_blank(noise(spread=9)) or "")


@pytest.mark.parametrize("quality", [None, 95, 30])
def test_noise_shows_nothing(quality: int | None) -> None:
    photo = noise()
    if quality is not None:
        written = io.BytesIO()
        photo.save(written, "JPEG", quality=quality)
        photo = Image.open(written).convert("RGB")
    assert "noise" in (why_blank(photo) or "")


def test_something_small_or_smooth_is_seen() -> None:
    bird = Image.new("RGB", (448, 448), "white")
    bird.paste((0, 0, 0), (100, 100, 108, 108))
    assert why_blank(bird) is None
    assert why_blank(noise_photo()) is None
    assert why_blank(noise_photo(3, 3)) is None


def test_structure_of_independent_pixels_is_one_and_of_blocks_64() -> None:
    assert structure(noise(800, 800)) == pytest.approx(1, abs=0.1)
    large = noise(40, 40).resize((320, 320), Image.Resampling.NEAREST)
    assert structure(large) == pytest.approx(64)
    assert structure(noise(24, 24)) is None
    assert structure(Image.new("RGB", (64, 64))) is None


def test_the_range_is_that_of_the_worst_channel() -> None:
    photo = Image.new("RGB", (64, 64), (50, 50, 50))
    photo.paste((50, 50, 90), (0, 0, 32, 64))
    assert colour_range(photo) == 40
