"""Regions without an outline of their own: a point, one patch, the whole image.

Does NOT know weightings, files or other kinds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Rounding, Shape
from patchioner.regions.grid import (
    Floats,
    Footprints,
    box_footprints,
    cell_under,
    clip_to_view,
    grid_boxes,
    in_view,
    off_view,
    one_hot,
    span_footprints,
    view,
)
from patchioner.regions.values import finite

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


@dataclass(frozen=True)
class Point(Shape):
    """The patch under one place.

    Args:
        x, y: float pixels of the original image; (0, 0) is the top left corner of the first
            pixel, and a point on the far edge belongs to the last patch.

    Raises:
        RegionError: a coordinate is not a finite number.

    Example:
        >>> Point(120.5, 64)
        Point(x=120.5, y=64.0)
    """

    x: float
    y: float

    def __post_init__(self) -> None:
        """Refuse what is no finite number, before it can turn into a NaN."""
        object.__setattr__(self, "x", finite(self.x, "x of the point"))
        object.__setattr__(self, "y", finite(self.y, "y of the point"))

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """One-hot at the patch under each point."""
        places = np.array([(point.x, point.y) for point in regions], dtype=np.float64)
        outside = np.flatnonzero(~in_view(places, geometry))
        if len(outside):
            raise off_view(regions[outside[0]], geometry)
        grid = np.asarray(geometry.to_grid(places), dtype=np.float64)
        columns = cell_under(grid[:, 0], geometry.grid[1])
        rows = cell_under(grid[:, 1], geometry.grid[0])
        return Footprints(one_hot(columns, rows, geometry.grid), grid, np.zeros_like(grid))


@dataclass(frozen=True)
class Patch(Shape):
    """One patch by its place in the grid, counted from 0 at the top left.

    Args:
        row, col: integers.

    Raises:
        RegionError: not an integer, or negative.

    Example:
        >>> Patch(row=0, col=3)
        Patch(row=0, col=3)
    """

    row: int
    col: int

    def __post_init__(self) -> None:
        """Take integers of any library, refuse floats and negative places."""
        for name in ("row", "col"):
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                raise RegionError(f"{name} of the patch is {value!r}; give an integer") from None
            if number < 0:
                raise RegionError(f"{name} of the patch is {number}; patches count from 0")
            object.__setattr__(self, name, number)

    @classmethod
    def all(cls, geometry: ImageGeometry) -> list[Self]:
        """Every patch of the grid that shows some of the image, row by row.

        Example:
            >>> captions = model.caption(features, Patch.all(features.geometry))
        """
        shown = np.argwhere(_shown(geometry))
        return [cls(int(row), int(col)) for row, col in shown]

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """One-hot at each patch; RegionError outside the grid or where only padding shows."""
        height, width = geometry.grid
        for patch in regions:
            if patch.row >= height or patch.col >= width:
                raise RegionError(
                    f"{patch!r} is outside the grid of {height} rows and {width} columns; "
                    f"give row 0 to {height - 1} and col 0 to {width - 1}"
                )
        rows = np.array([patch.row for patch in regions], dtype=np.int64)
        columns = np.array([patch.col for patch in regions], dtype=np.int64)
        padding = np.flatnonzero(~_shown(geometry)[rows, columns])
        if len(padding):
            patch = regions[padding[0]]
            raise RegionError(f"{patch!r} shows only padding; Patch.all(geometry) lists the rest")
        centre = np.stack([columns, rows], axis=1) + 0.5
        return Footprints(one_hot(columns, rows, geometry.grid), centre, np.zeros_like(centre))


@dataclass(frozen=True)
class WholeImage(Shape):
    """Everything of the image that the model sees; padding counts for nothing.

    Example:
        >>> model.caption("photo.jpg", [WholeImage()])
    """

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """The visible part as a box; ``reference`` counts every patch that shows image alike."""
        if rounding == "reference":
            rows, columns = np.nonzero(_shown(geometry))
            spans = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]])
            one = span_footprints(spans, geometry.grid)
        else:
            one = box_footprints(_view_box(geometry), geometry)
        count = len(regions)
        return Footprints(*(np.repeat(a, count, axis=0) for a in (one.cover, one.centre, one.half)))


def _view_box(geometry: ImageGeometry) -> Floats:
    return clip_to_view(np.array([view(geometry)], dtype=np.float64), geometry)


def _shown(geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """(h, w) bool: which patches show more of the image than rounding noise."""
    left, top, right, bottom = grid_boxes(_view_box(geometry), geometry)[0]
    rows, columns = np.arange(geometry.grid[0]), np.arange(geometry.grid[1])
    noise = 1e-9
    shown_columns = (columns + 1 > left + noise) & (columns < right - noise)
    shown_rows = (rows + 1 > top + noise) & (rows < bottom - noise)
    shown: npt.NDArray[np.bool_] = shown_rows[:, None] & shown_columns[None, :]
    return shown
