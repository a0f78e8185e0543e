"""Chance and length of the published arithmetic, by hand; the plain twin is in `tests/patchioner/reference`."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Kind,
    Mask,
    Patch,
    Point,
    Region,
    RegionSet,
    Trace,
    Weighting,
    WholeImage,
)
from patchioner.regions.coverage import span_footprints
from patchioner.regions.weights import published_lengths, published_middle

GEOMETRY = fit_image((80, 80), mode="stretch", size=80, patch_size=10)
TRACE = Trace([(5, 5), (5, 5), (75, 5), (99, 5)])


def middle(span: tuple[int, int, int, int], seed: int = 0) -> tuple[int, int]:
    drawn = published_middle(span_footprints(np.array([span]), (8, 8)), seed)[0]
    assert drawn.sum() == 1
    row, column = np.argwhere(drawn)[0].tolist()
    return column, row


def test_odd_spans_have_one_middle() -> None:
    assert {middle((1, 2, 3, 2), seed) for seed in range(20)} == {(2, 2)}


def test_each_axis_is_drawn_for_itself() -> None:
    assert {middle((0, 0, 7, 7), seed) for seed in range(60)} == {(3, 3), (3, 4), (4, 3), (4, 4)}
    assert {middle((0, 0, 7, 2), seed) for seed in range(20)} == {(3, 1), (4, 1)}


def test_a_draw_is_the_same_in_any_company_and_any_run() -> None:
    spans = np.array([[0, 0, 1, 1], [2, 2, 5, 5], [0, 0, 1, 1]])
    together = published_middle(span_footprints(spans, (8, 8)), 7)
    np.testing.assert_array_equal(together[0], together[2])
    alone = published_middle(span_footprints(spans[1:2], (8, 8)), 7)
    np.testing.assert_array_equal(together[1:2], alone)
    # Pinned: a draw that changed with a release would change captions.
    assert [middle((2, 2, 5, 5), seed) for seed in range(4)] == [(3, 3), (4, 4), (4, 4), (3, 3)]


def test_traces_are_as_long_as_their_points() -> None:
    regions: list[Region] = [TRACE, Trace([(5, 5)]), WholeImage(), Box(0, 0, 9, 9), Patch(0, 0)]
    lengths = published_lengths(regions, GEOMETRY, Weighting(), None)
    assert lengths.dtype == np.float32
    np.testing.assert_allclose(lengths, [3 / 64, 1 / 64, 1, 1, 1])


def test_attention_is_averaged_over_all_patches() -> None:
    attention = np.zeros((2, 8, 8))
    attention[:, 0, 0], attention[:, 0, 7] = (0.2, 0.4), (0.8, 0.6)
    regions: list[Region] = [TRACE, WholeImage(), Box(0, 0, 9, 9), Point(1, 1)]
    lengths = published_lengths(regions, GEOMETRY, Weighting("attention"), attention)
    np.testing.assert_allclose(lengths, [(2 * 0.3 + 0.7) / 64, 1 / 64, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "attention"])
def test_sets_and_other_kinds_are_weighted_means(kind: Kind) -> None:
    attention = np.full((8, 8), 1 / 64)
    regions = [RegionSet([TRACE]), RegionSet([WholeImage()]), Mask(np.ones((80, 80), dtype=bool))]
    lengths = published_lengths(regions, GEOMETRY, Weighting(kind), attention)
    assert lengths.tolist() == [1, 1, 1]
