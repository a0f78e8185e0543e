"""Regions as embeddings: settings of each kind, context, and crops against the same done by hand."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from patchioner import Box, Patchioner, Point, RegionSet, Weighting, WholeImage
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.checkpoints.folder import KindSettings, ModelSettings
from patchioner.embedding import embed_crops, embed_pooled
from patchioner.regions import Polygon, Region, Trace, pool_regions
from tests.support.tiny import noise_photo, tiny_backbone, tiny_parts

PHOTO = noise_photo()  # 96 x 64
BOXES = [Box(0, 0, 33, 20), Box(30.5, 10.25, 90, 60), Box(-5, 40, 20, 99)]
GAUSSIAN = Weighting("gaussian", 0.3)


@pytest.fixture(scope="module")
def features() -> PatchFeatures:
    return replace(tiny_backbone().encode([PHOTO])[0], image=PHOTO)


def test_each_kind_has_its_own_settings(features: PatchFeatures) -> None:
    kinds = {"box": KindSettings(GAUSSIAN), "trace": KindSettings(context=0.0)}
    kinds["region_set"] = KindSettings(Weighting("cls"), 2.0)
    settings = ModelSettings(context=0.5, kinds=kinds)
    trace, point = Trace([(5, 60), (60, 40)]), Point(70, 50)
    regions: list[Region] = [trace, BOXES[0], point, RegionSet(BOXES[:2]), BOXES[1]]
    found = embed_pooled(features, regions, settings)
    assert features.cls is not None
    unit = F.normalize(features.cls, dim=0)

    def by_hand(region: Region, weighting: Weighting, context: float) -> torch.Tensor:
        pooled = pool_regions(features, [region], weighting)[0]
        return F.normalize(pooled, dim=0) + context * unit if context else pooled

    weightings = (Weighting(), GAUSSIAN, Weighting(), Weighting("cls"), GAUSSIAN)
    ways = list(zip(regions, weightings, (0.0, 0.5, 0.5, 2.0, 0.5), strict=True))
    torch.testing.assert_close(found, torch.stack([by_hand(*way) for way in ways]))
    # The weighting of a call replaces that of every kind; contexts stay.
    found = embed_pooled(features, regions, settings, Weighting("attention"))
    for row, (region, _, context) in list(zip(found, ways, strict=True))[:2]:
        torch.testing.assert_close(row, by_hand(region, Weighting("attention"), context))
    model = build(kinds=kinds)
    weights = model.explain(model.encode(PHOTO), BOXES[1]).weights
    assert weights == pytest.approx(BOXES[1].patch_weights(features.geometry, GAUSSIAN))


def build(**changes: Any) -> Patchioner:
    parts = tiny_parts()
    return Patchioner(replace(parts, settings=replace(parts.settings, **changes)), device="cpu")


@pytest.mark.parametrize("context", [0.0, 0.7])
@patch("patchioner.embedding._CROPS_AT_ONCE", 3)
def test_a_crop_is_encoded_as_a_photo(features: PatchFeatures, context: float) -> None:
    backbone, settings = tiny_backbone(), ModelSettings(context=context)
    found = embed_crops(backbone, features, [*BOXES, WholeImage()], settings)
    corners = (0, 0, 33, 20), (30, 10, 90, 60), (0, 40, 20, 64), (0, 0, 96, 64)
    for row, corner in zip(found, corners, strict=True):
        alone = backbone.encode([PHOTO.crop(corner)])[0]
        torch.testing.assert_close(row, embed_pooled(alone, [WholeImage()], settings)[0])


def test_a_model_that_crops_keeps_the_photo_and_captions_it() -> None:
    plain, own, box = build(), build(crop=True), BOXES[1]
    expected = plain.caption(PHOTO.crop((30, 10, 90, 60)))[0].text
    kept = plain.encode(PHOTO, keep_image=True)
    for model, photo, crop in (
        (own, PHOTO, None), (own, own.encode(PHOTO), None), (plain, PHOTO, True), (plain, kept, True),
    ):  # fmt: skip
        assert model.caption(photo, [box], crop=crop)[0].text == expected
    assert own.caption(PHOTO, [box], crop=False) == plain.caption(PHOTO, [box])
    assert plain.encode(PHOTO).image is None and own.encode(PHOTO).image is not None


def test_what_has_no_crop(features: PatchFeatures) -> None:
    with pytest.raises(OptionError, match="keep_image=True"):
        build().embed_regions(replace(features, image=None), BOXES, crop=True)
    with pytest.raises(OptionError, match="'twice'"):
        build().caption(PHOTO, BOXES, crop="twice")  # type: ignore[arg-type]
    with pytest.raises(RegionError):
        build().embed_regions(features, [Box(200, 0, 220, 20)], crop=True)


@pytest.mark.parametrize(("mode", "size"), [("aspect", 32), ("crop", 64)])
def test_small_crops_are_added_with_their_surroundings(mode: Any, size: int) -> None:
    backbone, settings = tiny_backbone(mode=mode), ModelSettings(context=0.3)
    features = replace(backbone.encode([PHOTO])[0], image=PHOTO)
    near = tiny_backbone(mode=mode)
    near.preprocessing = replace(near.preprocessing, size=size)
    regions: list[Region] = [BOXES[1], WholeImage(), Polygon([(10, 10), (40, 12), (30, 50)])]
    found = embed_crops(backbone, features, regions, settings, add=True)
    pooled = F.normalize(embed_pooled(features, regions, settings), dim=1)
    torch.testing.assert_close(found[1], pooled[1])
    # 30.5 to 90 and 10.25 to 60, 14.875 and 12.4375 more on each side; 10 to 40 and 10 to 50.
    for row, outer, box in (
        (0, (15, 0, 96, 64), (30.5 - 15, 10.25, 90 - 15, 60)),
        (2, (2, 0, 48, 60), (10 - 2, 10, 40 - 2, 50)),
    ):
        (crop,) = near.encode([PHOTO.crop(outer)])
        inside = F.normalize(embed_pooled(crop, [Box(*box)], settings)[0], dim=0)
        torch.testing.assert_close(found[row], pooled[row] + 0.5 * inside, atol=1e-4, rtol=1e-4)
