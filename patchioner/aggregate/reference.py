"""What ``rounding="reference"`` needs beyond rounded footprints: chance and length.

Knows: the middle that the published system draws for a Gaussian of variance 0, and the lengths of
its embeddings that are no weighted means (source: facts about the published Patch-ioner code).
Does NOT know tokens or torch; the integer arithmetic is in `patchioner.regions.reference`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.aggregate.weighting import Weighting
from patchioner.regions import Region, Trace, WholeImage
from patchioner.regions.grid import Floats, Footprints, footprint_spans, one_hot
from patchioner.regions.trace import reference_counts
from patchioner.regions.values import as_numpy

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


def published_middle(footprints: Footprints, seed: int) -> Floats:
    """(n, h, w) one-hot maps at the middle of rectangles of whole patches.

    A span of an odd number of patches has one middle; of an even number the published system draws
    one of two, for each axis, without a seed. Here the draw depends on the seed and the rectangle
    alone, so the same box gets the same patch in any batch and any run.

    Example:
        >>> rectangle = span_footprints(np.array([[0, 0, 2, 3]]), (8, 8))
        >>> row, column = np.argwhere(published_middle(rectangle, seed=0)[0])[0].tolist()
        >>> column, row in (1, 2)
        (1, True)
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


def published_lengths(
    regions: Sequence[Region], geometry: ImageGeometry, weighting: Weighting, attention: object
) -> npt.NDArray[np.float32]:
    """What the weighted mean of each region is multiplied by to get the published embedding.

    With N patches on the grid: (number of points) / N for a trace, since it is the mean over all
    patches of count x token; with attention, the sum of count x attention, / N; (sum of attention) / N
    for the whole image by attention, the mean over patches of attention x token; 1 for all others.
    A set has length 1 whatever it holds: its weights were divided by their sum. The lengths
    matter only where an embedding reaches a decoder unnormalised, as in published CapDec.

    Args:
        regions: n regions.
        geometry: of the image.
        weighting: its rounding is taken for "reference".
        attention: (heads, h, w) or (h, w), only for the attention weighting.

    Returns:
        (n,) float32.

    Example:
        >>> geometry = fit_image((100, 100), mode="stretch", size=40, patch_size=10)
        >>> two = Trace([(10, 10), (90, 90)])
        >>> published_lengths([two, WholeImage()], geometry, Weighting(), None).tolist()
        [0.125, 1.0]
    """
    mass = _attention_mass(attention) if weighting.kind == "attention" else None
    lengths = [_length(region, geometry, mass) for region in regions]
    return np.array(lengths, dtype=np.float32)


def _attention_mass(attention: object) -> npt.NDArray[np.float64]:
    maps = np.asarray(as_numpy(attention), dtype=np.float64)
    return np.asarray(maps.mean(axis=0) if maps.ndim == 3 else maps)


def _length(region: Region, geometry: ImageGeometry, mass: npt.NDArray[np.float64] | None) -> float:
    cells = geometry.grid[0] * geometry.grid[1]
    if isinstance(region, Trace):
        counts = reference_counts(region, geometry)
        return float((counts if mass is None else counts * mass).sum()) / cells
    if isinstance(region, WholeImage) and mass is not None:
        return float(mass.sum()) / cells
    return 1.0
