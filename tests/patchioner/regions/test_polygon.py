"""Polygons: known areas, several rings, broken rings, bad ones."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Box, Polygon

# 4 x 4 patches of 10 pixels.
GEOMETRY = fit_image((40, 40), mode="stretch", size=32, patch_size=8)

CROPPED = fit_image((80, 40), mode="crop", size=32, patch_size=8)

SQUARE = [(10, 10), (30, 10), (30, 30), (10, 30)]


def test_a_triangle_covers_half_of_the_patches_on_its_slope() -> None:
    weights = Polygon([(0, 0), (20, 0), (0, 20)]).patch_weights(GEOMETRY)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[0, 1], expected[1, 0] = 0.5, 0.25, 0.25
    np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_overlapping_rings_count_once() -> None:
    left, right = [(0, 0), (30, 0), (30, 40), (0, 40)], [(10, 0), (40, 0), (40, 40), (10, 40)]
    weights = Polygon([left, right]).patch_weights(GEOMETRY)
    np.testing.assert_allclose(weights, 1 / 16, atol=1e-7)


def test_a_ring_that_crosses_itself_means_all_it_encloses() -> None:
    bow_tie = Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])
    weights = bow_tie.patch_weights(GEOMETRY)
    halves = Polygon([[(0, 0), (20, 20), (0, 40)], [(40, 0), (20, 20), (40, 40)]])
    np.testing.assert_allclose(weights, halves.patch_weights(GEOMETRY), atol=1e-7)
    assert weights[0, 1] == weights[3, 2] == 0


def test_rings_come_as_lists_tuples_and_arrays() -> None:
    expected = Polygon(SQUARE)
    assert Polygon(np.array(SQUARE)) == expected
    assert Polygon([np.array(SQUARE)]) == expected
    assert Polygon([[list(point) for point in SQUARE]]) == expected
    assert Polygon.from_coco([[10, 10, 30, 10, 30, 30, 10, 30]]) == expected
    assert len({expected, Polygon(iter(SQUARE))}) == 1


def test_what_leaves_the_image_is_cut_off() -> None:
    far = Polygon([(20, -1e9), (1e9, -1e9), (1e9, 1e9), (20, 1e9)])
    np.testing.assert_allclose(
        far.patch_weights(GEOMETRY), Box(20, 0, 40, 40).patch_weights(GEOMETRY), atol=1e-6
    )


def test_a_tiny_polygon_is_the_patch_under_it() -> None:
    tiny = Polygon([(15, 25), (15.001, 25), (15, 25.001)])
    assert tiny.patch_weights(GEOMETRY)[2, 1] == 1


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([], "at least 3 different points, got 0"),
        ([(1, 1), (2, 2)], r"got 2: \[\(1, 1\), \(2, 2\)\]"),
        ([(1, 1), (2, 2), (1, 1)], "got 2"),
        ([SQUARE, [(1, 1)]], "got 1"),
        ([(1, 1), (2, float("nan")), (3, 0)], "point 1 of the polygon is nan"),
        ([(1, 1), (2, 2, 2), (3, 0)], "point 1 of the polygon has 3 numbers"),
        ([(1, 1), "ab", (3, 0)], "point 1"),
        ([1, 2, 3, 4, 5, 6], "point 0"),
        ("abc", "give a list"),
        (7, "give a list"),
    ],
)
def test_what_is_no_polygon_is_refused(points: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Polygon(points)  # type: ignore[arg-type]


def test_a_polygon_without_area_points_to_trace() -> None:
    with pytest.raises(RegionError, match="no area; use Trace"):
        Polygon([(1, 1), (5, 5), (9, 9)]).patch_weights(GEOMETRY)


@pytest.mark.parametrize("geometry", [GEOMETRY, CROPPED])
def test_a_polygon_out_of_view_names_it(geometry: object) -> None:
    with pytest.raises(RegionError, match=r"Polygon\(\(-9, 0\).*image"):
        Polygon([(-9, 0), (-1, 0), (-5, 9)]).patch_weights(geometry)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [([], "no ring"), ([[1, 2, 3]], "3 numbers"), ([[1, 2, 3, 4]], "got 2"), ([5], "give a list")],
)
def test_broken_coco_rings_are_refused(segmentation: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Polygon.from_coco(segmentation)  # type: ignore[arg-type]
