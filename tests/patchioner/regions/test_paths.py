"""Traces: lengths, dots, points off the image; polygons: areas and rings."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.geometry import fit_image
from patchioner.regions import Point, Polygon, Trace, Weighting

# 4 x 4 patches of 10 pixels.
GEOMETRY = fit_image((40, 40), mode="stretch", size=32, patch_size=8)

REFERENCE = Weighting(rounding="reference")


def test_normalized_and_pixels_agree() -> None:
    pixels = Trace([(4, 8), (20, 30), (40, 0)])
    shares = Trace([(0.1, 0.2), (0.5, 0.75), (1, 0)], normalized=True)
    samples = [{"x": 0.1, "y": 0.2, "t": 0}, {"x": 0.5, "y": 0.75}, {"x": 1, "y": 0, "t": 2.5}]
    assert Trace.from_points_xyt(samples) == shares
    for weighting in (None, REFERENCE, Weighting("gaussian")):
        np.testing.assert_allclose(
            shares.patch_weights(GEOMETRY, weighting), pixels.patch_weights(GEOMETRY, weighting)
        )


@pytest.mark.parametrize("points", [[(15, 25)], [(15, 25), (15, 25)], [(15, 25), (99, 25)]])
@pytest.mark.parametrize("weighting", [None, REFERENCE, Weighting("gaussian", variance=0)])
def test_a_dot_is_the_patch_under_it(
    points: list[tuple[float, float]], weighting: Weighting | None
) -> None:
    np.testing.assert_array_equal(
        Trace(points).patch_weights(GEOMETRY, weighting), Point(15, 25).patch_weights(GEOMETRY)
    )


def test_a_line_along_the_far_edge_stays_on_the_grid() -> None:
    weights = Trace([(40, 0), (40, 40)]).patch_weights(GEOMETRY)
    np.testing.assert_allclose(weights[:, 3], 0.25, atol=1e-7)


def test_the_path_is_broken_where_points_are_off_the_image_and_pauses_do_not_count() -> None:
    path = [(5, 5), *[(15, 5)] * 9, (15, -99), (35, 35), (25, 35)]
    expected = np.zeros((4, 4))
    expected[0, :2] = expected[3, 2:] = 0.25
    np.testing.assert_allclose(Trace(path).patch_weights(GEOMETRY), expected, atol=1e-7)


def test_reference_follows_padding() -> None:
    padded = fit_image((80, 40), mode="pad", size=80, patch_size=10)
    weights = Trace([(5, 5), (75, 35)]).patch_weights(padded, REFERENCE)
    assert weights[2, 0] == weights[5, 7] == 0.5


SQUARE = [(10, 10), (30, 10), (30, 30), (10, 30)]


def test_a_triangle_covers_half_of_the_patches_on_its_slope() -> None:
    weights = Polygon([(0, 0), (20, 0), (0, 20)]).patch_weights(GEOMETRY)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[0, 1], expected[1, 0] = 0.5, 0.25, 0.25
    np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_a_ring_that_crosses_itself_means_all_it_encloses() -> None:
    bow_tie = Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])
    weights = bow_tie.patch_weights(GEOMETRY)
    halves = Polygon([[(0, 0), (20, 20), (0, 40)], [(40, 0), (20, 20), (40, 40)]])
    np.testing.assert_allclose(weights, halves.patch_weights(GEOMETRY), atol=1e-7)
    assert weights[0, 1] == weights[3, 2] == 0


def test_rings_come_as_lists_tuples_and_arrays() -> None:
    expected = Polygon(SQUARE)
    for points in (np.array(SQUARE), [np.array(SQUARE)], [[list(point) for point in SQUARE]]):
        assert Polygon(points) == expected
    assert Polygon.from_coco([np.ravel(SQUARE)]) == expected
    assert len({expected, Polygon(iter(SQUARE))}) == 1


def test_a_tiny_polygon_is_the_patch_under_it() -> None:
    tiny = Polygon([(15, 25), (15.001, 25), (15, 25.001)])
    assert tiny.patch_weights(GEOMETRY)[2, 1] == 1
