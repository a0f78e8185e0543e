"""Traces: lengths, dots, points off the image, and the published counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Point, Trace, Weighting

# 4 x 4 patches of 10 pixels.
GEOMETRY = fit_image((40, 40), mode="stretch", size=32, patch_size=8)

CROPPED = fit_image((80, 40), mode="crop", size=32, patch_size=8)

REFERENCE = Weighting(rounding="reference")


def test_a_line_weighs_patches_by_its_length_inside() -> None:
    weights = Trace([(5, 15), (35, 15)]).patch_weights(GEOMETRY)
    np.testing.assert_allclose(weights[1], [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=1e-7)
    assert weights.sum() == pytest.approx(1)


def test_lengths_are_those_that_the_hand_drew() -> None:
    # Half as many patches per pixel across as down must not make the way across shorter.
    wide = fit_image((80, 40), mode="stretch", size=32, patch_size=8)
    weights = Trace([(5, 5), (15, 5), (15, 5), (15, 15)]).patch_weights(wide)
    assert weights[0, 0] == pytest.approx(15 / 20)
    assert weights[1, 0] == pytest.approx(5 / 20)


def test_pauses_and_doubled_points_do_not_count() -> None:
    plain = Trace([(5, 5), (35, 25)]).patch_weights(GEOMETRY)
    paused = Trace([(5, 5), *[(20, 15)] * 9, (35, 25)]).patch_weights(GEOMETRY)
    np.testing.assert_allclose(paused, plain, atol=1e-7)


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


def test_the_path_is_broken_where_points_are_off_the_image() -> None:
    broken = Trace([(5, 5), (15, 5), (15, -99), (35, 35), (25, 35)]).patch_weights(GEOMETRY)
    expected = np.zeros((4, 4))
    expected[0, :2] = expected[3, 2:] = 0.25
    np.testing.assert_allclose(broken, expected, atol=1e-7)


def test_a_path_across_a_crop_counts_inside_it() -> None:
    # The crop sees x from 20 to 60; both ends are cropped away.
    weights = Trace([(0, 5), (80, 5)]).patch_weights(CROPPED)
    np.testing.assert_allclose(weights[0], 0.25, atol=1e-7)


@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_trace_out_of_view_is_refused(weighting: Weighting | None) -> None:
    with pytest.raises(RegionError, match=r"no point inside the 40x40 image.*normalized=True"):
        Trace([(-1, 5), (50, 5)]).patch_weights(GEOMETRY, weighting)
    with pytest.raises(RegionError, match=r"0 to 1"):
        Trace([(1.5, 0.5)], normalized=True).patch_weights(GEOMETRY, weighting)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([], "at least one"),
        ([(1, float("inf"))], "point 0 of the trace is inf"),
        ([(1, 2, 3)], "3 numbers"),
        ([1, 2], "point 0"),
        ("1,2", "give a list"),
    ],
)
def test_what_is_no_trace_is_refused(points: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Trace(points)  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [[{"x": 1}], [(1, 2)], [{"x": 0.1, "y": None}], [], 5])
def test_broken_samples_are_refused(samples: object) -> None:
    with pytest.raises(RegionError):
        Trace.from_points_xyt(samples)  # type: ignore[arg-type]


shares = st.one_of(st.floats(-0.2, 1.2), st.integers(0, 10).map(lambda tenth: tenth / 10))


def test_reference_follows_padding() -> None:
    padded = fit_image((80, 40), mode="pad", size=80, patch_size=10)
    weights = Trace([(5, 5), (75, 35)]).patch_weights(padded, REFERENCE)
    assert weights[2, 0] == weights[5, 7] == 0.5
