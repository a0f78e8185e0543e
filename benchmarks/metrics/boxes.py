"""Boxes as arrays: intersection over union, and the greedy merging of nearly equal ones.

Knows: XYXY pixels, continuous (a box from 0 to 2 is 2 wide). Does NOT know: captions or scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]


def as_boxes(boxes: ArrayLike, what: str = "boxes") -> Floats:
    """Return `boxes` as a float64 array (n, 4) of XYXY, checked.

    Raises:
        OptionError: another shape, a number that is not finite, or a corner order other than XYXY.

    Example:
        >>> as_boxes([]).shape
        (0, 4)
    """
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.size == 0:
        return np.zeros((0, 4))
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise OptionError(f"{what} have shape {rows.shape}: give (n, 4), x1 y1 x2 y2 a row")
    bad = ~np.isfinite(rows).all(axis=1) | (rows[:, 2] < rows[:, 0]) | (rows[:, 3] < rows[:, 1])
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise OptionError(
            f"{what}[{index}] is {rows[index].tolist()}: give finite x1 y1 x2 y2 with x1 <= x2 and y1 <= y2"
        )
    return rows


def pairwise_iou(left: Floats, right: Floats) -> Floats:
    """Intersection over union of every pair, (n, 4) and (m, 4) XYXY -> (n, m); 0 where both areas are 0.

    Example:
        >>> pairwise_iou(np.array([[0., 0, 2, 2]]), np.array([[1., 0, 3, 2]])).round(3).tolist()
        [[0.333]]
    """
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = [(side[:, 2] - side[:, 0]) * (side[:, 3] - side[:, 1]) for side in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def merge_boxes(
    boxes: Floats, captions: Sequence[Sequence[str]], *, iou: float = 0.7
) -> tuple[Floats, list[list[str]]]:
    """Merge nearly equal boxes, as the dense-captioning evaluation does with its ground truths.

    Again and again: the box that overlaps most of those left (of equals the first) takes all that overlap it at `iou`
    or more with it; their coordinates are averaged, each input box weighing the same, and their captions pooled in
    input order.

    Args:
        boxes: (n, 4) XYXY.
        captions: n lists of captions.
        iou: overlap from which two boxes are one.

    Returns:
        The m merged boxes, (m, 4), in the order in which they were taken, and their m lists of captions.

    Example:
        >>> merged, texts = merge_boxes(np.array([[0., 0, 10, 10], [0, 0, 10, 9]]), [["a"], ["b"]])
        >>> merged.tolist(), texts
        ([[0.0, 0.0, 10.0, 9.5]], [['a', 'b']])
    """
    close = pairwise_iou(boxes, boxes) >= iou
    np.fill_diagonal(close, True)  # a box without area overlaps itself too, or it would never go
    left = np.ones(len(boxes), dtype=bool)
    merged: list[Floats] = []
    texts: list[list[str]] = []
    while left.any():
        counts = np.where(left, (close & left).sum(axis=1), -1)
        group = np.flatnonzero(close[int(counts.argmax())] & left).tolist()
        merged.append(boxes[group].mean(axis=0))
        texts.append([text for index in group for text in captions[index]])
        left[group] = False
    return np.array(merged).reshape(-1, 4), texts
