"""Arithmetic between pixel intervals and patch cells, vectorised over any number of boxes.

"Pixels" are pixels of the ORIGINAL image (x right, y down, pixel j spans [j, j + 1]); "grid"
coordinates are (column, row) in patch units, cell k spans [k, k + 1].
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

    @classmethod
    def of(cls, cover: Floats, extents: Floats) -> Footprints:
        """From (n, 4) extents: column1, row1, column2, row2 in grid units."""
        low, high = extents[:, :2], extents[:, 2:]
        return cls(cover, (low + high) / 2, (high - low) / 2)


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


def clip_boxes(boxes: Floats, limits: tuple[float, float, float, float]) -> Floats:
    """Cut (n, 4) XYXY boxes to one box; a box outside of it comes back empty or inverted."""
    low = np.maximum(boxes[:, :2], limits[:2])
    return np.concatenate([low, np.minimum(boxes[:, 2:], limits[2:])], axis=1)


def image_box(geometry: ImageGeometry) -> tuple[float, float, float, float]:
    """XYXY pixels of the whole original image."""
    width, height = geometry.image_size
    return 0.0, 0.0, float(width), float(height)


def in_view(points: Floats, geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """Which of the (n, 2) pixel points the grid sees; edges count as inside."""
    x1, y1, x2, y2 = geometry.visible
    x, y = points[:, 0], points[:, 1]
    inside: npt.NDArray[np.bool_] = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    return inside


def grid_boxes(boxes: Floats, geometry: ImageGeometry) -> Floats:
    """(n, 4) XYXY pixels -> (n, 4) float64 (column1, row1, column2, row2)."""
    return np.asarray(geometry.to_grid(boxes.reshape(-1, 2)), dtype=np.float64).reshape(-1, 4)


def shown_patches(geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """(h, w) bool: which patches show more of the image than rounding noise."""
    left, top, right, bottom = grid_boxes(np.array([geometry.visible]), geometry)[0]
    rows, columns = np.arange(geometry.grid[0]), np.arange(geometry.grid[1])
    noise = 1e-9
    shown_columns = (columns + 1 > left + noise) & (columns < right - noise)
    shown_rows = (rows + 1 > top + noise) & (rows < bottom - noise)
    shown: npt.NDArray[np.bool_] = shown_rows[:, None] & shown_columns[None, :]
    return shown


def box_footprints(boxes: Floats, geometry: ImageGeometry) -> Footprints:
    """Exact coverage of (n, 4) XYXY pixel boxes that were clipped to the view before.

    The overlap of a box with a cell is the product of two interval overlaps, so ``n`` boxes
    cost one outer product.
    """
    height, width = geometry.grid
    corners = grid_boxes(boxes, geometry)
    columns = _axis_shares(corners[:, 0], corners[:, 2], width).astype(np.float32)
    rows = _axis_shares(corners[:, 1], corners[:, 3], height).astype(np.float32)
    return Footprints.of(rows[:, :, None] * columns[:, None, :], corners)


def _axis_shares(low: Floats, high: Floats, cells: int) -> Floats:
    """Each interval's share per cell, summing to 1; one thinner than a float step is a point."""
    overlap = axis_overlap(low, high, cells)
    total = overlap.sum(axis=1)
    collapsed = np.flatnonzero(total <= 0.0)
    overlap[collapsed, cell_under((low + high)[collapsed] / 2.0, cells)] = 1.0
    total[collapsed] = 1.0
    shares: Floats = overlap / total[:, None]
    return shares


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
    return Footprints.of(cover, spans + 0.5)


def footprint_spans(footprints: Footprints) -> Indices:
    """First column, first row, last column, last row (n, 4) that `span_footprints` was given."""
    low = footprints.centre - footprints.half - 0.5
    high = footprints.centre + footprints.half - 0.5
    spans: Indices = np.rint(np.concatenate([low, high], axis=1)).astype(np.int64)
    return spans


def off_view(region: object, geometry: ImageGeometry) -> RegionError:
    """The error for a region that the model does not see at all."""
    width, height = geometry.image_size
    x1, y1, x2, y2 = geometry.visible
    message = (
        f"{region!r} lies outside what the model sees of the {width}x{height} image "
        f"(x {x1:g} to {x2:g}, y {y1:g} to {y2:g}); give pixels of the original image"
    )
    if (x2 - x1, y2 - y1) != (width, height):
        message += ", or choose a preprocessing that keeps the whole image (stretch, pad or aspect)"
    return RegionError(message)


def reference_box_footprints(boxes: Floats, geometry: ImageGeometry) -> Footprints:
    """The published integer arithmetic for (n, 4) XYXY boxes in original pixels.

    In model pixels x, y, w, h (`reference_model_boxes`), with patch side p: columns
    floor(x / p) .. floor(x / p) + floor(w / p), both ends included and cut at the grid; rows
    likewise; every patch of that rectangle counts the same (source: facts about the published
    Patch-ioner code). So a box of exactly one patch takes 2 x 2 patches, and a small box that
    touches four takes one. Not kept: a box off the grid, NaN there, is the caller's error.
    """
    model = reference_model_boxes(boxes, geometry)
    cells = np.floor_divide(model, np.float32(geometry.patch_size)).astype(np.int64)
    last = np.array([geometry.grid[1], geometry.grid[0]]) - 1
    first: Indices = np.clip(cells[:, :2], 0, last)
    end = np.minimum(first + cells[:, 2:], last)
    return span_footprints(np.concatenate([first, end], axis=1), geometry.grid)


def reference_model_boxes(boxes: Floats, geometry: ImageGeometry) -> npt.NDArray[np.float32]:
    """(n, 4) XYXY original pixels -> (n, 4) float32 x, y, width, height in model pixels.

    Stretch: x and w times target / width, y and h times target / height. Crop: all times
    size / short side, then minus max(0, (int(scaled side) - size) // 2), then x and y clamped to
    0 .. size - 1 and w and h to 0 .. size - x: a published defect, repeated here, that moves the
    origin of a box that the crop cuts without shortening it. float32, as published, so that
    (2.4 + 14) - 2.4 is a whole patch of 14. Not kept: what sticks out of a stretched image is cut.
    Padding and the kept aspect ratio were not published; they go through the geometry's own map.
    """
    if geometry.fit == "crop":
        size = float(geometry.model_size[0])
        scale = size / min(geometry.image_size)
        offset = [max(0, (int(side * scale) - int(size)) // 2) for side in geometry.image_size]
        # Cut at a number that no float32 overflows at and that the clamp below ends anyway.
        length = np.minimum((boxes[:, 2:] - boxes[:, :2]) * scale, size)
        start = np.clip(boxes[:, :2] * scale - offset, 0.0, size - 1.0)
        length = np.minimum(length, size - start)
    else:
        inside = clip_boxes(boxes, image_box(geometry))
        start = inside[:, :2] * geometry.scale + geometry.offset
        length = (inside[:, 2:] - inside[:, :2]) * geometry.scale
    return np.concatenate([start, length], axis=1).astype(np.float32)
