"""Boxes: overlap by hand, merging by hand and against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.metrics.boxes import as_boxes, merge_boxes, pairwise_iou
from patchioner.base.errors import OptionError


def test_iou_by_hand() -> None:
    left = as_boxes([[0, 0, 4, 4], [5, 5, 5, 5]])
    right = as_boxes([[0, 0, 4, 4], [2, 0, 6, 4], [4, 4, 8, 8], [1, 1, 2, 2], [5, 5, 5, 5]])
    expected = [[1, 8 / 24, 0, 1 / 16, 0], [0, 0, 0, 0, 0]]
    assert pairwise_iou(left, right) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1]], r"shape \(1, 3\)"),
        ([0, 0, 1, 1], "shape"),
        ([[0, 0, 1, 1], [0, 0, math.nan, 1]], r"boxes\[1\]"),
        ([[2, 0, 1, 1]], "x1 <= x2"),
    ],
)
def test_bad_boxes(boxes: list[object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        as_boxes(boxes)


def test_the_box_with_most_neighbours_goes_first() -> None:
    """B overlaps A and C (IoU 0.8 each), A and C overlap less (8/12 < 0.7): all three become one, seeded by B."""
    boxes = as_boxes([[0, 0, 10, 1], [1, 0, 11, 1], [2, 0, 12, 1], [50, 0, 60, 1]])
    merged, texts = merge_boxes(boxes, [["a"], ["b"], ["c"], ["d"]])
    assert merged.tolist() == [[1, 0, 11, 1], [50, 0, 60, 1]]
    assert texts == [["a", "b", "c"], ["d"]]


def test_equal_counts_take_the_first_and_duplicates_merge() -> None:
    boxes = as_boxes([[0, 0, 2, 2], [9, 9, 11, 11], [0, 0, 2, 2], [9, 9, 11, 11]])
    merged, texts = merge_boxes(boxes, [["a"], ["b"], ["c", "d"], ["e"]])
    assert merged.tolist() == [[0, 0, 2, 2], [9, 9, 11, 11]]
    assert texts == [["a", "c", "d"], ["b", "e"]]


def test_empty_boxes_end_too() -> None:
    merged, texts = merge_boxes(as_boxes([[1, 1, 1, 1], [1, 1, 1, 1]]), [["a"], ["b"]])
    assert len(merged) == len(texts) == 2
    assert merge_boxes(as_boxes([]), [])[0].shape == (0, 4)


def test_plain_twin() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        corners = draw.integers(0, 3, (12, 2))
        boxes = as_boxes(np.hstack([corners, corners + draw.integers(8, 10, (12, 2))]))
        texts = [[str(i)] for i in range(12)]
        merged, groups = merge_boxes(boxes, texts)
        expected = _plain(boxes.tolist())
        assert groups == [[str(i) for i in group] for group in expected]
        assert merged == pytest.approx(np.array([boxes[group].mean(axis=0) for group in expected]))


def _plain(boxes: list[list[float]]) -> list[list[int]]:
    def iou(a: list[float], b: list[float]) -> float:
        wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return wide * high / (sum(areas) - wide * high)

    left = list(range(len(boxes)))
    groups = []
    while left:
        near = {i: [j for j in left if iou(boxes[i], boxes[j]) >= 0.7] for i in left}
        seed = left[0]
        for i in left:
            if len(near[i]) > len(near[seed]):
                seed = i
        groups.append(near[seed])
        left = [j for j in left if j not in near[seed]]
    return groups
