"""From regions to embeddings: weights over the patches, then one weighted sum for all regions.

Needs numpy only; torch where tokens come in (`pool_regions`).
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError
from patchioner.regions.base import Region, Rounding, Shape, as_numpy, listed
from patchioner.regions.coverage import Floats, Footprints, footprint_spans, one_hot
from patchioner.regions.shapes import WholeImage

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.backbones import PatchFeatures
    from patchioner.geometry import ImageGeometry

Kind = Literal["uniform", "gaussian", "attention", "cls"]

# Bounds on temporary arrays: shapes weighted, and regions pooled, at a time.
_SHAPES, _REGIONS = 1024, 4096
# From here on the published system takes the whole image's Gaussian for flat.
_FLAT_VARIANCE = 100.0
# Distances from the middle that differ by less than this are the same distance.
_SAME_DISTANCE = 1e-9


@dataclass(frozen=True)
class Weighting:
    """What a patch of a region counts for.

    Args:
        kind: ``uniform``: by the share of the patch that the region covers. ``gaussian``: that,
            times exp(-(u^2 + v^2) / variance), u and v from -1 to 1 over the region's extent.
            ``attention``: that, times the image's CLS attention, or the coverage alone where that
            is zero. ``cls``: no patch, but the image's CLS token whatever the region (for crops
            and baselines); its weights are those of ``uniform``.
        variance: divisor of the Gaussian, finite and not negative; 0 is the one patch nearest
            to the middle (of several, the upper left). There is no factor 2, as published.
        rounding: ``coverage`` is exact. ``reference`` repeats the published arithmetic for boxes,
            sets of boxes, traces and the whole image, to 1e-5, for the sake of published numbers
            (source: facts about the published Patch-ioner code); other kinds stay exact:

            * Boxes: origin and size are floored separately, and a crop shifts a box instead of
              cutting it (`coverage.reference_box_footprints`).
            * Traces: points are counted, not lengths, a crop is ignored, and the embedding's
              length grows with the points (`Shape.reference_length`).
            * ``gaussian``, variance 0, an even span: one of the two middle patches of each axis
              by chance, here drawn from `seed` and the patches. Variance 100 or more, the whole
              image: uniform.
            * ``attention``: the softmax of the heads' mean LOGITS, 16 heads assumed
              (`PatchFeatures.reference_attention`), not the mean of the heads' maps; the whole
              image is the mean, not the sum, of attention x token. NOT repeated: each box changed
              the map that later boxes of the same call saw; no published number used it.
            * Where the published result is NaN, there is a `RegionError`.
        seed: of the chance under variance 0, an integer. The same patches get the same choice.
        head: for ``attention``: the one head whose map counts, from 0; None is their mean.

    Raises:
        OptionError: a value outside of these.

    Example:
        >>> Weighting("gaussian", variance=0.5).rounding
        'coverage'
    """

    kind: Kind = "uniform"
    variance: float = 1.0
    rounding: Rounding = "coverage"
    seed: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        for what, allowed in (("kind", get_args(Kind)), ("rounding", get_args(Rounding))):
            value = getattr(self, what)
            if value not in allowed:
                close = difflib.get_close_matches(str(value), allowed, n=1)
                guess = f" (did you mean {close[0]!r}?)" if close else ""
                raise OptionError(
                    f"{what} of the weighting is {value!r:.80}{guess}; use one of {allowed}"
                )
        variance, head = self.variance, self.head
        number = type(variance) in (int, float) and math.isfinite(variance)
        for what, right, wanted in (
            ("variance", number and variance >= 0, "give a finite number from 0 on"),
            ("head", head is None or (type(head) is int and head >= 0), "give 0 or more, or None"),
            ("seed", type(self.seed) is int, "give an integer"),
        ):
            if not right:
                value = getattr(self, what)
                raise OptionError(f"{what} of the weighting is {value!r:.80}; {wanted}")


def pool_regions(
    features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None
) -> Tensor:
    """The embedding of each region: the weighted sum of the patch tokens.

    With ``Weighting("cls")`` it is the image's CLS token, for every region. With
    ``rounding="reference"`` it is the published embedding, length included: traces, and the whole
    image by attention, are no weighted means there (`Shape.reference_length`).

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
    found = listed(regions, "region")
    pooled = [tokens.new_zeros((0, tokens.shape[1]))]
    for start in range(0, len(found), _REGIONS):
        pooled.append(_pool(features, tokens, found[start : start + _REGIONS], weighting))
    return torch.cat(pooled)


def _pool(
    features: PatchFeatures, tokens: Tensor, regions: Sequence[Region], weighting: Weighting
) -> Tensor:
    """(n, dim) embeddings of a block of regions; tokens are (h * w, dim) float32."""
    import torch

    # Also for the CLS token: a region that the model does not see is an error all the same.
    weights = feature_weights(features, regions, weighting)
    if weighting.kind == "cls":
        if features.cls is None:
            raise OptionError(
                "Weighting('cls') needs the backbone's CLS token, and it gives none; "
                "use 'uniform' or 'gaussian'"
            )
        return features.cls.float().to(tokens.device).expand(len(regions), -1)
    pooled = torch.from_numpy(weights.reshape(len(regions), -1)).to(tokens.device) @ tokens
    if weighting.rounding == "coverage":
        return pooled
    # Weighted means are not the published embeddings of traces and whole images; those of sets are.
    geometry = features.geometry
    attended = _attention_map(_attention(features, weighting), geometry.grid, weighting)
    lengths = [
        region.reference_length(geometry, attended) if isinstance(region, Shape) else 1.0
        for region in regions
    ]
    return pooled * pooled.new_tensor(lengths)[:, None]


def feature_weights(
    features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None
) -> npt.NDArray[np.float32]:
    """The weights that `pool_regions` gives the patches: `region_weights` of encoded images.

    (n, h, w) float32, every map sums to 1, also where reference mode changes the length.
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


def region_weights(
    regions: Iterable[Region],
    geometry: ImageGeometry,
    weighting: Weighting | None = None,
    attention: object = None,
) -> npt.NDArray[np.float32]:
    """Weights of ``n`` regions, any kinds mixed, over one image's patch grid.

    Args:
        attention: (heads, h, w) or (h, w) array or tensor, non-negative; needed by
            ``Weighting("attention")``, ignored by the others. Published numbers want
            `PatchFeatures.reference_attention` here.

    Returns:
        (n, h, w) float32 in the order of the regions, non-negative, every map sums to 1.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention is asked for but missing, or does not fit the grid.

    Example:
        >>> weights = region_weights([Box(0, 0, 9, 9), WholeImage()], features.geometry)
    """
    weighting = weighting or Weighting()
    found = listed(regions, "region")
    attended = _attention_map(attention, geometry.grid, weighting)
    out = np.zeros((len(found), *geometry.grid), dtype=np.float32)
    for kind, leaves in _by_kind(found).items():
        for start in range(0, len(leaves), _SHAPES):
            block = leaves[start : start + _SHAPES]
            shapes = [shape for shape, _, _ in block]
            footprints = kind.footprints(shapes, geometry, weighting.rounding)
            _add_to_owners(out, _weigh(kind, footprints, weighting, attended), block)
    return out


_Leaf = tuple[Shape, int, float]


def _by_kind(regions: Sequence[Region]) -> dict[type[Shape], list[_Leaf]]:
    """All shapes by kind, each with the index of its region and its share in it."""
    kinds: dict[type[Shape], list[_Leaf]] = {}
    for owner, region in enumerate(regions):
        for shape, share in region.leaves():
            kinds.setdefault(type(shape), []).append((shape, owner, share))
    return kinds


def _add_to_owners(out: npt.NDArray[np.float32], weights: Floats, block: list[_Leaf]) -> None:
    """Add each shape's weights, times its share, to its region's map."""
    owners = np.array([owner for _, owner, _ in block])
    shares = np.array([share for _, _, share in block], dtype=np.float32)
    # Shapes come in the order of their regions, so those of one region are neighbours.
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if len(starts) < len(owners) or (shares != 1.0).any():
        weights = np.add.reduceat(weights * shares[:, None, None], starts, axis=0)
    out[owners[starts]] += weights


def _attention_map(attention: object, grid: tuple[int, int], weighting: Weighting) -> Floats | None:
    """(h, w) float64 mean over the heads, or one head's map, checked; None where none counts."""
    if weighting.kind != "attention":
        return None
    if attention is None:
        raise OptionError(
            "Weighting('attention') needs the backbone's attention, and it gives none; "
            "use 'uniform' or 'gaussian'"
        )
    maps = np.asarray(as_numpy(attention), dtype=np.float64)
    if maps.ndim not in (2, 3) or maps.shape[-2:] != tuple(grid):
        raise OptionError(f"attention has shape {maps.shape}; give (heads, {grid[0]}, {grid[1]})")
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise OptionError("attention holds negative or non-finite values; give softmax weights")
    if weighting.head is None:
        return np.asarray(maps.mean(axis=0) if maps.ndim == 3 else maps)
    if maps.ndim == 2 or weighting.head >= len(maps):
        heads = "no single heads" if maps.ndim == 2 else f"{len(maps)} heads"
        raise OptionError(f"head {weighting.head} is asked for, but the attention has {heads}")
    return np.asarray(maps[weighting.head])


def _weigh(
    kind: type[Shape], footprints: Footprints, weighting: Weighting, attended: Floats | None
) -> Floats:
    """(n, h, w) weights that sum to 1 each."""
    if attended is not None:
        return _by_attention(footprints.cover, attended)
    if weighting.kind in ("uniform", "cls"):
        return footprints.cover
    if weighting.rounding == "reference":
        if weighting.variance >= _FLAT_VARIANCE and issubclass(kind, WholeImage):
            return footprints.cover
        if weighting.variance == 0.0 and kind.reference_is_span:
            return published_middle(footprints, weighting.seed)
    return _by_gaussian(footprints, weighting.variance)


def _by_attention(cover: Floats, attended: Floats) -> Floats:
    # Scaled to at most 1 first: denormal attention would lose its precision in the product.
    peak = np.where(cover > 0, attended, 0.0).max(axis=(1, 2), keepdims=True)
    found = peak > 0.0
    weights = np.where(found, cover * (attended / np.where(found, peak, 1.0)), cover)
    total: Floats = weights.sum(axis=(1, 2), keepdims=True)
    return weights / total


def _by_gaussian(footprints: Footprints, variance: float) -> Floats:
    """Coverage times exp(-(u^2 + v^2) / variance), normalised."""
    cover = footprints.cover
    u = _places(cover.shape[2], footprints.centre[:, 0], footprints.half[:, 0])
    v = _places(cover.shape[1], footprints.centre[:, 1], footprints.half[:, 1])
    if variance == 0.0:
        return _nearest_to_middle(cover, u, v)
    # A patch that is only partly covered may have its centre outside of the extent.
    u, v = np.clip(u, -1.0, 1.0), np.clip(v, -1.0, 1.0)
    squared = np.square(v)[:, :, None] + np.square(u)[:, None, :]
    covered = cover > 0
    # Measured from the nearest covered patch: a narrow Gaussian must not vanish everywhere.
    squared -= np.where(covered, squared, np.inf).min(axis=(1, 2), keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        weights = cover * np.exp(-np.where(covered, squared, 0.0) / variance)
    total: Floats = weights.sum(axis=(1, 2), keepdims=True)
    return weights / total


def _places(cells: int, centre: Floats, half: Floats) -> Floats:
    """(n, cells) place of each cell's centre in its extent, -1..1; 0 where that has no width."""
    distance = np.arange(cells) + 0.5 - centre[:, None]
    return np.where(half[:, None] > 0.0, distance / np.maximum(half, 1e-6)[:, None], 0.0)


def _nearest_to_middle(cover: Floats, u: Floats, v: Floats) -> Floats:
    """One-hot at the covered patch nearest to the middle; of several, the first row by row."""
    squared = np.where(cover > 0, np.square(v)[:, :, None] + np.square(u)[:, None, :], np.inf)
    flat = squared.reshape(len(cover), -1)
    least = flat.min(axis=1, keepdims=True)
    chosen = (flat <= least + _SAME_DISTANCE * (1.0 + least)).argmax(axis=1)
    weights = np.zeros_like(flat, dtype=np.float32)
    weights[np.arange(len(flat)), chosen] = 1.0
    return weights.reshape(cover.shape)


def published_middle(footprints: Footprints, seed: int) -> Floats:
    """(n, h, w) one-hot maps at the middle of rectangles of whole patches.

    An even number of patches has two middles, of which the published system draws one for each
    axis, without a seed; here the draw depends on the seed and the rectangle alone.
    """
    spans = footprint_spans(footprints)
    coins = np.array([_two_coins(span, seed) for span in spans], dtype=np.int64).reshape(-1, 2)
    total = spans[:, :2] + spans[:, 2:]
    # An odd sum of both ends is an even number of patches: two middles.
    middle = total // 2 + (total % 2) * coins
    return one_hot(middle[:, 0], middle[:, 1], footprints.cover.shape[1:])


def _two_coins(span: npt.NDArray[np.int64], seed: int) -> tuple[int, int]:
    text = f"{seed} {span.tolist()}"
    draw = hashlib.blake2b(text.encode(), digest_size=1).digest()[0]
    return draw & 1, draw >> 1 & 1
