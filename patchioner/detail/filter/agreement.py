"""Which claims say the same, across samples and regions.

Knows: how alike sentences are, which samples and regions they come from, how far regions overlap. Does NOT know:
photos, scores, contradictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchioner.detail.filter.attributes import conflict
from patchioner.detail.text import similarity_matrix, word_weights
from patchioner.detail.text.similarity import Embed
from patchioner.detail.values import Claim, DetailRegion


@dataclass(frozen=True)
class Group:
    """Claims that say the same.

    Attributes:
        representative: index of the claim that speaks for all: the one most like the others, of those the fullest.
        members: indices of all, the representative's included, in order.
        agreement: number of distinct (region, sample) pairs they come from.
        regions: ids of their regions, the representative's first.
    """

    representative: int
    members: tuple[int, ...]
    agreement: int
    regions: tuple[str, ...]


def agreeing_groups(
    claims: Sequence[Claim],
    regions: Mapping[str, DetailRegion],
    *,
    alike: float = 0.6,
    overlap: float = 0.1,
    embed: Embed | None = None,
) -> list[Group]:
    """Sort claims into groups that say the same.

    A claim joins a group when it is at least `alike` to its first claim, contradicts none of its attributes, and their
    regions overlap: a region agrees with itself, the whole photo with every region.

    Args:
        claims: n, in reading order.
        regions: of all their ids.
        alike: similarity (`similarity_matrix`) from which two claims say the same.
        overlap: share of the smaller region from which two regions may show the same thing.
        embed: sentence embeddings to blend in.

    Returns:
        Groups ordered by their first claim; every claim is in one.
    """
    likeness = similarity_matrix([claim.text for claim in claims], embed=embed)
    near = {
        (one, other): overlap_share(regions[one], regions[other]) >= overlap
        for one in regions
        for other in regions
    }
    groups: list[list[int]] = []
    for index, claim in enumerate(claims):
        fitting = [
            group
            for group in groups
            if likeness[index, group[0]] >= alike
            and near[claim.region_id, claims[group[0]].region_id]
            and all(conflict(claim.text, claims[member].text) is None for member in group)
        ]
        if fitting:
            max(fitting, key=lambda group: float(likeness[index, group[0]])).append(index)
        else:
            groups.append([index])
    return [_group(claims, members, likeness) for members in groups]


def _group(
    claims: Sequence[Claim], members: Sequence[int], likeness: npt.NDArray[np.float64]
) -> Group:
    def worth(index: int) -> tuple[float, float, int]:
        words = word_weights(claims[index].text)
        return float(likeness[index, list(members)].sum()), sum(words.values()), -index

    best = max(members, key=worth)
    ids = dict.fromkeys([claims[best].region_id, *(claims[index].region_id for index in members)])
    samples = {(claims[index].region_id, claims[index].sample) for index in members}
    return Group(best, tuple(members), len(samples), tuple(ids))


def overlap_share(one: DetailRegion, other: DetailRegion) -> float:
    """Share of the smaller region's box that the two have in common, 0 to 1; 1 for a region and itself.

    Example:
        >>> left = DetailRegion("a", "user", (0, 0, 10, 10))
        >>> overlap_share(left, DetailRegion("b", "user", (5, 0, 25, 10)))
        0.5
    """
    if one.id == other.id:
        return 1.0
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    common = max(0.0, right - left) * max(0.0, bottom - top)
    smaller = min(
        (region.box[2] - region.box[0]) * (region.box[3] - region.box[1]) for region in (one, other)
    )
    return common / smaller if smaller > 0 else 0.0
