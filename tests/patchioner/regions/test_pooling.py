"""Pooling: one product, equal to the plain sum."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Patch,
    Point,
    RegionSet,
    Weighting,
    WholeImage,
    feature_weights,
    pool_regions,
)


def some_features(attention: bool = True) -> PatchFeatures:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 6, generator=generator) if attention else None
    geometry = fit_image((60, 40), mode="aspect", size=40, patch_size=8)
    tokens = torch.randn(*geometry.grid, 5, generator=generator)
    return PatchFeatures(tokens=tokens, cls=None, attention=maps, geometry=geometry)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "attention"])
def test_pooled_tokens_are_the_plain_weighted_sum(kind: str) -> None:
    features = some_features()
    weighting = Weighting(kind)  # type: ignore[arg-type]
    regions = [Box(3, 4, 33, 39), WholeImage(), RegionSet([Point(1, 1), Box(0, 0, 60, 9)])]
    pooled = pool_regions(features, regions, weighting)
    assert pooled.dtype == torch.float32
    for region, embedding in zip(regions, pooled, strict=True):
        weights = region.patch_weights(features.geometry, weighting, features.attention)
        twin = sum(
            float(weights[place]) * features.tokens[place].numpy()
            for place in np.ndindex(features.geometry.grid)
        )
        np.testing.assert_allclose(embedding.numpy(), twin, atol=1e-5)


def test_a_patch_is_its_token() -> None:
    features = some_features()
    pooled = pool_regions(features, Patch.all(features.geometry))
    torch.testing.assert_close(pooled, features.tokens.flatten(0, 1))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    features = some_features()
    regions = [Box(i, i, i + 7, i + 5) for i in range(30)]
    whole = pool_regions(features, regions)
    monkeypatch.setattr("patchioner.regions.weights._REGIONS", 7)
    torch.testing.assert_close(pool_regions(features, regions), whole)


def test_half_precision_tokens_are_summed_in_float32() -> None:
    features = some_features()
    half = PatchFeatures(features.tokens.half(), None, None, features.geometry)
    pooled = pool_regions(half, [WholeImage()])
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool_regions(features, [WholeImage()]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rounding", ["coverage", "reference"])
def test_cls_is_the_token_of_the_image_whatever_the_region(rounding: str) -> None:
    features = dataclasses.replace(some_features(), cls=torch.arange(5.0).half())
    regions = [Box(3, 4, 33, 39), WholeImage(), Point(1, 1)]
    weighting = Weighting("cls", rounding=rounding)  # type: ignore[arg-type]
    pooled = pool_regions(features, regions, weighting)
    torch.testing.assert_close(pooled, torch.arange(5.0).expand(3, 5))
    with pytest.raises(RegionError, match="60x40"):
        pool_regions(features, [Point(61, 3)], weighting)
    with pytest.raises(OptionError, match="CLS token, and it gives none; use 'uniform'"):
        pool_regions(some_features(), [Point(1, 3)], weighting)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "attention"])
def test_feature_weights_are_those_that_pool(kind: str) -> None:
    features = some_features()
    regions = [Box(3, 4, 33, 39), RegionSet([Point(1, 1), Box(0, 0, 60, 9)])]
    weighting = Weighting(kind)  # type: ignore[arg-type]
    weights = torch.from_numpy(feature_weights(features, regions, weighting))
    twin = torch.einsum("nhw,hwd->nd", weights, features.tokens)
    torch.testing.assert_close(pool_regions(features, regions, weighting), twin)


def test_no_region_gives_an_empty_matrix() -> None:
    assert pool_regions(some_features(), []).shape == (0, 5)


def test_errors_reach_the_caller() -> None:
    with pytest.raises(RegionError, match="60x40"):
        pool_regions(some_features(), [Point(61, 3)])
    with pytest.raises(RegionError, match="list of regions"):
        pool_regions(some_features(), Point(1, 3))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="attention"):
        pool_regions(some_features(attention=False), [Point(1, 3)], Weighting("attention"))
