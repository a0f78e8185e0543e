"""From weights to region embeddings: one matrix product for all regions of an image.

Knows: patch tokens and weights over them. Does NOT know backbones, text or memory banks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from patchioner.aggregate.weighting import Weighting
from patchioner.aggregate.weights import region_weights
from patchioner.regions import Region
from patchioner_base.errors import RegionError

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.backbones.features import PatchFeatures

# Regions pooled at a time: their weights at 37 x 37 patches take 22 MB.
_BLOCK = 4096


def pool_regions(
    features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None
) -> Tensor:
    """The embedding of each region: the weighted sum of the patch tokens.

    Args:
        features: one encoded image, tokens (h, w, dim) float.
        regions: any kinds mixed, ``n`` of them; may be none.
        weighting: uniform exact coverage by default.

    Returns:
        (n, dim) tensor in the order of the regions, float32, on the tokens' device. Not normalised.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention is asked for but the features have none.

    Example:
        >>> embeddings = pool_regions(features, [Box(10, 20, 200, 220), WholeImage()])
    """
    import torch

    tokens = features.tokens.flatten(0, 1).float()
    pooled = [tokens.new_zeros((0, tokens.shape[1]))]
    if isinstance(regions, Region):
        raise RegionError(f"give a list of regions, as in [{regions!r}]")
    listed = list(regions)
    for start in range(0, len(listed), _BLOCK):
        block = listed[start : start + _BLOCK]
        weights = region_weights(block, features.geometry, weighting, features.attention)
        matrix = torch.from_numpy(weights.reshape(len(block), -1)).to(tokens.device)
        pooled.append(matrix @ tokens)
    return torch.cat(pooled)
