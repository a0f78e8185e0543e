"""Boxes: adapters, clipping, tiny ones, bad ones, and the published rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    RegionSet,
    Trace,
    Weighting,
    WholeImage,
    region_weights,
)

PATCH = 14

# Model pixels are original pixels, so that the published arithmetic can be written in integers.
PLAIN = fit_image((140, 140), mode="stretch", size=140, patch_size=PATCH)

REFERENCE = Weighting(rounding="reference")


def test_reference_corners_on_a_patch_border_survive_scaling() -> None:
    # 22 x 3 / 10 pixels are column 3 of 10, but 6.6 x (140 / 22) / 14 is a little less than 3.
    geometry = fit_image((22, 22), mode="stretch", size=140, patch_size=PATCH)
    weights = Box(6.6, 0, 7, 1).patch_weights(geometry, REFERENCE)
    assert weights[0, 3] == 1


@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_box_that_sticks_out_is_cut(weighting: Weighting | None) -> None:
    inside, outside = region_weights(
        [Box(100, 100, 140, 140), Box(100, 100, 900, 1e300)], PLAIN, weighting
    )
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("weighting", [None, REFERENCE, Weighting("gaussian")])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-12])
def test_a_box_smaller_than_a_patch_works(size: float, weighting: Weighting | None) -> None:
    box = Box(33, 47, 33 + size, math.nextafter(47, 50) if size < 1e-9 else 47 + size)
    weights = box.patch_weights(PLAIN, weighting)
    np.testing.assert_array_equal(weights, Point(33, 47).patch_weights(PLAIN))


def test_a_box_too_thin_for_floats_is_the_patch_under_it() -> None:
    geometry = fit_image((7, 7), mode="stretch", size=140, patch_size=PATCH)
    left = 0.768561872909699
    right = math.nextafter(left, 1)
    assert len(set(geometry.to_grid([[left, 0], [right, 0]])[:, 0])) == 1
    weights = Box(left, 3.0, right, 3.5).patch_weights(geometry)
    np.testing.assert_allclose(weights, Point(left, 3.0).patch_weights(geometry))


def test_a_hundred_thousandth_box_weighs_as_alone() -> None:
    random = np.random.default_rng(0)
    places = random.random((2500, 2)) * 100
    boxes = [Box(x, y, x + 30, y + 20) for x, y in places]
    weights = region_weights(boxes, PLAIN)
    for index in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(weights[index], boxes[index].patch_weights(PLAIN))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "12", None])
def test_coordinates_must_be_finite_numbers(bad: object) -> None:
    with pytest.raises(RegionError, match="y1 of the box"):
        Box(1, bad, 3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 9, 9, 5)])
def test_empty_and_inverted_boxes_name_value_and_remedy(corners: tuple[int, ...]) -> None:
    with pytest.raises(RegionError, match=r"Box\(x1=.*empty or inverted.*from_xywh"):
        Box(*corners)


@pytest.mark.parametrize("corners", [(140, 0, 150, 10), (-9, 0, 0, 10), (0, 200, 10, 300)])
@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_box_off_the_image_names_value_and_size(
    corners: tuple[int, ...], weighting: Weighting | None
) -> None:
    good = Box(0, 0, 10, 10)
    with pytest.raises(RegionError, match=r"Box\(.*140x140 image"):
        region_weights([good, Box(*corners)], PLAIN, weighting)


def test_adapters() -> None:
    assert Box.from_xywh(10, 20, 30, 40) == Box(10, 20, 40, 60)
    assert Box.from_coco({"bbox": [10, 20, 30, 40], "id": 1}) == Box(10, 20, 40, 60)
    with pytest.raises(RegionError, match="no 'bbox'"):
        Box.from_coco({"id": 1})
    with pytest.raises(RegionError, match="3 numbers"):
        Box.from_coco({"bbox": [1, 2, 3]})
    with pytest.raises(RegionError, match="width of the box"):
        Box.from_xywh(0, 0, float("nan"), 1)
    with pytest.raises(RegionError, match="empty"):
        Box.from_xywh(0, 0, -3, 1)


SQUARE = fit_image((100, 100), mode="stretch", size=80, patch_size=8)

PADDED = fit_image((100, 50), mode="pad", size=80, patch_size=8)


def where(weights: np.ndarray) -> tuple[int, int]:
    assert np.count_nonzero(weights) == 1
    assert weights.sum() == 1
    row, column = np.argwhere(weights)[0]
    return int(row), int(column)


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [(0, 0, 0, 0), (9.99, 10, 1, 0), (55, 31, 3, 5), (100, 100, 9, 9), (100, 0, 0, 9)],
)
def test_a_point_is_the_patch_under_it(x: float, y: float, row: int, column: int) -> None:
    assert where(Point(x, y).patch_weights(SQUARE)) == (row, column)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_the_point_in_the_middle_of_a_patch_is_that_patch(row: int, column: int) -> None:
    x, y = SQUARE.to_pixels(np.array([[column + 0.5, row + 0.5]]))[0]
    assert where(Point(x, y).patch_weights(SQUARE)) == (row, column)
    assert where(Patch(row, column).patch_weights(SQUARE)) == (row, column)


@pytest.mark.parametrize("place", [(-1, 5), (5, -0.1), (100.1, 5), (5, 1e30)])
def test_a_point_off_the_image_names_value_and_image(place: tuple[float, float]) -> None:
    with pytest.raises(RegionError, match=r"Point\(.*100x100 image.*original"):
        Point(*place).patch_weights(SQUARE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "3", None, [1], 10**400])
def test_a_point_takes_finite_numbers_only(bad: object) -> None:
    with pytest.raises(RegionError, match="x of the point"):
        Point(bad, 3)  # type: ignore[arg-type]


def test_a_patch_outside_the_grid_names_the_grid() -> None:
    with pytest.raises(RegionError, match=r"Patch\(row=10, col=0\).*10 rows and 10 columns"):
        Patch(10, 0).patch_weights(SQUARE)


@pytest.mark.parametrize(("row", "col", "text"), [(-1, 0, "-1"), (0, 1.5, "1.5"), ("1", 0, "'1'")])
def test_a_patch_takes_integers_from_zero(row: object, col: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Patch(row, col)  # type: ignore[arg-type]


def test_a_patch_of_padding_is_refused_and_left_out_of_all() -> None:
    with pytest.raises(RegionError, match="padding"):
        Patch(0, 0).patch_weights(PADDED)
    shown = Patch.all(PADDED)
    # 50 of 100 rows: 5 patches' worth, from row 2.5 to 7.5, so six rows show some of it.
    assert [patch.row for patch in shown[::10]] == [2, 3, 4, 5, 6, 7]
    assert len(shown) == 60
    assert len(Patch.all(SQUARE)) == 100


def test_the_whole_image_counts_border_patches_by_share() -> None:
    weights = WholeImage().patch_weights(PADDED)
    np.testing.assert_allclose(
        weights[:, 0] * 10, [0, 0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0, 0], atol=1e-7
    )
    np.testing.assert_allclose(weights, Box(0, 0, 100, 50).patch_weights(PADDED))
    full = Mask(np.ones((50, 100), dtype=bool))
    np.testing.assert_allclose(weights, full.patch_weights(PADDED), atol=1e-7)


GEOMETRY = fit_image((40, 40), mode="stretch", size=32, patch_size=8)

LARGE, SMALL, DOT = Box(0, 0, 40, 30), Box(30, 30, 35, 35), Point(5, 5)


@pytest.mark.parametrize(
    "weighting",
    [None, Weighting("gaussian"), Weighting(rounding="reference"), Weighting("attention")],
)
def test_a_set_is_the_mean_of_its_members(weighting: Weighting | None) -> None:
    attention = np.random.default_rng(0).random((3, 4, 4))
    members = region_weights([LARGE, SMALL, DOT], GEOMETRY, weighting, attention)
    together = RegionSet([LARGE, SMALL, DOT]).patch_weights(GEOMETRY, weighting, attention)
    np.testing.assert_allclose(together, members.mean(axis=0), atol=1e-7)


def test_a_set_in_a_set_is_one_member() -> None:
    nested = RegionSet([LARGE, RegionSet([SMALL, DOT])]).patch_weights(GEOMETRY)
    large, small, dot = region_weights([LARGE, SMALL, DOT], GEOMETRY)
    np.testing.assert_allclose(nested, large / 2 + small / 4 + dot / 4, atol=1e-7)


def test_sets_of_the_same_member_and_single_ones_keep_their_order() -> None:
    regions = [
        RegionSet([SMALL, SMALL]),
        DOT,
        RegionSet([DOT, SMALL, DOT]),
        SMALL,
        RegionSet([WholeImage(), Trace([(1, 1), (9, 9)])]),
        LARGE,
    ]
    together = region_weights(regions, GEOMETRY)
    for region, weights in zip(regions, together, strict=True):
        np.testing.assert_allclose(weights, region.patch_weights(GEOMETRY), atol=1e-7)
    np.testing.assert_allclose(together.sum(axis=(1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("members", "text"),
    [([], "empty"), (LARGE, "list of regions"), ("ab", "list"), ([DOT, (1, 2, 3, 4)], "member 1")],
)
def test_what_is_no_set_is_refused(members: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        RegionSet(members)  # type: ignore[arg-type]


def test_rows_of_xywh_become_boxes_and_padding_is_left_out() -> None:
    rows = np.array([[0, 0, 10, 20], [-1, -1, -1, -1], [-2, 3, 9, 9], [-1, -1, -1, -1]])
    assert RegionSet.from_xywh(rows) == RegionSet([Box(0, 0, 10, 20), Box(-2, 3, 7, 12)])
    # Off any image, but no padding: an error of its own when it is pooled.
    assert RegionSet.from_xywh([[-30, 3, 9, 9]]) == RegionSet([Box(-30, 3, -21, 12)])
    assert RegionSet.from_xywh(iter(rows.tolist())) == RegionSet.from_xywh(rows)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[-1, -1, -1, -1]], "empty; give at least one"),
        ([], "empty"),
        ([[0, 0, 1]], "box 0 of the RegionSet has 3 numbers"),
        ([[0, 0, 5, 5], [0, 0, -5, 5]], "empty or inverted"),
        ([[0, 0, float("nan"), 5]], "finite"),
        ("0 0 1 1", "give a list"),
    ],
)
def test_rows_that_are_no_boxes_are_refused(rows: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        RegionSet.from_xywh(rows)
