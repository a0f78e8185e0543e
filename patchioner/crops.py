"""The box around a region."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from patchioner.geometry import ImageGeometry
from patchioner.regions import Box, Mask, Polygon, Region

Bounds = tuple[float, float, float, float]


def region_bounds(region: Region, geometry: ImageGeometry) -> Bounds:
    """The box around a region, XYXY float pixels of the original photo.

    Boxes, masks and polygons have their own extent, cut at the photo's edges; other kinds (points, traces, the whole
    image) that of the patches they lie in, so that a line or a point shows something.

    Raises:
        RegionError: the model sees nothing of the region.

    Example:
        >>> region_bounds(Box(-5, 0, 40, 30), geometry)
        (0.0, 0.0, 40.0, 30.0)
    """
    corners = [_shape_bounds(shape, geometry) for shape, _ in region.leaves()]
    lows, highs = np.min(corners, axis=0)[:2], np.max(corners, axis=0)[2:]
    return float(lows[0]), float(lows[1]), float(highs[0]), float(highs[1])


def _shape_bounds(shape: Region, geometry: ImageGeometry) -> Bounds:
    width, height = geometry.image_size
    weights = shape.patch_weights(geometry)  # refuses what is off the view
    match shape:
        case Box():
            corners = np.array([[shape.x1, shape.y1], [shape.x2, shape.y2]])
        case Mask():
            corners = _extent(shape.array)
        case Polygon():
            points = np.concatenate([np.asarray(ring, dtype=np.float64) for ring in shape.rings])
            corners = np.stack([points.min(axis=0), points.max(axis=0)])
        case _:
            corners = geometry.to_pixels(_extent(weights))
    (left, top), (right, bottom) = corners.astype(np.float64).tolist()
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def _extent(cells: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[[left, top], [right, bottom]] of the cells of an (h, w) array that are not zero; the ends are not included."""
    rows, columns = np.nonzero(cells)
    return np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
