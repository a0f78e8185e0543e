"""Pictures of heat maps."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.detail.report import HeatMap, heat_maps
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailedCaption, FusedSentence
from patchioner.geometry import fit_image
from tests.support.tiny import noise_photo


def pixels(values: Any) -> Any:
    url = HeatMap(np.asarray(values, dtype=np.float32), (0, 0, 1, 1)).picture()
    start, _, data = url.partition(",")
    assert start == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")).astype(int)


def test_hot_is_bright_and_cold_is_dark() -> None:
    values = np.zeros((4, 6))
    values[3, 5] = 2.0
    found = pixels(values)
    assert found.shape[:2] == (107, 160)
    hot, cold = found[-1, -1], found[0, 0]
    assert hot[:3].sum() > 500 > 150 > cold[:3].sum()
    assert hot[3] < cold[3] < 255


def test_brightness_rises_with_the_value() -> None:
    bright = pixels([np.linspace(-1, 5, 40)])[0, :, :3].sum(axis=1)
    assert (np.diff(bright) >= 0).mean() > 0.95


@pytest.mark.parametrize("values", [np.full((3, 3), 0.2), np.full((3, 3), np.nan), np.ones((1, 1))])
def test_maps_without_a_hot_place_are_drawn_too(values: Any) -> None:
    assert len(np.unique(pixels(values).reshape(-1, 4), axis=0)) == 1


def test_not_finite_values_are_not_contagious() -> None:
    assert len(np.unique(pixels([[0.0, np.nan], [1.0, np.inf]]).reshape(-1, 4), axis=0)) > 10


def test_maps_of_the_sentences_of_a_photo() -> None:
    image = noise_photo()
    geometry = fit_image(image.size, mode="pad", size=56, patch_size=14)
    features: Any = SimpleNamespace(geometry=geometry)
    sentences = (
        FusedSentence("A.", (), ()),
        FusedSentence("B.", (), ()),
        FusedSentence("A.", (), ()),
    )
    caption = DetailedCaption("", sentences, (), (), (), image.size)
    asked: list[str] = []

    class Source:
        def heat_map(self, photo: Photo, sentence: str) -> Any:
            asked.append(sentence)
            return np.zeros(geometry.grid, dtype=np.float32)

    found = heat_maps(Photo("a", image, "", features), caption, Source())
    assert asked == list(found) == ["A.", "B."]
    # The square of the network reaches over the photo's upper and lower edges.
    left, top, right, bottom = found["A."].box
    assert (left, right) == pytest.approx((0, 96))
    assert top < 0
    assert bottom > 64
    assert heat_maps(Photo("a", image, ""), caption, Source()) == {}
