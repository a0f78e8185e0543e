"""A photo -> the normalised input tensor of a backbone, and the geometry that undoes it for regions.

Knows: resampling, padding, normalisation. Does not know: networks or regions. The arithmetic of the map itself
lives in `patchioner.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchioner.geometry import ImageGeometry, Preprocessing, resized_size
from patchioner.reduced_photos import Photo, ReducedPhoto


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """A photo as one backbone wants it, so that other threads can prepare what the network is to see next.

    Attributes:
        pixels: (3, H, W) float32, of `preprocess`.
        geometry: the map between the photo's pixels and the grid.
    """

    pixels: Tensor
    geometry: ImageGeometry

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the original photo."""
        return self.geometry.image_size


Encodable = Photo | PreparedPhoto
"""What a backbone encodes; a `PreparedPhoto` must come from that same backbone."""


def preprocess(image: Photo, settings: Preprocessing) -> tuple[Tensor, ImageGeometry]:
    """Fit an RGB image into the backbone's input.

    Args:
        image: upright RGB (see `patchioner.images.load_image`), or one decoded at reduced scale, whose geometry is
            that of the original.
        settings: the backbone's preprocessing.

    Returns:
        pixels (3, H, W) float32, normalised, H and W multiples of the patch size; and the geometry.
        Resampling is Pillow's bicubic with antialiasing. Padding is 0, the mean colour.
    """
    geometry = settings.geometry(image.size)
    width, height = geometry.model_size
    whole = (
        (width, height)
        if settings.mode == "aspect"
        else resized_size(image.size, settings.mode, settings.size)
    )
    resized = _resize(image, whole)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32) / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    normalised = (pixels - mean) / std
    left, top = (round(value) for value in geometry.offset)
    if (left, top) == (0, 0) and whole == (width, height):
        return normalised.contiguous(), geometry
    canvas = torch.zeros(3, height, width)
    target_x, target_y = max(left, 0), max(top, 0)
    source = normalised[
        :, max(-top, 0) : max(-top, 0) + height, max(-left, 0) : max(-left, 0) + width
    ]
    canvas[:, target_y : target_y + source.shape[1], target_x : target_x + source.shape[2]] = source
    return canvas, geometry


def _resize(photo: Photo, size: tuple[int, int]) -> Image.Image:
    if isinstance(photo, ReducedPhoto):
        return photo.image.resize(size, Image.Resampling.BICUBIC, box=photo.box)
    return photo if photo.size == size else photo.resize(size, Image.Resampling.BICUBIC)
