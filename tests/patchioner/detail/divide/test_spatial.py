"""Quadrants, grids and growing: what holds for any photo and any boxes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.detail.divide.rectangles import Rectangle, area, bounding_union, clipped
from patchioner.detail.divide.spatial import grid, grow, quadrants

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))
numbers = st.integers(-5, 65)


def holds(outer: Rectangle, inner: Rectangle) -> bool:
    return bounding_union([outer, inner]) == outer


@given(sizes)
def test_quadrants_fill_the_photo_without_overlap(size: tuple[int, int]) -> None:
    parts = quadrants(size)
    assert sum(map(area, parts)) == pytest.approx(size[0] * size[1])
    assert all(area(part) > 0 for part in parts)
    assert bounding_union(parts) == (0, 0, *size)


def test_quadrants_are_split_and_ordered_as_published() -> None:
    assert quadrants((101, 60)) == [
        (0, 0, 50, 30),
        (50, 0, 101, 30),
        (0, 30, 50, 60),
        (50, 30, 101, 60),
    ]


@given(sizes, st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=8), st.floats(0, 1))
def test_grown_quadrants_hold_theirs_and_stay_in_the_photo(
    size: tuple[int, int], corners: list[tuple[int, int, int, int]], share: float
) -> None:
    boxes: list[Rectangle] = []
    for x1, y1, x2, y2 in corners:
        box = (max(x1, 0), max(y1, 0), min(x2, size[0]), min(y2, size[1]))
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(clipped(box, size))
    parts = quadrants(size)
    for part, (grown, joined) in zip(parts, grow(parts, boxes, share), strict=True):
        assert holds(grown, part)
        assert holds((0, 0, *size), grown)
        assert all(holds(grown, boxes[place]) for place in joined)
        assert grown == bounding_union([part, *(boxes[place] for place in joined)])


def test_a_box_joins_by_its_own_area_not_by_iou() -> None:
    """Published: a small box wholly inside has a tiny IoU and joins all the same."""
    parts = quadrants((100, 100))
    small = (48.0, 10.0, 54.0, 20.0)  # a third of it on the left
    assert [joined for _, joined in grow(parts, [small], 0.3)] == [(0,), (0,), (), ()]
    assert [joined for _, joined in grow(parts, [small], 0.4)] == [(), (0,), (), ()]


@given(sizes, st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_a_grid_covers_the_photo(
    size: tuple[int, int], rows: int, columns: int, overlap: float
) -> None:
    cells = grid(size, rows, columns, overlap)
    assert len(cells) == rows * columns
    assert bounding_union(cells) == (0, 0, *size)
    widths = {round(right - left, 6) for left, _, right, _ in cells}
    assert len(widths) == 1
    for left, right in zip(cells[: columns - 1], cells[1:columns], strict=True):
        assert left[2] - right[0] == pytest.approx(overlap * (left[2] - left[0]))


def test_senseless_grids_are_refused() -> None:
    with pytest.raises(OptionError, match="0 x 3"):
        grid((10, 10), 0, 3)
    with pytest.raises(OptionError, match=r"overlap 1\.0"):
        grid((10, 10), 1, 3, 1.0)
