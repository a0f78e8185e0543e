"""What every kind of region says of itself; weights against plain twins; other libraries' results."""

from __future__ import annotations

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
from patchioner.regions import (
    Mask,
    Polygon,
    feature_weights,
    from_sam,
    pool_regions,
    region_weights,
)
from patchioner.regions.base import published_middle
from tests.support import MonkeyPatch

SIZE = (40, 20)
GEOMETRY = fit_image(SIZE, mode="stretch", size=32, patch_size=8)
ARRAY = np.random.default_rng(1).random((20, 40)) < 0.4
ARRAY[0, 0] = True


REGIONS: list[Region] = [
    Box(1, 2, 3.5, 4),
    Point(1, 2.25),
    Patch(1, 2),
    Polygon([[(0, 0), (7, 0), (0, 5)], [(5, 5), (7, 5), (6, 3)]]),
    Trace([(1, 2), (3, 4)]),
    Trace([(0.1, 0.2)], normalized=True),
    Mask(ARRAY),
    Mask(~ARRAY),
    RegionSet([Box(0, 0, 3, 3), RegionSet([Point(1, 1), WholeImage()])]),
    WholeImage(),
]


@pytest.mark.parametrize("region", REGIONS, ids=lambda region: region.kind)
def test_json_gives_the_region_back_and_outlines_lie_on_the_image(region: Region) -> None:
    assert Region.from_json(json.loads(json.dumps(region.to_json()))) == region
    assert 0 < len(region.describe()) < 40
    parts = region.outline(SIZE, GEOMETRY)
    assert parts
    for part in parts:
        assert (part.points >= 0).all() and (part.points <= SIZE).all()
        assert (part.mask is not None) == (part.style == "mask")


def test_json_names_no_file_and_a_patch_needs_the_grid_to_be_drawn() -> None:
    with pytest.raises(RegionError, match="secret.png"):
        Region.from_json({"mask": "secret.png"})
    with pytest.raises(OptionError, match="geometry"):
        Patch(0, 0).outline(SIZE)


def test_detections_of_supervision_and_ultralytics_whose_padding_goes() -> None:
    detections = SimpleNamespace(xyxy=np.array([[1, 2, 3, 4.0]]), mask=ARRAY[None])
    assert Box.from_supervision(detections) == [Box(1, 2, 3, 4)]
    assert Mask.from_supervision(detections) == [Mask(ARRAY)]
    assert Mask.from_supervision(SimpleNamespace(mask=None)) == []
    quarter = np.zeros((20, 40), dtype=bool)
    quarter[:10, :20] = True
    box = SimpleNamespace(xyxy=torch.tensor([[1.0, 2, 3, 4]]))
    letterboxed = np.zeros((96, 96), dtype=np.float32)
    scale = 96 / 40
    letterboxed[24 : 24 + int(10 * scale), : int(20 * scale)] = 1
    masks = SimpleNamespace(data=torch.from_numpy(letterboxed[None]))
    result = SimpleNamespace(boxes=box, masks=masks, orig_shape=(20, 40))
    assert Box.from_ultralytics(result) == [Box(1, 2, 3, 4)]
    assert Mask.from_ultralytics(result) == [Mask(quarter)]
    plain = SimpleNamespace(masks=SimpleNamespace(data=ARRAY[None]), orig_shape=(20, 40))
    assert Mask.from_ultralytics(plain) == [Mask(ARRAY)]
    assert Mask.from_ultralytics(SimpleNamespace(masks=None)) == []


def test_masks_of_sam_2s_predictor() -> None:
    stack = np.stack([ARRAY, ~ARRAY])
    expected: list[Region] = [Mask(ARRAY), Mask(~ARRAY)]
    scores = np.ones(2)
    for given in (stack, torch.from_numpy(stack), stack[:, None], (stack, scores, stack)):
        assert from_sam(given) == expected
    with pytest.raises(RegionError, match=r"\(2, 3, 20, 40\)"):
        from_sam(np.ones((2, 3, 20, 40)))


PHOTO = (96, 60)  # 24 x 15 pixels a patch under a stretch
ON_PHOTO = fit_image(PHOTO, mode="stretch", size=64, patch_size=16)


def mask(x1: int, y1: int, x2: int, y2: int) -> Mask:
    array = np.zeros(PHOTO[::-1], dtype=bool)
    array[y1, x1] = array[y2 - 1, x2 - 1] = True
    return Mask(array)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Box(10.5, 20, 30, 40.25), (10.5, 20, 30, 40.25)),
        (Box(-5, -5, 200, 30), (0, 0, 96, 30)),
        (mask(7, 3, 50, 41), (7, 3, 50, 41)),
        (mask(95, 59, 96, 60), (95, 59, 96, 60)),
        (Polygon([[(1, 2), (9, 2), (9, 8)], [(20, 30), (25, 30), (20, 99)]]), (1, 2, 25, 60)),
        (Point(30, 20), (24, 15, 48, 30)),
        (Patch(3, 0), (0, 45, 24, 60)),
        (Trace([(5, 5), (40, 5)]), (0, 0, 48, 15)),
        (WholeImage(), (0, 0, 96, 60)),
        (RegionSet([Box(50, 10, 60, 20), RegionSet([Box(5, 30, 8, 40)])]), (5, 10, 60, 40)),
    ],
)
def test_the_box_around_a_region(region: Region, expected: tuple[float, ...]) -> None:
    assert region.bounds(ON_PHOTO) == pytest.approx(expected)


def test_bounds_under_a_central_square_and_without_an_image() -> None:
    geometry = fit_image(PHOTO, mode="crop", size=64, patch_size=16)
    assert Box(0, 0, 30, 30).bounds(geometry) == (0, 0, 30, 30)
    assert WholeImage().bounds(geometry) == pytest.approx(geometry.visible)
    with pytest.raises(RegionError):
        Box(0, 0, 10, 30).bounds(geometry)  # cut away
    assert Box(-5, -5, 200, 30).bounds == (-5, -5, 200, 30)
    assert mask(7, 3, 50, 41).bounds == (7, 3, 50, 41)
    assert RegionSet([Point(1, 2), Trace([(5, 5), (40, 5)])]).bounds == (1, 2, 40, 5)
    for region in (WholeImage(), Patch(0, 0), Trace([(0.1, 0.2)], normalized=True)):
        assert region.bounds == ()


# 8 x 8 patches of 10 pixels; model pixels are original pixels.
GRID = fit_image((80, 80), mode="stretch", size=80, patch_size=10)


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
    regions = WholeImage(), Box(10, 10, 40, 40), Box(19, 5, 21.5, 6), ring()
    found = region_weights(regions, GRID, Weighting("gaussian", 0))
    for weights, place in zip(found, [(3, 3), (2, 2), (0, 2), (0, 3)], strict=True):
        assert weights[place] == 1


@pytest.mark.parametrize("rounding", ["coverage", "reference"])
@pytest.mark.parametrize(
    "how", [{}, *({"kind": "gaussian", "variance": one} for one in (1e-300, 1e-9, 1e-3, 1.0, 1e9))]
)
def test_any_variance_gives_weights_and_kinds_keep_their_order(how: Any, rounding: Any) -> None:
    weighting = Weighting(**how, rounding=rounding)
    together = region_weights(mixed(), GRID, weighting)
    assert (together >= 0).all()
    np.testing.assert_allclose(together.sum(axis=(1, 2)), 1, atol=1e-5)
    for region, weights in zip(mixed(), together, strict=True):
        np.testing.assert_allclose(weights, region.patch_weights(GRID, weighting), atol=1e-7)


@pytest.mark.parametrize("rounding", ["coverage", "reference"])
def test_attention_multiplies_the_coverage(rounding: str) -> None:
    attention = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    how: Any = {"rounding": rounding}
    twin = region_weights(mixed(), GRID, Weighting(**how)) * attention.mean(axis=0)
    weights = region_weights(mixed(), GRID, Weighting("attention", **how), attention)
    np.testing.assert_allclose(weights, twin / twin.sum(axis=(1, 2), keepdims=True), atol=1e-6)


def test_one_head_of_several() -> None:
    attention = np.random.default_rng(0).random((6, 8, 8))
    np.testing.assert_array_equal(
        region_weights(mixed(), GRID, Weighting("attention", head=4), attention),
        region_weights(mixed(), GRID, Weighting("attention"), attention[4]),
    )
    for maps, text in ((attention, "head 6 .*6 heads"), (attention[0], "no single heads")):
        with pytest.raises(OptionError, match=text):
            region_weights(mixed(), GRID, Weighting("attention", head=6), maps)


def test_attention_without_mass_on_the_region_is_coverage() -> None:
    weighting = Weighting("attention")
    attention = np.zeros((8, 8))
    attention[0, 0] = 1e-310
    box = Box(20, 20, 50, 50)
    found = box.patch_weights(GRID, weighting, attention)
    np.testing.assert_allclose(found, box.patch_weights(GRID), rtol=1e-6)
    assert Box(0, 0, 20, 20).patch_weights(GRID, weighting, attention)[0, 0] == 1


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
        region_weights([Point(1, 1)], GRID, Weighting("attention"), attention)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"kind": "gausian"}, "'gausian'.*did you mean 'gaussian'"),
        ({"rounding": "exact"}, "rounding of the weighting is 'exact'.*coverage"),
        ({"variance": float("nan")}, "nan"),
        ({"variance": True}, "True"),
        ({"seed": 0.5}, "seed of the weighting is 0.5; give an integer"),
        ({"head": -1}, "head of the weighting is -1"),
        ({"foreground": -0.5}, "foreground of the weighting is -0.5"),
        ({"foreground": 1e9}, "give 0 to 100"),
        ({"foreground": 5.0, "rounding": "reference"}, "coverage"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Weighting(**values)  # type: ignore[arg-type]


def some_features() -> PatchFeatures:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 6, generator=generator)
    geometry = fit_image((60, 40), mode="aspect", size=40, patch_size=8)
    tokens = torch.randn(*geometry.grid, 5, generator=generator)
    return PatchFeatures(tokens=tokens, cls=None, attention=maps, geometry=geometry)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "attention"])
def test_pooled_tokens_are_the_weighted_sum(kind: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("patchioner.regions.base._REGIONS", 2)
    features = some_features()
    half = dataclasses.replace(features, tokens=features.tokens.half())
    weighting = Weighting(kind)  # type: ignore[arg-type]
    regions = [Box(3, 4, 33, 39), WholeImage(), RegionSet([Point(1, 1), Box(0, 0, 60, 9)])]
    weights = region_weights(regions, features.geometry, weighting, features.attention)
    twin = np.einsum("nhw,hwd->nd", weights, features.tokens.numpy())
    np.testing.assert_allclose(pool_regions(features, regions, weighting), twin, atol=1e-5)
    pooled = pool_regions(half, regions, weighting)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled, twin, atol=1e-2)


@pytest.mark.parametrize("kind", ["uniform", "attention"])
def test_the_foreground_is_what_is_like_the_region_and_unlike_its_surroundings(kind: str) -> None:
    features = some_features()
    regions = [Box(20, 10, 40, 30), Patch(0, 0), WholeImage(), Polygon([(3, 3), (50, 3), (3, 30)])]
    plain = Weighting(kind)  # type: ignore[arg-type]
    sharp = dataclasses.replace(plain, foreground=8.0)
    base = region_weights([*regions, WholeImage()], features.geometry, plain, features.attention)
    found = feature_weights(features, regions, sharp)
    tokens = features.tokens.numpy()
    for weights, got in zip(base, found, strict=False):
        rows, columns = np.nonzero(weights)
        (top, bottom), (left, right) = (
            (each.min() - np.ptp(each) - 1, each.max() + 2 + np.ptp(each))
            for each in (rows, columns)
        )
        around = np.zeros_like(weights)
        for row, column in np.ndindex(weights.shape):
            near = top <= row < bottom and left <= column < right
            around[row, column] = base[-1][row, column] * (near and weights[row, column] == 0)
        own, other = (np.einsum("hw,hwd->d", one, tokens) for one in (weights, around))
        twin = weights.copy()
        for place in np.argwhere(weights) if around.any() else ():
            token = tokens[tuple(place)]
            cosines = [
                token @ one / np.linalg.norm(token) / np.linalg.norm(one) for one in (own, other)
            ]
            twin[tuple(place)] *= math.exp(8 * (cosines[0] - cosines[1]))
        np.testing.assert_allclose(got, twin / twin.sum(), atol=1e-5)
    assert not np.allclose(found[0], base[0], atol=0.01)
    np.testing.assert_allclose(found[2], base[2], atol=1e-7)
    np.testing.assert_allclose(found[:1], feature_weights(features, regions[:1], sharp), atol=1e-6)
    assert feature_weights(features, [], sharp).shape == (0, *features.geometry.grid)


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


def test_a_draw_is_the_same_in_any_company_and_any_run() -> None:
    spans = np.array([[0, 0, 1, 1], [2, 2, 5, 5], [0, 0, 1, 1]])
    together = published_middle(spans + 0.5, (8, 8), 7)
    np.testing.assert_array_equal(together[0], together[2])
    alone = published_middle(spans[1:2] + 0.5, (8, 8), 7)
    np.testing.assert_array_equal(together[1:2], alone)
    # Pinned: a draw that changed with a release would change captions.
    drawn = [published_middle(spans[1:2] + 0.5, (8, 8), seed)[0] for seed in range(4)]
    assert [np.argwhere(one).tolist() for one in drawn] == [[[3, 3]], [[4, 4]], [[4, 4]], [[3, 3]]]
