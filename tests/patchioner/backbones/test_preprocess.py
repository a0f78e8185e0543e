"""Preprocessing against a plain twin written with Pillow alone, and against torchvision's convention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from patchioner.backbones import preprocess
from patchioner.geometry import Fit, Preprocessing
from tests.support.tiny import noise_photo

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.3, 0.2)
SHAPES = [(96, 64), (64, 96), (101, 77), (33, 250), (17, 5), (64, 64)]


def normalised(image: Image.Image) -> np.ndarray:
    """(3, H, W) by the definition: (value / 255 - mean) / std."""
    values = np.asarray(image, np.float64) / 255
    return ((values - MEAN) / STD).transpose(2, 0, 1)


def plain_twin(image: Image.Image, mode: str, size: int, patch: int) -> np.ndarray:
    """The four fits with whole Pillow images: resize, then crop or paste onto a canvas."""
    width, height = image.size
    if mode in ("stretch", "aspect"):
        rows = columns = size // patch
        if mode == "aspect":
            ratio = width / height
            columns = min(max(round((rows**2 * ratio) ** 0.5), 1), rows**2)
            rows = min(max(round((rows**2 / ratio) ** 0.5), 1), rows**2)
        return normalised(image.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC))
    anchor = min(width, height) if mode == "crop" else max(width, height)
    shape = tuple(max(1, int(size * side / anchor)) for side in (width, height))
    resized = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in shape)
    if mode == "crop":
        return normalised(resized.crop((left, top, left + size, top + size)))
    canvas = np.zeros((3, size, size))
    canvas[:, -top : -top + shape[1], -left : -left + shape[0]] = normalised(resized)
    return canvas


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_the_plain_twin(mode: Fit, shape: tuple[int, int]) -> None:
    photo = noise_photo(*shape)
    pixels, geometry = preprocess(photo, Preprocessing(mode, 64, 16, MEAN, STD))
    assert pixels.dtype == torch.float32
    assert tuple(pixels.shape[1:]) == geometry.model_size[::-1]
    np.testing.assert_allclose(pixels, plain_twin(photo, mode, 64, 16), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_torchvisions_resize_and_centre_crop(shape: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    steps = [
        transforms.Resize(64, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(64),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    photo = noise_photo(*shape)
    pixels, _ = preprocess(photo, Preprocessing("crop", 64, 16, MEAN, STD))
    torch.testing.assert_close(pixels, transforms.Compose(steps)(photo))


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
def test_a_spot_lands_where_the_geometry_says(mode: Fit) -> None:
    """The map and the pixels agree: a bright square of the photo lights up the patch that `to_grid` names."""
    array = np.zeros((240, 320, 3), np.uint8)
    array[100:120, 180:200] = 255
    settings = Preprocessing(mode, 128, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels, geometry = preprocess(Image.fromarray(array), settings)
    rows, columns = geometry.grid
    light = pixels[0].numpy().reshape(rows, 16, columns, 16).sum((1, 3))
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    centre = [(light * x).sum() / light.sum(), (light * y).sum() / light.sum()]
    ((column, row),) = geometry.to_grid([[190.0, 110.0]])
    assert np.abs(np.array(centre) - [column, row]).max() < 0.5


def test_the_photo_is_left_alone_and_padding_is_the_mean_colour() -> None:
    photo = noise_photo(96, 48)
    before = np.array(photo)
    pixels, _ = preprocess(photo, Preprocessing("pad", 64, 16))
    np.testing.assert_array_equal(np.asarray(photo), before)
    assert bool((pixels[:, :16] == 0).all())
    assert bool((pixels[:, -16:] == 0).all())


def test_a_photo_of_the_right_size_is_not_resampled() -> None:
    photo = noise_photo(64, 64)
    settings = Preprocessing("crop", 64, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels, _ = preprocess(photo, settings)
    np.testing.assert_array_equal((pixels * 255).round().permute(1, 2, 0), np.asarray(photo))
