"""Regions of a photo as embeddings, pooled or cut out, and their projection over the gap to text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner.backbones import Backbone, PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.checkpoints.settings import ModelSettings
from patchioner.images import cut_out
from patchioner.regions import Region, Weighting, WholeImage, pool_regions

_CROPS_AT_ONCE = 32


@torch.inference_mode()
def project(embeddings: Tensor, settings: ModelSettings, bank: MemoryBank | None) -> Tensor:
    """Carry (n, dim) region embeddings over the gap between images and text, as a checkpoint's settings say."""
    if settings.projection == "raw":
        return embeddings
    if settings.projection == "none" or bank is None:
        return F.normalize(embeddings, dim=1)
    return bank.project(
        embeddings,
        temperature=settings.temperature,
        normalize=settings.normalize,
        top_k=settings.top_k,
    )


def embed_pooled(
    features: PatchFeatures,
    regions: Sequence[Region],
    settings: ModelSettings,
    weighting: Weighting | None = None,
) -> Tensor:
    """Pool regions from the patch tokens of one photo, (n, dim) float32.

    Args:
        features: of the photo.
        regions: n of them; each kind may have settings of its own.
        settings: weighting and context of each kind. Where there is a context, the row is the unit pooled token plus
            that share of the unit CLS token; else the pooled token.
        weighting: of all regions, in place of the settings'.

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
) -> Tensor:
    """Cut each region out by its bounding box, encode it alone, and embed it as a whole image; see `embed_pooled`."""
    if features.image is None:
        raise OptionError(
            "regions are to be cut out, but these features do not hold their photo: "
            "encode it with keep_image=True"
        )
    rows = []
    for start in range(0, len(regions), _CROPS_AT_ONCE):
        crops = [
            cut_out(features.image, region.bounds(features.geometry))
            for region in regions[start : start + _CROPS_AT_ONCE]
        ]
        for found in backbone.encode(crops):
            rows.append(embed_pooled(found, [WholeImage()], settings, weighting))
    return torch.cat(rows)
