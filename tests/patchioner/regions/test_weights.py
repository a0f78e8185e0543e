"""Gaussian and attention against plain twins; order, limits, bad input."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    Trace,
    Weighting,
    WholeImage,
    region_weights,
)

# 8 x 8 patches of 10 pixels; model pixels are original pixels.
GEOMETRY = fit_image((80, 80), mode="stretch", size=80, patch_size=10)
PADDED = fit_image((80, 40), mode="pad", size=80, patch_size=10)


def ring() -> Mask:
    """A frame around nothing."""
    array = np.ones((80, 80), dtype=bool)
    array[10:70, 10:70] = False
    return Mask(array)


def mixed() -> list[Region]:
    return [
        Box(3, 5, 77, 21),
        Point(44, 44),
        Trace([(5, 5), (70, 30), (10, 75)]),
        ring(),
        Polygon([(0, 0), (79, 10), (40, 60)]),
        Patch(3, 4),
        WholeImage(),
        Box(33, 33, 34, 34),
    ]


def linspace(count: int) -> np.ndarray:
    return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)


def published_gaussian(spans: tuple[int, int, int, int], variance: float) -> np.ndarray:
    """The plain twin over whole cells first..last: linspace(-1, 1), no factor 2."""
    left, top, right, bottom = spans
    weights = np.zeros((8, 8))
    for row, v in zip(range(top, bottom + 1), linspace(bottom - top + 1), strict=True):
        for column, u in zip(range(left, right + 1), linspace(right - left + 1), strict=True):
            weights[row, column] = math.exp(-(u * u + v * v) / variance)
    return np.asarray(weights / weights.sum())


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 79), st.integers(0, 79)),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.sampled_from([0.1, 0.5, 1.0, 30.0]),
)
def test_reference_gaussians_are_the_published_ones(
    corner: tuple[int, int], size: tuple[int, int], variance: float
) -> None:
    (x, y), (w, h) = corner, (min(size[0], 80 - corner[0]), min(size[1], 80 - corner[1]))
    spans = (x // 10, y // 10, min(x // 10 + w // 10, 7), min(y // 10 + h // 10, 7))
    weights = Box.from_xywh(x, y, w, h).patch_weights(
        GEOMETRY, Weighting("gaussian", variance, "reference")
    )
    np.testing.assert_allclose(weights, published_gaussian(spans, variance), atol=1e-6)


def test_a_reference_gaussian_is_cut_at_the_grid() -> None:
    # Floored separately, 0 and 80 make columns 0..8; the grid ends at 7.
    weights = Box(0, 0, 80, 80).patch_weights(GEOMETRY, Weighting("gaussian", 0.5, "reference"))
    np.testing.assert_allclose(weights, published_gaussian((0, 0, 7, 7), 0.5), atol=1e-7)


def test_reference_whole_image_is_the_published_gaussian_and_flat_from_100_on() -> None:
    whole = WholeImage()
    np.testing.assert_allclose(
        whole.patch_weights(GEOMETRY, Weighting("gaussian", 1.0, "reference")),
        published_gaussian((0, 0, 7, 7), 1.0),
        atol=1e-7,
    )
    flat = whole.patch_weights(GEOMETRY, Weighting("gaussian", 100.0, "reference"))
    np.testing.assert_array_equal(flat, np.float32(1 / 64))


def test_coverage_gaussian_is_relative_to_the_continuous_extent() -> None:
    box = Box(5, 20, 65, 30)
    weights = box.patch_weights(GEOMETRY, Weighting("gaussian", 0.5))
    twin = np.zeros((8, 8))
    for column in range(7):
        share = 0.5 if column in (0, 6) else 1.0
        u = min(max((10 * column + 5 - 35) / 30, -1), 1)
        twin[2, column] = share * math.exp(-u * u / 0.5)
    np.testing.assert_allclose(weights, twin / twin.sum(), atol=1e-6)


def test_variance_zero_is_the_middle_and_of_several_the_upper_left() -> None:
    assert WholeImage().patch_weights(GEOMETRY, Weighting("gaussian", 0))[3, 3] == 1
    assert Box(10, 10, 40, 40).patch_weights(GEOMETRY, Weighting("gaussian", 0))[2, 2] == 1
    assert Box(19, 5, 21.5, 6).patch_weights(GEOMETRY, Weighting("gaussian", 0))[0, 2] == 1


def test_reference_variance_zero_draws_among_the_middles() -> None:
    # Columns 1..3 and rows 1..2 in the published rounding.
    box = Box.from_xywh(10, 10, 29, 19)
    drawn = {
        tuple(np.argwhere(box.patch_weights(GEOMETRY, Weighting("gaussian", 0, "reference", s)))[0])
        for s in range(30)
    }
    assert drawn == {(1, 2), (2, 2)}


def test_reference_leaves_kinds_that_were_not_published_exact() -> None:
    unpublished: list[Region] = [Point(44, 44), ring(), Polygon([(0, 0), (79, 10), (40, 60)])]
    for kind in ("uniform", "gaussian"):
        for variance in (0.0, 1.0):
            np.testing.assert_array_equal(
                region_weights(unpublished, GEOMETRY, Weighting(kind, variance, "reference")),
                region_weights(unpublished, GEOMETRY, Weighting(kind, variance)),
            )


def test_cls_has_the_weights_of_uniform_to_draw() -> None:
    np.testing.assert_array_equal(
        region_weights(mixed(), GEOMETRY, Weighting("cls")), region_weights(mixed(), GEOMETRY)
    )


def test_variance_zero_stays_on_the_region() -> None:
    weights = ring().patch_weights(GEOMETRY, Weighting("gaussian", 0))
    row, column = np.argwhere(weights)[0]
    assert (row, column) == (0, 3)
    assert ring().patch_weights(GEOMETRY)[row, column] > 0


@pytest.mark.parametrize("variance", [1e-300, 1e-9, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("rounding", ["coverage", "reference"])
def test_any_variance_gives_weights(variance: float, rounding: str) -> None:
    weighting = Weighting("gaussian", variance, rounding)  # type: ignore[arg-type]
    weights = region_weights(mixed(), GEOMETRY, weighting)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, atol=1e-5)


def test_a_wide_gaussian_is_coverage() -> None:
    np.testing.assert_allclose(
        region_weights(mixed(), GEOMETRY, Weighting("gaussian", 1e9)),
        region_weights(mixed(), GEOMETRY),
        atol=1e-6,
    )


@pytest.mark.parametrize("rounding", ["coverage", "reference"])
def test_attention_multiplies_the_coverage(rounding: str) -> None:
    attention = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    uniform = region_weights(mixed(), GEOMETRY, Weighting("uniform", 1.0, rounding))  # type: ignore[arg-type]
    twin = uniform * attention.mean(axis=0)
    weights = region_weights(
        mixed(),
        GEOMETRY,
        Weighting("attention", 1.0, rounding),  # type: ignore[arg-type]
        attention,
    )
    np.testing.assert_allclose(weights, twin / twin.sum(axis=(1, 2), keepdims=True), atol=1e-6)


def test_one_head_of_several() -> None:
    attention = np.random.default_rng(0).random((6, 8, 8))
    np.testing.assert_array_equal(
        region_weights(mixed(), GEOMETRY, Weighting("attention", head=4), attention),
        region_weights(mixed(), GEOMETRY, Weighting("attention"), attention[4]),
    )
    for maps, text in ((attention, "head 6 .*6 heads"), (attention[0], "no single heads")):
        with pytest.raises(OptionError, match=text):
            region_weights(mixed(), GEOMETRY, Weighting("attention", head=6), maps)


def test_attention_without_heads_or_mass() -> None:
    weighting = Weighting("attention")
    attention = np.zeros((8, 8))
    attention[0, 0] = 1
    box = Box(20, 20, 50, 50)
    np.testing.assert_allclose(
        box.patch_weights(GEOMETRY, weighting, attention), box.patch_weights(GEOMETRY), rtol=1e-6
    )
    corner = Box(0, 0, 20, 20).patch_weights(GEOMETRY, weighting, attention * 1e-310)
    assert corner[0, 0] == 1


def test_attention_is_not_changed() -> None:
    attention = np.random.default_rng(0).random((2, 8, 8))
    before = attention.copy()
    region_weights(mixed(), GEOMETRY, Weighting("attention"), attention)
    np.testing.assert_array_equal(attention, before)


@pytest.mark.parametrize(
    ("attention", "text"),
    [
        (None, "none; use 'uniform'"),
        (np.ones((3, 7, 8)), r"\(3, 7, 8\).*\(heads, 8, 8\)"),
        (np.ones(64), r"\(64,\)"),
        (np.full((8, 8), np.nan), "non-finite"),
        (np.full((8, 8), -1.0), "negative"),
    ],
)
def test_attention_that_does_not_fit_is_refused(attention: object, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        region_weights([Point(1, 1)], GEOMETRY, Weighting("attention"), attention)


def test_mixed_kinds_keep_their_order() -> None:
    for weighting in (None, Weighting("gaussian"), Weighting(rounding="reference")):
        together = region_weights(mixed(), GEOMETRY, weighting)
        for region, weights in zip(mixed(), together, strict=True):
            np.testing.assert_allclose(
                weights, region.patch_weights(GEOMETRY, weighting), atol=1e-7
            )


def test_reference_whole_image_leaves_padding_out() -> None:
    weights = WholeImage().patch_weights(PADDED, Weighting(rounding="reference"))
    assert (weights[:2] == 0).all()
    np.testing.assert_allclose(weights[2:6], 1 / 32)


def test_no_region_gives_no_map() -> None:
    assert region_weights([], GEOMETRY).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("regions", "text"), [(Point(1, 1), "list of regions"), ([Point(1, 1), (1, 2)], "region 1")]
)
def test_what_is_no_list_of_regions_is_refused(regions: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        region_weights(regions, GEOMETRY)  # type: ignore[arg-type]


def test_weights_need_no_torch() -> None:
    code = (
        "import sys; from patchioner.geometry import fit_image; "
        "from patchioner.regions import region_weights; "
        "from patchioner.regions import Box, Trace; import patchioner.regions.files; "
        "g = fit_image((9, 9), mode='stretch', size=32, patch_size=8); "
        "region_weights([Box(0, 0, 5, 5), Trace([(1, 1)])], g); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_is_uniform_exact_coverage() -> None:
    assert Weighting() == Weighting("uniform", variance=1.0, rounding="coverage")
    assert len({Weighting(), Weighting("uniform")}) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"kind": "gausian"}, "'gausian'.*did you mean 'gaussian'"),
        ({"kind": None}, "None.*uniform"),
        ({"rounding": "exact"}, "rounding of the weighting is 'exact'.*coverage"),
        ({"variance": -1}, "-1"),
        ({"variance": float("nan")}, "nan"),
        ({"variance": float("inf")}, "inf"),
        ({"variance": "1"}, "'1'"),
        ({"variance": True}, "True"),
        ({"seed": 0.5}, "seed of the weighting is 0.5; give an integer"),
        ({"seed": None}, "None"),
        ({"seed": True}, "True"),
        ({"head": -1}, "head of the weighting is -1"),
        ({"head": 0.0}, "0.0"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Weighting(**values)  # type: ignore[arg-type]
