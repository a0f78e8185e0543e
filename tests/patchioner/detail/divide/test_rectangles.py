"""Rectangles: overlaps by hand, and merging that ends with no pair left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import RegionError
from patchioner.detail.divide.rectangles import (
    area,
    bounding_union,
    clipped,
    iou,
    merge_overlapping,
    share_inside,
)

corners = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])))


def test_overlaps_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0
    assert share_inside((0, 0, 4, 1), (3, 0, 9, 9)) == 0.25
    assert area((3, 3, 2, 9)) == 0.0
    assert share_inside((1, 1, 1, 1), (0, 0, 9, 9)) == iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0.0


@given(st.lists(boxes, min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_merging_leaves_no_pair_above_the_limit_and_loses_nothing(
    found: list[tuple[float, float, float, float]], limit: float
) -> None:
    given_boxes = list(found)
    merged = merge_overlapping(found, limit)
    assert found == given_boxes
    assert all(iou(one, two) <= limit for place, one in enumerate(merged) for two in merged[:place])
    assert all(any(bounding_union([one, box]) == one for one in merged) for box in found)
    assert bounding_union(merged) == bounding_union(found)


def test_merging_looks_at_a_union_again() -> None:
    """The first two make a box that overlaps the third, which neither of them did enough."""
    found: list[tuple[float, float, float, float]] = [(0, 0, 10, 4), (0, 0, 10, 10), (0, 3, 10, 13)]
    assert iou(found[0], found[2]) < 0.3 < iou(found[1], found[2])
    assert merge_overlapping(found, 0.3) == [(0, 0, 10, 13)]


def test_merging_takes_the_closest_pair_first() -> None:
    chain: list[tuple[float, float, float, float]] = [
        (0, 0, 10, 10),
        (4, 0, 14, 10),
        (5, 0, 15, 10),
    ]
    assert merge_overlapping(chain, 0.5) == [(0, 0, 10, 10), (4, 0, 15, 10)]


@pytest.mark.parametrize(
    "box", [(math.nan, 0, 1, 1), (9, 9, 9, 12), (50, 0, 60, 9), (0, 0, math.inf, 1)]
)
def test_a_box_with_nothing_in_the_photo_is_refused(
    box: tuple[float, float, float, float],
) -> None:
    with pytest.raises(RegionError, match="40x30"):
        clipped(box, (40, 30))


def test_a_box_is_cut_to_the_photo() -> None:
    assert clipped((-5, 10, 900, 20), (40, 30)) == (0, 10, 40, 20)
    with pytest.raises(RegionError, match="no box"):
        bounding_union([])
