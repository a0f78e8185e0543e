"""Regions of a photo as embeddings, pooled or cut out, and their projection over the gap to text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner.backbones import Backbone, Encodable, PatchFeatures, PreparedPhoto, SingleViT, preprocess
from patchioner.base.errors import OptionError
from patchioner.checkpoints.folder import ModelSettings
from patchioner.geometry import ImageGeometry
from patchioner.images import cut_out
from patchioner.regions import Box, Region, Weighting, WholeImage, pool_regions

_CROPS_AT_ONCE = 32
_SURROUNDINGS = 0.25  # of a crop that is added, on each side, in sides of the region
_SHARE = 0.5  # of a crop beside what is pooled: whole, captions name more that is not there
_SMALLER = 3 / 8  # of the photo's input size: such crops name as much as whole ones, for a tenth of a pass


def shares(regions: Sequence[Region], geometry: ImageGeometry) -> Tensor:
    """(n,) float32: how much of the photo the bounds of each region take, at least a hundred thousandth."""
    width, height = geometry.image_size
    bounds = torch.tensor([region.bounds(geometry) for region in regions], dtype=torch.float32)
    left, top, right, bottom = bounds.view(-1, 4).unbind(1)
    return ((right - left) * (bottom - top) / (width * height)).clamp(1e-5, 1.0)


@torch.inference_mode()
def project(rows: Tensor, settings: ModelSettings, bank: MemoryBank | None) -> Tensor:
    """Carry (n, dim) region embeddings over the gap between images and text, as a checkpoint's settings say."""
    if settings.projection == "raw":
        return rows
    if settings.projection == "none" or bank is None:
        return F.normalize(rows, dim=1)
    return bank.project(rows, temperature=settings.temperature, normalize=settings.normalize, top_k=settings.top_k)


def embed_pooled(
    features: PatchFeatures, regions: Sequence[Region], settings: ModelSettings, weighting: Weighting | None = None
) -> Tensor:
    """Pool n regions from the patch tokens of one photo, (n, dim) float32, by weighting and context of each kind.

    Where there is a context, the row is the unit pooled token plus that share of the unit CLS token; else the pooled
    token. A `weighting` is of all regions, in place of the settings'.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention or a CLS token of a backbone that has none.
    """
    alike: dict[tuple[Weighting, float], list[int]] = {}
    for place, region in enumerate(regions):
        own, context = settings.for_region(region)
        alike.setdefault((weighting or own, context), []).append(place)
    embedded = features.tokens.new_empty((len(regions), features.dim), dtype=torch.float32)
    for (chosen, context), places in alike.items():
        pooled = pool_regions(features, [regions[place] for place in places], chosen)
        if features.cls is not None and context:
            pooled = F.normalize(pooled, dim=1) + context * F.normalize(features.cls, dim=0)
        embedded[places] = pooled
    return embedded


def embed_crops(
    backbone: Backbone,
    features: PatchFeatures,
    regions: Sequence[Region],
    settings: ModelSettings,
    weighting: Weighting | None = None,
    *,
    add: bool = False,
) -> Tensor:
    """Cut each region out by its bounding box, encode it alone, and embed it as a whole image; see `embed_pooled`.

    With `add`: unit pooled embeddings plus half the unit ones of the regions' boxes in crops, a quarter wider on each
    side; small crops where the backbone takes photos of any shape. Whole photos are pooled alone.
    """
    bounds = [region.bounds(features.geometry) for region in regions]
    if not add:
        cut = _encoded_crops(backbone, features, bounds)
        return torch.cat([embed_pooled(one, [WholeImage()], settings, weighting) for one in cut])
    rows = F.normalize(embed_pooled(features, regions, settings, weighting), dim=1)
    parts = [place for place, region in enumerate(regions) if not isinstance(region, WholeImage)]
    boxes = [bounds[place] for place in parts]
    wide = [_widened(box, features.geometry.image_size) for box in boxes]
    crops = _encoded_crops(backbone, features, wide, _SMALLER)
    for place, box, outer, crop in zip(parts, boxes, wide, crops, strict=True):
        left, top = math.floor(outer[0]), math.floor(outer[1])
        inner = Box(box[0] - left, box[1] - top, box[2] - left, box[3] - top)
        rows[place] += _SHARE * F.normalize(embed_pooled(crop, [inner], settings, weighting)[0], dim=0)
    return rows


def _widened(box: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    left, top, right, bottom = box
    across, down = _SURROUNDINGS * (right - left), _SURROUNDINGS * (bottom - top)
    ends = min(right + across, size[0]), min(bottom + down, size[1])
    return max(left - across, 0.0), max(top - down, 0.0), *ends


def _encoded_crops(
    backbone: Backbone, features: PatchFeatures, bounds: Sequence[Sequence[float]], scale: float = 1.0
) -> Iterator[PatchFeatures]:
    if features.image is None:
        raise OptionError("to cut regions out, encode the photo with keep_image=True")
    for start in range(0, len(bounds), _CROPS_AT_ONCE):
        crops = [cut_out(features.image, one) for one in bounds[start : start + _CROPS_AT_ONCE]]
        yield from backbone.encode([_scaled(backbone, crop, scale) for crop in crops])


def _scaled(backbone: Backbone, crop: Image.Image, scale: float) -> Encodable:
    """A crop prepared at `scale` of the usual input size; as it is for a backbone with one grid."""
    if not isinstance(backbone, SingleViT) or backbone.preprocessing.mode != "aspect":
        return crop
    usual = backbone.preprocessing
    patches = max(1, round(usual.size * scale / usual.patch_size))
    return PreparedPhoto(*preprocess(crop, replace(usual, size=patches * usual.patch_size)))
