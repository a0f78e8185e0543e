"""From regions to embeddings as a checkpoint's settings say: pooled from patch tokens, or cut out and encoded alone.

Knows: features, regions, weightings, context. Does not know: memory banks, decoders, where settings come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.aggregate import Weighting, pool_regions
from patchioner.backbones import Backbone, PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.checkpoints.settings import ModelSettings
from patchioner.crops import cut_out, region_bounds
from patchioner.regions import Region, WholeImage

_CROPS_AT_ONCE = 32


def embed_pooled(
    features: PatchFeatures,
    regions: Sequence[Region],
    settings: ModelSettings,
    weighting: Weighting | None = None,
) -> Tensor:
    """Pool regions from the patch tokens of one photo.

    Args:
        features: of the photo.
        regions: n of them; each kind may have settings of its own.
        settings: weighting and context of each kind.
        weighting: of all regions, in place of the settings'.

    Returns:
        (n, dim) float32. Where a region's settings have a context, unit pooled tokens plus that share of the unit CLS
        token; else the pooled tokens.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention or a CLS token of a backbone that has none.

    Example:
        >>> embed_pooled(features, [Box(10, 20, 200, 220)], ModelSettings(context=0.35))
    """
    alike: dict[tuple[Weighting, float], list[int]] = {}
    for place, region in enumerate(regions):
        own, context = settings.for_region(region)
        alike.setdefault((weighting or own, context), []).append(place)
    embedded = features.tokens.new_empty((len(regions), features.dim), dtype=torch.float32)
    for (chosen, context), places in alike.items():
        pooled = pool_regions(features, [regions[place] for place in places], chosen)
        embedded[places] = _with_context(pooled, features.cls, context)
    return embedded


def _with_context(pooled: Tensor, cls: Tensor | None, context: float) -> Tensor:
    if cls is None or context == 0:
        return pooled
    return F.normalize(pooled, dim=1) + context * F.normalize(cls, dim=0)


def embed_crops(
    backbone: Backbone,
    features: PatchFeatures,
    regions: Sequence[Region],
    settings: ModelSettings,
    weighting: Weighting | None = None,
) -> Tensor:
    """Cut each region out by its bounding box, encode it alone, and embed it as a whole image.

    Args:
        backbone: makes one pass per region.
        features: of the photo, holding it.
        regions, settings, weighting: as `embed_pooled`; the settings are those of the whole image.

    Returns:
        (n, dim) float32.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: the features do not hold their photo, or as `embed_pooled`.
    """
    if features.image is None:
        raise OptionError(
            "regions are to be cut out, but these features do not hold their photo: "
            "encode it with keep_image=True"
        )
    rows = []
    for start in range(0, len(regions), _CROPS_AT_ONCE):
        crops = [
            cut_out(features.image, region_bounds(region, features.geometry))
            for region in regions[start : start + _CROPS_AT_ONCE]
        ]
        for found in backbone.encode(crops):
            rows.append(embed_pooled(found, [WholeImage()], settings, weighting))
    return torch.cat(rows)
