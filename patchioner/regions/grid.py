"""Arithmetic between pixel intervals and patch cells, vectorised over any number of boxes.

Knows: how intervals overlap cells, how a box is clipped to what the model sees. Does NOT know
region kinds, weightings or images, nor the published integer arithmetic (`reference`).

Coordinates: "pixels" are pixels of the ORIGINAL image (x right, y down, pixel j spans
[j, j + 1]); "grid" coordinates are (column, row) in patch units, cell k spans [k, k + 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]

# Grid coordinates are products of a few floats: what is nearer than this is the same place.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Footprints:
    """Where ``n`` regions lie on one patch grid.

    Attributes:
        cover: (n, h, w) float, non-negative, every map sums to 1.
        centre: (n, 2) float, (column, row) of the middle of each region's extent, grid units.
        half: (n, 2) float, half of the extent's (width, height), grid units; may be 0.
    """

    cover: Floats
    centre: Floats
    half: Floats


def axis_overlap(low: Floats, high: Floats, cells: int) -> Floats:
    """Length of each interval inside each unit cell: (n,), (n,) -> (n, cells) float64."""
    left = np.arange(cells, dtype=np.float64)
    inside = np.minimum(high[:, None], left + 1.0) - np.maximum(low[:, None], left)
    overlap: Floats = np.maximum(inside, 0.0)
    return overlap


def cell_under(positions: Floats, cells: int) -> Indices:
    """Index of the cell under each grid coordinate; the far edge belongs to the last cell."""
    # Clipped before the cast: a float beyond int64 would wrap around.
    return np.clip(np.floor(positions), 0, cells - 1).astype(np.int64)


def one_hot(columns: Indices, rows: Indices, grid: tuple[int, int]) -> Floats:
    """(n, h, w) float32 maps with a single 1 each."""
    cover = np.zeros((len(columns), *grid), dtype=np.float32)
    cover[np.arange(len(columns)), rows, columns] = 1.0
    return cover


def view(geometry: ImageGeometry) -> tuple[float, float, float, float]:
    """XYXY pixels of the part of the original image that the grid sees."""
    width, height = geometry.image_size
    x1, y1, x2, y2 = (float(edge) for edge in geometry.visible)
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def clip_to_view(boxes: Floats, geometry: ImageGeometry) -> Floats:
    """Cut (n, 4) XYXY pixel boxes to the view; a box outside comes back empty or inverted."""
    x1, y1, x2, y2 = view(geometry)
    low = np.maximum(boxes[:, :2], (x1, y1))
    return np.concatenate([low, np.minimum(boxes[:, 2:], (x2, y2))], axis=1)


def clip_to_image(boxes: Floats, geometry: ImageGeometry) -> Floats:
    """Cut (n, 4) XYXY pixel boxes to the original image; one outside comes back empty or inverted."""
    low = np.maximum(boxes[:, :2], 0.0)
    return np.concatenate([low, np.minimum(boxes[:, 2:], geometry.image_size)], axis=1)


def in_view(points: Floats, geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """Which of the (n, 2) pixel points the grid sees; edges count as inside."""
    x1, y1, x2, y2 = view(geometry)
    x, y = points[:, 0], points[:, 1]
    inside: npt.NDArray[np.bool_] = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    return inside


def grid_boxes(boxes: Floats, geometry: ImageGeometry) -> Floats:
    """(n, 4) XYXY pixels -> (n, 4) float64 (column1, row1, column2, row2)."""
    return np.asarray(geometry.to_grid(boxes.reshape(-1, 2)), dtype=np.float64).reshape(-1, 4)


def _axis_shares(low: Floats, high: Floats, cells: int) -> Floats:
    """Each interval's share per cell, summing to 1; one thinner than a float step is a point."""
    overlap = axis_overlap(low, high, cells)
    total = overlap.sum(axis=1)
    collapsed = np.flatnonzero(total <= 0.0)
    overlap[collapsed, cell_under((low + high)[collapsed] / 2.0, cells)] = 1.0
    total[collapsed] = 1.0
    shares: Floats = overlap / total[:, None]
    return shares


def box_footprints(boxes: Floats, geometry: ImageGeometry) -> Footprints:
    """Exact coverage of (n, 4) XYXY pixel boxes that were clipped to the view before.

    The overlap of a box with a cell is the product of two interval overlaps, so ``n`` boxes
    cost one outer product.
    """
    height, width = geometry.grid
    corners = grid_boxes(boxes, geometry)
    columns = _axis_shares(corners[:, 0], corners[:, 2], width).astype(np.float32)
    rows = _axis_shares(corners[:, 1], corners[:, 3], height).astype(np.float32)
    low, high = corners[:, :2], corners[:, 2:]
    return Footprints(rows[:, :, None] * columns[:, None, :], (low + high) / 2, (high - low) / 2)


def span_footprints(spans: Indices, grid: tuple[int, int]) -> Footprints:
    """Uniform rectangles of whole cells: (n, 4) first column, first row, last column, last row.

    The extent runs from the first to the last cell CENTRE, so that a Gaussian over it sees
    linspace(-1, 1) over the span, as published.
    """
    left, top, right, bottom = spans.T
    column, row = np.arange(grid[1]), np.arange(grid[0])
    columns = (column >= left[:, None]) & (column <= right[:, None])
    rows = (row >= top[:, None]) & (row <= bottom[:, None])
    cover = (rows[:, :, None] & columns[:, None, :]).astype(np.float32)
    cover /= cover.sum(axis=(1, 2), keepdims=True)
    centre = np.stack([left + right + 1, top + bottom + 1], axis=1) / 2.0
    return Footprints(cover, centre, np.stack([right - left, bottom - top], axis=1) / 2.0)


def footprint_spans(footprints: Footprints) -> Indices:
    """First column, first row, last column, last row (n, 4) that `span_footprints` was given."""
    low = footprints.centre - footprints.half - 0.5
    high = footprints.centre + footprints.half - 0.5
    spans: Indices = np.rint(np.concatenate([low, high], axis=1)).astype(np.int64)
    return spans


def off_view(region: object, geometry: ImageGeometry) -> RegionError:
    """The error for a region that the model does not see at all."""
    width, height = geometry.image_size
    x1, y1, x2, y2 = view(geometry)
    message = (
        f"{region!r} lies outside what the model sees of the {width}x{height} image "
        f"(x {x1:g} to {x2:g}, y {y1:g} to {y2:g}); give pixels of the original image"
    )
    if (x2 - x1, y2 - y1) != (width, height):
        message += ", or choose a preprocessing that keeps the whole image (stretch, pad or aspect)"
    return RegionError(message)
