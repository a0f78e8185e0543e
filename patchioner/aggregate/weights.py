"""From regions to weights over the patch grid, all regions of an image together.

Knows: footprints and how each weighting turns them into weights. Does NOT know tokens, torch
or how a kind of region covers patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.aggregate.reference import published_middle
from patchioner.aggregate.weighting import Weighting
from patchioner.base.errors import OptionError, RegionError
from patchioner.regions import Box, Region, Shape, WholeImage
from patchioner.regions.grid import Floats, Footprints
from patchioner.regions.values import as_numpy

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry

# Shapes weighted at a time: bounds the temporary arrays, whatever the number of regions.
_BLOCK = 1024
# From here on the published system takes the whole image's Gaussian for flat.
_FLAT_VARIANCE = 100.0
# Distances from the middle that differ by less than this are the same distance.
_SAME_DISTANCE = 1e-9


def region_weights(
    regions: Iterable[Region],
    geometry: ImageGeometry,
    weighting: Weighting | None = None,
    attention: object = None,
) -> npt.NDArray[np.float32]:
    """Weights of regions over one image's patch grid.

    Args:
        regions: any kinds mixed, ``n`` of them; may be none.
        geometry: how the original image maps to the patch grid.
        weighting: uniform exact coverage by default. For ``cls``, which weighs no patch, the
            weights are those of ``uniform``, so that there is something to draw.
        attention: (heads, h, w) or (h, w) array or tensor, non-negative; needed by
            ``Weighting("attention")``, ignored by the others.

            Published numbers want `PatchFeatures.reference_attention` here.

    Returns:
        (n, h, w) float32 in the order of the regions, non-negative, every map sums to 1.

    Raises:
        RegionError: the model sees nothing of a region; the message names it.
        OptionError: attention is asked for but missing, or does not fit the grid.

    Example:
        >>> weights = region_weights([Box(0, 0, 9, 9), WholeImage()], features.geometry)
    """
    weighting = weighting or Weighting()
    listed = _checked(regions)
    attended = _attention_map(attention, geometry.grid) if weighting.kind == "attention" else None
    out = np.zeros((len(listed), *geometry.grid), dtype=np.float32)
    for kind, leaves in _by_kind(listed).items():
        for start in range(0, len(leaves), _BLOCK):
            block = leaves[start : start + _BLOCK]
            shapes = [shape for shape, _, _ in block]
            footprints = kind.footprints(shapes, geometry, weighting.rounding)
            weights = _weigh(kind, footprints, weighting, attended)
            _add_to_owners(out, weights, block)
    return out


def _checked(regions: Iterable[Region]) -> list[Region]:
    if isinstance(regions, Region):
        raise RegionError(f"give a list of regions, as in [{regions!r}]")
    listed = list(regions)
    for index, region in enumerate(listed):
        if not isinstance(region, Region):
            raise RegionError(
                f"region {index} is {region!r:.80}, no region; wrap it, as in Box(x1, y1, x2, y2)"
            )
    return listed


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


def _attention_map(attention: object, grid: tuple[int, int]) -> Floats:
    """(h, w) float64 mean over the heads, checked."""
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
    mean: Floats = maps.mean(axis=0) if maps.ndim == 3 else maps
    return mean


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
        if weighting.variance == 0.0 and issubclass(kind, (Box, WholeImage)):
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
