"""The published integer arithmetic of boxes, for ``rounding="reference"``.

Knows: how the published system maps boxes to model pixels and model pixels to patches (source:
facts about the published Patch-ioner code and its evaluation scripts). Does NOT know weightings,
traces (their counts are in `trace`) or the default, exact coverage (`grid`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.regions.grid import Floats, Footprints, Indices, clip_to_image, span_footprints

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


def reference_box_footprints(boxes: Floats, geometry: ImageGeometry) -> Footprints:
    """The published integer arithmetic for (n, 4) XYXY boxes in original pixels.

    In model pixels x, y, w, h (`reference_model_boxes`), with patch side p: columns
    floor(x / p) .. floor(x / p) + floor(w / p), both ends included and cut at the grid; rows
    likewise; every patch of that rectangle counts the same.

    Kept on purpose, since published numbers contain it: origin and size are floored separately,
    so a box of exactly one patch takes 2 x 2 patches and a small box that touches four patches
    takes one. The default, exact coverage, weighs every patch by what the box covers of it.
    Not kept, since no valid input meets it: the caller's array is not changed, and a box without
    any patch on the grid (NaN there) is an error of the caller.

    Example:
        >>> geometry = fit_image((140, 140), mode="stretch", size=140, patch_size=14)
        >>> footprints = reference_box_footprints(np.array([[0.0, 0.0, 14.0, 14.0]]), geometry)
        >>> int((footprints.cover > 0).sum())
        4
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
    0 .. size - 1 and w and h to 0 .. size - x. That clamp is a published defect, repeated here:
    it moves the origin of a box that the crop cuts without shortening the box, so that the box
    shifts to the right or down, and a box that was cut away whole becomes a sliver (right or
    below) or the border's neighbourhood (left or above). The default cuts boxes where the crop does.

    float32, as published (a tensor of Python floats): what is a whole patch up to double
    precision's noise, such as (2.4 + 14) - 2.4, is a whole patch. A box that sticks out of a
    stretched image is cut, where the published slices wrap around or come out empty. Padding and
    the kept aspect ratio were not published; their boxes go through the geometry's own map.
    """
    if geometry.fit == "crop":
        return _cropped(boxes, geometry).astype(np.float32)
    inside = clip_to_image(boxes, geometry)
    start = inside[:, :2] * geometry.scale + geometry.offset
    length = (inside[:, 2:] - inside[:, :2]) * geometry.scale
    return np.concatenate([start, length], axis=1).astype(np.float32)


def _cropped(boxes: Floats, geometry: ImageGeometry) -> Floats:
    size = float(geometry.model_size[0])
    scale = size / min(geometry.image_size)
    offset = [max(0, (int(side * scale) - int(size)) // 2) for side in geometry.image_size]
    # Cut at a number that no float32 overflows at and that the clamp below ends anyway.
    length = np.minimum((boxes[:, 2:] - boxes[:, :2]) * scale, size)
    start = np.clip(boxes[:, :2] * scale - offset, 0.0, size - 1.0)
    return np.concatenate([start, np.minimum(length, size - start)], axis=1)
