"""What every kind of region says of itself; weights against plain twins; other libraries' results."""

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from patchioner import Box, Patch, Point, Region, RegionSet, Trace, Weighting, WholeImage
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Mask, Polygon, feature_weights, pool_regions, region_weights
from patchioner.regions.base import published_middle
from tests.support import MonkeyPatch

PHOTO = (96, 60)  # 24 x 15 pixels a patch under a stretch
ON_PHOTO = fit_image(PHOTO, mode="stretch", size=64, patch_size=16)
ARRAY = np.zeros(PHOTO[::-1], dtype=bool)
ARRAY[3, 7] = ARRAY[40, 49] = True
RINGS = [[(1, 2), (9, 2), (9, 8)], [(20, 30), (25, 30), (20, 59)]]
TWO = RegionSet([Box(50, 10, 60, 20), RegionSet([Box(5, 30, 8, 40)])])
KINDS: list[tuple[Region, tuple[float, ...], tuple[float, ...]]] = [
    (Box(10.5, 20, 30, 40.25), (10.5, 20, 30, 40.25), (10.5, 20, 30, 40.25)),
    (Mask(ARRAY), (7, 3, 50, 41), (7, 3, 50, 41)), (Polygon(RINGS), (1, 2, 25, 59), (1, 2, 25, 59)),
    (Point(30, 20.25), (24, 15, 48, 30), (30, 20.25, 30, 20.25)), (Patch(3, 0), (0, 45, 24, 60), ()),
    (Trace([(5, 5), (40, 5)]), (0, 0, 48, 15), (5, 5, 40, 5)),
    (Trace([(0.1, 0.2)], normalized=True), (0, 0, 24, 15), ()), (WholeImage(), (0, 0, 96, 60), ()),
    (TWO, (5, 10, 60, 40), (5, 10, 60, 40)),
]  # fmt: skip


@pytest.mark.parametrize(("region", "bounds", "given"), KINDS)
def test_json_outlines_and_bounds(region: Region, bounds: Any, given: Any) -> None:
    assert Region.from_json(json.loads(json.dumps(region.to_json()))) == region
    assert 0 < len(region.describe()) < 40
    assert region.bounds(ON_PHOTO) == pytest.approx(bounds) and region.bounds == given
    parts = region.outline(PHOTO, ON_PHOTO)
    assert parts
    for part in parts:
        assert (part.points >= 0).all() and (part.points <= PHOTO).all()
        assert (part.mask is not None) == (part.style == "mask")


def test_a_patch_needs_the_grid_to_be_drawn() -> None:
    with pytest.raises(OptionError, match="geometry"):
        Patch(0, 0).outline(PHOTO)


def test_bounds_are_cut_at_the_edges_and_a_central_square_cuts_regions_away() -> None:
    assert Box(-5, -5, 200, 30).bounds(ON_PHOTO) == (0, 0, 96, 30)
    geometry = fit_image(PHOTO, mode="crop", size=64, patch_size=16)
    assert Box(0, 0, 30, 30).bounds(geometry) == (0, 0, 30, 30)
    assert WholeImage().bounds(geometry) == pytest.approx(geometry.visible)
    with pytest.raises(RegionError):
        Box(0, 0, 10, 30).bounds(geometry)


def test_detections_of_supervision_and_ultralytics_whose_padding_goes() -> None:
    corners = torch.tensor([[1.0, 2, 3, 4]])
    detections = SimpleNamespace(xyxy=corners.numpy(), mask=ARRAY[None])
    quarter, letterboxed = np.zeros_like(ARRAY), np.zeros((96, 96), dtype=np.float32)
    quarter[:30, :48] = letterboxed[18:48, :48] = True
    results = [
        SimpleNamespace(boxes=SimpleNamespace(xyxy=corners), masks=masks, orig_shape=(60, 96))
        for masks in (SimpleNamespace(data=torch.from_numpy(letterboxed[None])), None)
    ]
    boxes = Box.from_supervision(detections), Box.from_ultralytics(results[0]), [Box(*corners[0])]
    assert boxes == ([Box(1, 2, 3, 4)],) * 3
    assert Mask.from_supervision(detections) == [Mask(ARRAY)]
    assert Mask.from_ultralytics(results[0]) == [Mask(quarter)]
    results[0].masks.data = ARRAY[None]
    assert Mask.from_ultralytics(results[0]) == [Mask(ARRAY)]
    without = SimpleNamespace(mask=None)
    assert Mask.from_supervision(without) == Mask.from_ultralytics(results[1]) == []


# 8 x 8 patches of 10 pixels; model pixels are original pixels.
GRID = fit_image((80, 80), mode="stretch", size=80, patch_size=10)
FRAME = np.ones((80, 80), dtype=bool)
FRAME[10:70, 10:70] = False
RING = Mask(FRAME)
MIXED: list[Region] = [
    Box(3, 5, 77, 21), Point(44, 44), Trace([(5, 5), (70, 30), (10, 75)]), RING,
    Polygon([(0, 0), (79, 10), (40, 60)]), Patch(3, 4), WholeImage(), Box(33, 33, 34, 34),
]  # fmt: skip
ROUNDINGS = pytest.mark.parametrize("rounding", ["coverage", "reference"])


def test_coverage_gaussian_is_relative_to_the_continuous_extent() -> None:
    box = Box(5, 20, 65, 30)
    weights = box.patch_weights(GRID, Weighting("gaussian", 0.5))
    twin = np.zeros((8, 8))
    for column in range(7):
        share = 0.5 if column in (0, 6) else 1.0
        u = min(max((10 * column + 5 - 35) / 30, -1), 1)
        twin[2, column] = share * math.exp(-u * u / 0.5)
    np.testing.assert_allclose(weights, twin / twin.sum(), atol=1e-6)


def test_variance_zero_is_the_middle_of_the_region_and_of_several_the_upper_left() -> None:
    regions = WholeImage(), Box(10, 10, 40, 40), Box(19, 5, 21.5, 6), RING
    found = region_weights(regions, GRID, Weighting("gaussian", 0))
    for weights, place in zip(found, [(3, 3), (2, 2), (0, 2), (0, 3)], strict=True):
        assert weights[place] == 1


@ROUNDINGS
@pytest.mark.parametrize(
    "how", [{}, *({"kind": "gaussian", "variance": one} for one in (1e-300, 1e-9, 1e-3, 1.0, 1e9))]
)
def test_any_variance_gives_weights_and_kinds_keep_their_order(how: Any, rounding: Any) -> None:
    weighting = Weighting(**how, rounding=rounding)
    together = region_weights(MIXED, GRID, weighting)
    assert (together >= 0).all()
    np.testing.assert_allclose(together.sum(axis=(1, 2)), 1, atol=1e-5)
    for region, weights in zip(MIXED, together, strict=True):
        np.testing.assert_allclose(weights, region.patch_weights(GRID, weighting), atol=1e-7)


@ROUNDINGS
def test_attention_or_one_head_of_it_multiplies_the_coverage(rounding: Any) -> None:
    attention = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    cover = region_weights(MIXED, GRID, Weighting(rounding=rounding))
    for head, alone in ((None, attention.mean(axis=0)), (4, attention[4])):
        weighting = Weighting("attention", head=head, rounding=rounding)
        weights, twin = region_weights(MIXED, GRID, weighting, attention), cover * alone
        np.testing.assert_allclose(weights, twin / twin.sum(axis=(1, 2), keepdims=True), atol=1e-6)


def test_attention_without_mass_on_the_region_is_coverage() -> None:
    attention = np.zeros((8, 8))
    attention[0, 0] = 1e-310
    off, on = Box(20, 20, 50, 50), Box(0, 0, 20, 20)
    found = region_weights([off, on], GRID, Weighting("attention"), attention)
    np.testing.assert_allclose(found[0], off.patch_weights(GRID), rtol=1e-6)
    assert found[1, 0, 0] == 1


@pytest.mark.parametrize(("attention", "head", "text"), [
    (None, None, "none; use 'uniform'"), (np.ones((3, 7, 8)), None, r"\(3, 7, 8\).*\(heads, 8, 8\)"),
    (np.ones(64), None, r"\(64,\)"), (np.full((8, 8), np.nan), None, "non-finite"),
    (np.full((8, 8), -1.0), None, "negative"), (np.ones((6, 8, 8)), 6, "head 6 .*6 heads"),
    (np.ones((8, 8)), 0, "no single heads"),
])  # fmt: skip
def test_attention_that_does_not_fit(attention: object, head: int | None, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        region_weights([Point(1, 1)], GRID, Weighting("attention", head=head), attention)


def some_features() -> PatchFeatures:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 6, generator=generator)
    geometry = fit_image((60, 40), mode="aspect", size=40, patch_size=8)
    tokens = torch.randn(*geometry.grid, 5, generator=generator)
    return PatchFeatures(tokens=tokens, cls=None, attention=maps, geometry=geometry)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "attention"])
def test_pooled_tokens_are_the_weighted_sum(kind: Any, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("patchioner.regions.base._REGIONS", 2)
    features = some_features()
    half = dataclasses.replace(features, tokens=features.tokens.half())
    weighting = Weighting(kind)
    regions = [Box(3, 4, 33, 39), WholeImage(), RegionSet([Point(1, 1), Box(0, 0, 60, 9)])]
    weights = region_weights(regions, features.geometry, weighting, features.attention)
    twin = np.einsum("nhw,hwd->nd", weights, features.tokens.numpy())
    np.testing.assert_allclose(pool_regions(features, regions, weighting), twin, atol=1e-5)
    pooled = pool_regions(half, regions, weighting)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled, twin, atol=1e-2)


def cosines(tokens: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(h, w) of the tokens with one vector."""
    found: np.ndarray = tokens @ one / np.linalg.norm(tokens, axis=-1) / np.linalg.norm(one)
    return found


@pytest.mark.parametrize("kind", ["uniform", "attention"])
def test_the_foreground_is_what_is_like_the_region_and_unlike_its_surroundings(kind: Any) -> None:
    features, sharp = some_features(), Weighting(kind, foreground=8.0)
    regions = [Box(20, 10, 40, 30), Patch(0, 0), WholeImage(), Polygon([(3, 3), (50, 3), (3, 30)])]
    base = region_weights(regions, features.geometry, Weighting(kind), features.attention)
    found, tokens = feature_weights(features, regions, sharp), features.tokens.numpy()
    for weights, got in zip(base, found, strict=True):
        around = np.zeros_like(weights)
        spans = [(each.min(), each.max() + 1) for each in np.nonzero(weights)]
        near = tuple(slice(max(0, 2 * low - high), 2 * high - low) for low, high in spans)
        around[near] = base[2][near] * (weights[near] == 0)
        twin = weights
        if around.any():
            own, other = (np.einsum("hw,hwd->d", one, tokens) for one in (weights, around))
            twin = weights * np.exp(8 * (cosines(tokens, own) - cosines(tokens, other)))
        np.testing.assert_allclose(got, twin / twin.sum(), atol=1e-5)
    assert not np.allclose(found[0], base[0], atol=0.01)
    np.testing.assert_allclose(found[2], base[2], atol=1e-7)
    np.testing.assert_allclose(found[:1], feature_weights(features, regions[:1], sharp), atol=1e-6)
    assert feature_weights(features, [], sharp).shape == (0, *features.geometry.grid)


@ROUNDINGS
def test_cls_is_the_token_of_the_image_whatever_the_region(rounding: Any) -> None:
    features = dataclasses.replace(some_features(), cls=torch.arange(5.0).half())
    regions = [Box(3, 4, 33, 39), WholeImage(), Point(1, 1)]
    weighting = Weighting("cls", rounding=rounding)
    pooled = pool_regions(features, regions, weighting)
    torch.testing.assert_close(pooled, torch.arange(5.0).expand(3, 5))
    with pytest.raises(RegionError, match="60x40"):
        pool_regions(features, [Point(61, 3)], weighting)
    with pytest.raises(OptionError, match="CLS token, and it gives none; use 'uniform'"):
        pool_regions(some_features(), [Point(1, 3)], weighting)


def test_a_draw_is_the_same_in_any_company_and_any_run() -> None:
    spans = np.array([[0, 0, 1, 1], [2, 2, 5, 5], [0, 0, 1, 1]])
    together = published_middle(spans + 0.5, (8, 8), 7)
    np.testing.assert_array_equal(together[0], together[2])
    alone = published_middle(spans[1:2] + 0.5, (8, 8), 7)
    np.testing.assert_array_equal(together[1:2], alone)
    # Pinned: a draw that changed with a release would change captions.
    drawn = [published_middle(spans[1:2] + 0.5, (8, 8), seed)[0] for seed in range(4)]
    assert [np.argwhere(one).tolist() for one in drawn] == [[[3, 3]], [[4, 4]], [[4, 4]], [[3, 3]]]
