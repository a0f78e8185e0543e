"""Sets: every member counts the same, at any depth."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Box, Point, RegionSet, Trace, Weighting, WholeImage, region_weights

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


def test_one_member_off_the_image_is_an_error_not_a_gap() -> None:
    with pytest.raises(RegionError, match=r"Box\(x1=90.0"):
        RegionSet([DOT, Box(90, 90, 99, 99)]).patch_weights(GEOMETRY)


def test_sets_are_values() -> None:
    assert RegionSet([LARGE, DOT]) == RegionSet((LARGE, DOT))
    assert len({RegionSet([LARGE]), RegionSet([LARGE]), RegionSet([DOT])}) == 2
    assert "... 7 more" in repr(RegionSet([DOT] * 10))


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
