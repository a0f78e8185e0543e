"""How pixels of a photo map to the patch grid of a backbone, and back, for each way of fitting it in; numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError
from patchioner.base.files import check

Fit = Literal["stretch", "crop", "pad", "aspect"]
MOST_SIZE = 16384  # longest side of a network's input
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageGeometry:
    """The affine map between the pixels of one photo and its patch grid.

    ``model pixel = original pixel * scale + offset`` for each axis; a patch is ``patch_size`` model pixels wide.
    Sizes are (width, height), `scale` and `offset` (x, y), `grid` is (rows, columns).

    Example:
        >>> geometry = fit_image((640, 480), mode="stretch", size=518, patch_size=14)
        >>> geometry.grid, geometry.to_grid(np.array([[320.0, 240.0]])).tolist()
        ((37, 37), [[18.5, 18.5]])
    """

    image_size: tuple[int, int]  # (width, height) of the original photo, in pixels
    grid: tuple[int, int]  # (rows, columns) of patches
    patch_size: int  # side of a patch in model pixels
    scale: tuple[float, float]  # (x, y) model pixels per original pixel
    offset: tuple[
        float, float
    ]  # (x, y) model pixels added after scaling: below 0 where a crop cuts, above where padded
    fit: Fit | None = None  # which of the fits made it; only the published arithmetic asks for it

    @property
    def model_size(self) -> tuple[int, int]:
        """(width, height) of the backbone's input in model pixels."""
        return self.grid[1] * self.patch_size, self.grid[0] * self.patch_size

    def to_grid(self, points: npt.ArrayLike) -> FloatArray:
        """Original pixels (n, 2) as (x, y) -> (column, row) in patch units; 0..columns, 0..rows is on the grid."""
        return (np.asarray(points, dtype=np.float64) * self.scale + self.offset) / self.patch_size

    def to_pixels(self, grid_points: npt.ArrayLike) -> FloatArray:
        """(column, row) in patch units (n, 2) -> original pixels (x, y); the inverse of `to_grid`."""
        return (np.asarray(grid_points, dtype=np.float64) * self.patch_size - self.offset) / self.scale

    def cell_boxes(self) -> FloatArray:
        """XYXY boxes of all patches in original pixels, (rows * columns, 4), row-major."""
        rows, columns = np.divmod(np.arange(self.grid[0] * self.grid[1]), self.grid[1])
        corners = np.stack([columns, rows], axis=1)
        return np.concatenate([self.to_pixels(corners), self.to_pixels(corners + 1)], axis=1)

    @property
    def visible(self) -> tuple[float, float, float, float]:
        """The XYXY box of the original photo, in pixels, that the grid sees."""
        corners = np.array([[0.0, 0.0], [self.grid[1], self.grid[0]]])
        (x1, y1), (x2, y2) = self.to_pixels(corners).tolist()
        width, height = self.image_size
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its input: fit, size, normalisation. A value; part of a checkpoint.

    Attributes:
        mode: ``stretch`` to a square (the published setting of Patch-ioner); ``crop``: short side to `size`, then
            the central square; ``pad``: long side to `size`, padded to a square with the mean colour; ``aspect``:
            as many patches as the square would have, laid out in the photo's aspect ratio.
        size: side of the square in model pixels, a multiple of `patch_size`.
        patch_size: side of a patch in model pixels.
        mean, std: channel statistics, RGB, for values in 0..1.

    Raises:
        OptionError: an unknown mode, a size that is no multiple of the patch size, impossible statistics.
    """

    mode: Fit = "aspect"
    size: int = 518
    patch_size: int = 14
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check(get_args(Fit), mode=self.mode)
        if self.size > MOST_SIZE:
            raise OptionError(f"input size {self.size} is over {MOST_SIZE}: no photo is so large")
        if self.patch_size < 1 or self.size < self.patch_size or self.size % self.patch_size:
            lower = max(self.patch_size, self.size - self.size % max(self.patch_size, 1))
            near = f"{lower} or {lower + self.patch_size}"
            raise OptionError(f"size {self.size} is no positive multiple of patch size {self.patch_size}: try {near}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise OptionError(f"{name} is {values}: give three finite numbers, for R, G and B")
        if min(self.std) <= 0:
            raise OptionError(f"std is {self.std}: it divides the pixels and must be positive")

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The map for a photo of (width, height) pixels."""
        return fit_image(image_size, mode=self.mode, size=self.size, patch_size=self.patch_size)


def fit_image(image_size: tuple[int, int], *, mode: Fit, size: int, patch_size: int) -> ImageGeometry:
    """The affine map that fits a photo of (width, height) pixels into a backbone's input; see `Preprocessing`."""
    width, height = image_size
    side = size // patch_size
    if mode == "aspect":
        rows, columns = aspect_grid(width / height, side * side)
        scale = (columns * patch_size / width, rows * patch_size / height)
        return ImageGeometry(image_size, (rows, columns), patch_size, scale, (0.0, 0.0), mode)
    resized = resized_size(image_size, mode, size)
    scale = (resized[0] / width, resized[1] / height)
    # Half pixels are rounded to even, as torchvision's centre crop does.
    offset = (float(-round((resized[0] - size) / 2)), float(-round((resized[1] - size) / 2)))
    return ImageGeometry(image_size, (side, side), patch_size, scale, offset, mode)


def resized_size(image_size: tuple[int, int], mode: Fit, size: int) -> tuple[int, int]:
    """(width, height) of the whole photo after resizing, before a crop or padding."""
    width, height = image_size
    if mode == "stretch":
        return size, size
    anchor = min(width, height) if mode == "crop" else max(width, height)
    return max(1, int(size * width / anchor)), max(1, int(size * height / anchor))


def aspect_grid(aspect: float, patches: int) -> tuple[int, int]:
    """(rows, columns) with about `patches` cells and columns / rows near `aspect` (width / height)."""
    columns = max(1, min(patches, round(math.sqrt(patches * aspect))))
    rows = max(1, min(patches, round(math.sqrt(patches / aspect))))
    return rows, columns
