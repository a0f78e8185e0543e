"""From weights to region embeddings: one matrix product for all regions of an image.

Knows: patch tokens and weights over them. Does NOT know backbones, text or memory banks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.aggregate.reference import published_lengths
from patchioner.aggregate.weighting import Weighting
from patchioner.aggregate.weights import region_weights
from patchioner.base.errors import OptionError, RegionError
from patchioner.regions import Region

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.backbones.features import PatchFeatures

# Regions pooled at a time: their weights at 37 x 37 patches take 22 MB.
_BLOCK = 4096


def pool_regions(
    features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None
) -> Tensor:
    """The embedding of each region: the weighted sum of the patch tokens.

    With ``Weighting("cls")`` it is the image's CLS token, for every region. With
    ``rounding="reference"`` it is the published embedding, length included: traces, and the whole
    image by attention, are no weighted means there (`published_lengths`).

    Args:
        features: one encoded image, tokens (h, w, dim) float.
        regions: any kinds mixed, ``n`` of them; may be none.
        weighting: uniform exact coverage by default.

    Returns:
        (n, dim) tensor in the order of the regions, float32, on the tokens' device. Not normalised.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention or the CLS token is asked for but the features have none.

    Example:
        >>> embeddings = pool_regions(features, [Box(10, 20, 200, 220), WholeImage()])
    """
    import torch

    weighting = weighting or Weighting()
    tokens = features.tokens.flatten(0, 1).float()
    pooled = [tokens.new_zeros((0, tokens.shape[1]))]
    if isinstance(regions, Region):
        raise RegionError(f"give a list of regions, as in [{regions!r}]")
    listed = list(regions)
    for start in range(0, len(listed), _BLOCK):
        pooled.append(_pool(features, tokens, listed[start : start + _BLOCK], weighting))
    return torch.cat(pooled)


def feature_weights(
    features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None
) -> npt.NDArray[np.float32]:
    """The weights that `pool_regions` gives the patches: `region_weights` for encoded images.

    Args, errors: as `pool_regions`.

    Returns:
        (n, h, w) float32, every map sums to 1, also where reference mode changes the length; for
        ``cls`` the weights of ``uniform``.

    Example:
        >>> weights = feature_weights(features, [Box(10, 20, 200, 220)], Weighting("attention"))
    """
    weighting = weighting or Weighting()
    return region_weights(regions, features.geometry, weighting, _attention(features, weighting))


def _attention(features: PatchFeatures, weighting: Weighting) -> Tensor | None:
    """The attention map that the weighting wants; reference mode takes the published one."""
    if weighting.kind != "attention" or weighting.rounding == "coverage":
        return features.attention
    if features.reference_attention is None:
        raise OptionError(
            "Weighting('attention', rounding='reference') needs the attention map as published, "
            "and the backbone gives none; use rounding='coverage', or 'uniform' or 'gaussian'"
        )
    return features.reference_attention


def _pool(
    features: PatchFeatures, tokens: Tensor, regions: Sequence[Region], weighting: Weighting
) -> Tensor:
    """(n, dim) embeddings of a block of regions; tokens are (h * w, dim) float32."""
    import torch

    # Also for the CLS token: a region that the model does not see is an error all the same.
    weights = feature_weights(features, regions, weighting)
    if weighting.kind == "cls":
        return _cls(features).to(tokens.device).expand(len(regions), -1)
    pooled = torch.from_numpy(weights.reshape(len(regions), -1)).to(tokens.device) @ tokens
    if weighting.rounding == "coverage":
        return pooled
    attention = _attention(features, weighting)
    lengths = published_lengths(regions, features.geometry, weighting, attention)
    return pooled * torch.from_numpy(lengths).to(tokens.device)[:, None]


def _cls(features: PatchFeatures) -> Tensor:
    if features.cls is None:
        raise OptionError(
            "Weighting('cls') needs the backbone's CLS token, and it gives none; "
            "use 'uniform' or 'gaussian'"
        )
    return features.cls.float()
