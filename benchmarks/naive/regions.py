"""Boxes to vectors as published: a loop over boxes, whole patches.

Knows: boxes of a stretched image. Does NOT know other regions or weightings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.naive.image import NaiveFeatures
from patchioner.regions import Box


def pool_boxes(features: NaiveFeatures, boxes: Sequence[Box]) -> Tensor:
    """The mean token of each box's patches, (n, dim) float32.

    With patch side p, origin and size of a box in model pixels are divided by p and floored separately; columns
    x .. x + w and rows y .. y + h count, both ends included.

    Args:
        features: of an image that was stretched to the input size.
        boxes: inside the image, in its own pixels.

    Example:
        >>> pool_boxes(features, [Box(10, 20, 200, 220)]).shape  # doctest: +SKIP
        torch.Size([1, 768])
    """
    across, down = features.geometry.scale
    patch = features.geometry.patch_size
    pooled = []
    for box in boxes:
        scaled = [
            box.x1 * across,
            box.y1 * down,
            (box.x2 - box.x1) * across,
            (box.y2 - box.y1) * down,
        ]
        x, y, width, height = torch.tensor(scaled, dtype=torch.float32).div(patch).floor().int()
        inside = features.tokens[y : y + height + 1, x : x + width + 1]
        share = torch.full(inside.shape[:2], 1 / (inside.shape[0] * inside.shape[1]))
        pooled.append((inside * share[..., None]).sum(dim=(0, 1)))
    return torch.stack(pooled)
