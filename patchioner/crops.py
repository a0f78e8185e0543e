"""Cutting regions out of a photo, for models that look at each region alone.

Knows: photos, regions and where they lie. Does not know: networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from patchioner.geometry import ImageGeometry
from patchioner.regions import Box, Region

Bounds = tuple[float, float, float, float]


def region_bounds(region: Region, geometry: ImageGeometry) -> Bounds:
    """The box around a region, XYXY float pixels of the original photo.

    A box keeps its own corners, cut at the photo's edges. Of other kinds it is the extent of what the model sees; what
    has no extent (a point, a trace along one line) gets that of the patches it lies in.

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
    shape.patch_weights(geometry)  # refuses what is off the view
    if isinstance(shape, Box):
        left, top, right, bottom = shape.x1, shape.y1, shape.x2, shape.y2
    else:
        rows, columns = np.nonzero(shape.patch_weights(geometry))
        cells = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
        (left, top), (right, bottom) = geometry.to_pixels(cells).tolist()
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def cut_out(image: Image.Image, bounds: Sequence[float]) -> Image.Image:
    """The pixels that a box (XYXY, float) touches, at least one in each direction."""
    left, top = math.floor(bounds[0]), math.floor(bounds[1])
    right, bottom = max(left + 1, math.ceil(bounds[2])), max(top + 1, math.ceil(bounds[3]))
    return image.crop((left, top, min(right, image.width), min(bottom, image.height)))
