"""Masks of any shape, from arrays, run lengths and picture files.

Knows: bool arrays and their exact share in every patch. Does NOT know polygons or weightings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Rounding, Shape
from patchioner.regions.grid import (
    Floats,
    Footprints,
    axis_overlap,
    clip_to_view,
    grid_boxes,
    off_view,
)
from patchioner.regions.rle import decode_rle
from patchioner.regions.values import as_numpy

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry

# Rows that are turned into floats at a time, so that a huge mask needs little extra memory.
_ROW_BLOCK = 512


class Mask(Shape):
    """The pixels where an array is true.

    Args:
        array: (height, width) of the original image: bool, integers (0 is outside), or floats
            that are 0 or 1. A tensor may be on any device. It is copied.

    Attributes:
        array: (height, width) bool, read-only.
        bounds: (x1, y1, x2, y2) pixel edges around the true pixels.

    Raises:
        RegionError: not two-dimensional, not yes-or-no values, or nowhere true.

    Example:
        >>> Mask(np.eye(4, dtype=bool))
        Mask(4x4, 4 pixels)
    """

    __slots__ = ("array", "bounds")

    array: npt.NDArray[np.bool_]
    bounds: tuple[int, int, int, int]

    def __init__(self, array: object) -> None:
        inside = _as_bool(as_numpy(array))
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            size = f"{inside.shape[1]}x{inside.shape[0]}"
            raise RegionError(f"the {size} mask is empty; mark at least one pixel")
        bounds = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        inside.flags.writeable = False
        object.__setattr__(self, "array", inside)
        object.__setattr__(self, "bounds", bounds)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Mask is immutable; make a new one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Mask is immutable; {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[type[Self], tuple[npt.NDArray[np.bool_]]]:
        return type(self), (self.array,)

    def __repr__(self) -> str:
        height, width = self.array.shape
        return f"Mask({width}x{height}, {np.count_nonzero(self.array)} pixels)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.bounds == other.bounds and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        # Cheap on purpose: equal masks have equal bounds, and few unequal ones share them.
        return hash((self.array.shape, self.bounds))

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the image that the mask belongs to."""
        height, width = self.array.shape
        return width, height

    @classmethod
    def from_rle(cls, rle: Mapping[str, object]) -> Self:
        """A mask from COCO's run lengths, ``{"size": [height, width], "counts": list or str}``.

        Raises:
            RegionError: the run lengths are broken or mark no pixel.

        Example:
            >>> Mask.from_rle({"size": [2, 2], "counts": [1, 2, 1]})
            Mask(2x2, 2 pixels)
        """
        return cls(decode_rle(rle))

    @classmethod
    def from_file(cls, path: str | Path, *, label: int | None = None) -> Self:
        """A mask from a picture of the image's size, PNG say; every pixel that is not black counts.

        Args:
            path: a palette picture is read by its indices, a colour one by its channels; where
                a picture has an alpha channel, transparent pixels are outside.
            label: only pixels of exactly this grey value or palette index count.

        Raises:
            RegionError: not a picture, or no pixel counts.
        """
        from PIL import Image

        try:
            with Image.open(path) as picture:
                pixels = _picture_values(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise RegionError(f"mask {str(path)!r} cannot be read as a picture: {error}") from error
        inside = pixels != 0 if label is None else pixels == label
        if not inside.any():
            wanted = "that is not black" if label is None else f"of value {label}"
            raise RegionError(f"mask {str(path)!r} is empty: it has no pixel {wanted}")
        return cls(inside)

    def require_size(self, image_size: tuple[int, int]) -> None:
        """RegionError unless the mask is as large as the image, (width, height)."""
        if self.image_size != tuple(image_size):
            width, height = self.image_size
            raise RegionError(
                f"the mask is {width}x{height} but the image is {image_size[0]}x{image_size[1]} "
                "(width x height); resize the mask to the image, nearest neighbour"
            )

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Exact coverage; the published system has no masks, so both roundings agree."""
        for mask in regions:
            mask.require_size(geometry.image_size)
        columns, rows = _pixel_shares(geometry)
        bounds = np.array([mask.bounds for mask in regions], dtype=np.float64)
        extents = grid_boxes(clip_to_view(bounds, geometry), geometry)
        cover = np.stack([_cover(mask, columns, rows) for mask in regions])
        total = cover.sum(axis=(1, 2), keepdims=True)
        unseen = np.flatnonzero(total[:, 0, 0] <= 0.0)
        if len(unseen):
            raise off_view(regions[unseen[0]], geometry)
        low, high = extents[:, :2], extents[:, 2:]
        return Footprints(cover / total, (low + high) / 2, (high - low) / 2)


def _as_bool(array: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """A fresh (h, w) bool copy."""
    if array.ndim != 2 or 0 in array.shape:
        raise RegionError(f"a mask is a (height, width) array; this one has shape {array.shape}")
    yes_or_no = array.dtype == bool or np.issubdtype(array.dtype, np.integer)
    if np.issubdtype(array.dtype, np.floating):
        yes_or_no = bool(((array == 0) | (array == 1)).all())
    if not yes_or_no:
        raise RegionError(
            f"a mask holds yes or no; this {array.dtype} array holds other values: "
            "compare it with a threshold first, as in scores > 0.5"
        )
    return np.array(array != 0)


def _picture_values(picture: object) -> npt.NDArray[np.generic]:
    """(h, w) values of a PIL image: grey level or index; the brightest channel of a colour one."""
    values = np.asarray(picture)
    if values.ndim == 3:
        mode = str(getattr(picture, "mode", ""))
        colours = values[..., :-1] if mode.endswith("A") else values
        shown = values[..., -1] > 0 if mode.endswith("A") else True
        values = colours.max(axis=-1) * shown
    return values


def _pixel_shares(geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """How much of a cell each pixel column (w, W) and each pixel row (h, H) covers."""
    width, height = geometry.image_size
    longest = np.arange(max(width, height) + 1, dtype=np.float64)
    edges = np.asarray(geometry.to_grid(np.stack([longest, longest], axis=1)), dtype=np.float64)
    x, y = edges[: width + 1, 0], edges[: height + 1, 1]
    columns = axis_overlap(x[:-1], x[1:], geometry.grid[1])
    rows = axis_overlap(y[:-1], y[1:], geometry.grid[0])
    return columns.T, rows.T


def _cover(mask: Mask, columns: Floats, rows: Floats) -> Floats:
    """(h, w) float64 = rows @ mask @ columns^T, over the mask's bounds only."""
    left, top, right, bottom = mask.bounds
    across = np.ascontiguousarray(columns[:, left:right].T)
    cover = np.zeros((len(rows), len(columns)), dtype=np.float64)
    for start in range(top, bottom, _ROW_BLOCK):
        stop = min(start + _ROW_BLOCK, bottom)
        part = mask.array[start:stop, left:right].astype(np.float64)
        cover += rows[:, start:stop] @ (part @ across)
    return cover
