"""Boxes, points, patches, the whole image and sets; and what no shape accepts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
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


def test_rows_of_xywh_become_boxes_and_padding_is_left_out() -> None:
    rows = np.array([[0, 0, 10, 20], [-1, -1, -1, -1], [-2, 3, 9, 9], [-1, -1, -1, -1]])
    assert RegionSet.from_xywh(rows) == RegionSet([Box(0, 0, 10, 20), Box(-2, 3, 7, 12)])
    # Off any image, but no padding: an error of its own when it is pooled.
    assert RegionSet.from_xywh([[-30, 3, 9, 9]]) == RegionSet([Box(-30, 3, -21, 12)])
    assert RegionSet.from_xywh(iter(rows.tolist())) == RegionSet.from_xywh(rows)


NAN, CORNERS = float("nan"), [(10, 10), (30, 10), (30, 30)]
REFUSED: list[tuple[Callable[..., object], object, str]] = [
    *((lambda bad: Box(1, bad, 3, 4), bad, "y1 of the box") for bad in (NAN, math.inf, "12", None)),
    (lambda corners: Box(*corners), (5, 5, 5, 9), r"Box\(x1=.*empty or inverted.*from_xywh"),
    (lambda corners: Box(*corners), (5, 9, 9, 5), r"Box\(x1=.*empty or inverted.*from_xywh"),
    (Box.from_coco, {"id": 1}, "no 'bbox'"),
    (Box.from_coco, {"bbox": [1, 2, 3]}, "3 numbers"),
    (lambda row: Box.from_xywh(*row), (0, 0, NAN, 1), "width of the box"),
    (lambda row: Box.from_xywh(*row), (0, 0, -3, 1), "empty"),
    *((lambda bad: Point(bad, 3), bad, "x of the point") for bad in (NAN, "3", None, [1], 10**400)),
    *(
        (lambda bad: Patch(bad, 0), bad, "row of the patch")
        for bad in (-1, 1.5, "1", np.array(1.5))
    ),
    (RegionSet, [], "empty"),
    (RegionSet, LARGE, "list of regions"),
    (RegionSet, "ab", "list"),
    (RegionSet, [DOT, (1, 2, 3, 4)], "member 1"),
    (RegionSet.from_xywh, [[-1, -1, -1, -1]], "empty; give at least one"),
    (RegionSet.from_xywh, [[0, 0, 1]], "box 0 of the RegionSet has 3 numbers"),
    (RegionSet.from_xywh, [[0, 0, 5, 5], [0, 0, -5, 5]], "empty or inverted"),
    (RegionSet.from_xywh, [[0, 0, NAN, 5]], "finite"),
    (RegionSet.from_xywh, "0 0 1 1", "give a list"),
    (Trace, [], "at least one"),
    (Trace, [(1, math.inf)], "point 0 of the trace is inf"),
    (Trace, [(1, 2, 3)], "3 numbers"),
    (Trace, [1, 2], "point 0"),
    (Trace, "1,2", "give a list"),
    *((Trace.from_points_xyt, bad, "trace") for bad in ([{"x": 1}], [(1, 2)], [], 5)),
    (Polygon, [], "at least 3 different points, got 0"),
    (Polygon, [(1, 1), (2, 2), (1, 1)], r"got 2: \[\(1, 1\), \(2, 2\), \(1, 1\)\]"),
    (Polygon, [CORNERS, [(1, 1)]], "got 1"),
    (Polygon, [(1, 1), (2, NAN), (3, 0)], "point 1 of the polygon is nan"),
    (Polygon, [(1, 1), (2, 2, 2), (3, 0)], "point 1 of the polygon has 3 numbers"),
    (Polygon, [(1, 1), "ab", (3, 0)], "point 1"),
    (Polygon, [1, 2, 3, 4, 5, 6], "point 0"),
    (Polygon, 7, "give a list"),
    (Polygon.from_coco, [], "no ring"),
    (Polygon.from_coco, [[1, 2, 3]], "3 numbers"),
    (Polygon.from_coco, [[1, 2, 3, 4]], "got 2"),
    (Polygon.from_coco, [5], "give a list"),
]


@pytest.mark.parametrize(("make", "value", "text"), REFUSED)
def test_what_is_no_region_is_refused(
    make: Callable[..., object], value: object, text: str
) -> None:
    with pytest.raises(RegionError, match=text):
        make(value)


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (Box(140, 0, 150, 10), r"Box\(.*100x100 image"),
        (Box(-9, 0, 0, 10), r"Box\(.*100x100 image"),
        (Point(-1, 5), r"Point\(.*100x100 image.*original"),
        (Point(5, 1e30), r"Point\(.*100x100 image"),
        (Patch(10, 0), r"Patch\(row=10, col=0\).*10 rows and 10 columns"),
        (Trace([(-1, 5), (150, 5)]), r"no point inside the 100x100 image.*normalized=True"),
        (Trace([(1.5, 0.5)], normalized=True), "0 to 1"),
        (Polygon([(-9, 0), (-1, 0), (-5, 9)]), r"Polygon\(\(-9, 0\).*image"),
        (Polygon([(1, 1), (5, 5), (9, 9)]), "no area; use Trace"),
    ],
)
@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_region_out_of_view_names_itself_and_the_image(
    region: Region, text: str, weighting: Weighting | None
) -> None:
    with pytest.raises(RegionError, match=text):
        region_weights([Box(0, 0, 10, 10), region], SQUARE, weighting)
