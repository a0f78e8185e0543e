"""Which groups of claims cannot both be true, and which of them stays.

Knows: closed attributes, where claims come from, how well each group is supported. Does NOT know: photos, scorers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patchioner.detail.filter.agreement import Group, overlap_share
from patchioner.detail.filter.attributes import conflict, facts
from patchioner.detail.values import Claim, DetailRegion


@dataclass(frozen=True)
class Contradicted:
    """A group that goes, and the one that it contradicts.

    Attributes:
        loser, winner: places of the groups in the list that was given.
        about: e.g. "colour of bus".
    """

    loser: int
    winner: int
    about: str


def contradicted_groups(
    groups: Sequence[Group],
    claims: Sequence[Claim],
    regions: Mapping[str, DetailRegion],
    scores: Sequence[float | None],
    *,
    overlap: float = 0.5,
) -> list[Contradicted]:
    """Find groups that contradict a better one about the same thing in the same place.

    Of two that give one thing two values of a closed attribute (or of which one says that there is none), the one said
    in more samples stays; of equally many, the better supported; then the first. Two things of one name are no
    conflict: not in regions that overlap less than `overlap` of the smaller, and not where a single sample gives both
    values, for then there are two of them.

    Args:
        groups: n, of `claims`.
        claims: all.
        regions: of all their ids.
        scores: n supports of the groups; None where nothing scored them.
        overlap: share of the smaller region.

    Returns:
        Losers in the order of the groups.
    """
    order = sorted(
        range(len(groups)),
        key=lambda place: (-groups[place].agreement, -(scores[place] or 0.0), place),
    )
    kept: list[int] = []
    lost: list[Contradicted] = []
    for place in order:
        for better in kept:
            about = _about(groups[place], groups[better], claims, regions, overlap)
            if about is not None:
                lost.append(Contradicted(place, better, about))
                break
        else:
            kept.append(place)
    return sorted(lost, key=lambda one: one.loser)


def _about(
    one: Group,
    other: Group,
    claims: Sequence[Claim],
    regions: Mapping[str, DetailRegion],
    overlap: float,
) -> str | None:
    left, right = claims[one.representative], claims[other.representative]
    found = conflict(left.text, right.text)
    if found is None or _samples(one, claims) & _samples(other, claims):
        return None
    if overlap_share(regions[left.region_id], regions[right.region_id]) < overlap:
        return None
    name, family = found
    values = facts(left.text)[found] | facts(right.text)[found]
    if family != "presence" and _in_one_sample(claims, found, values):
        return None
    return f"presence of {name}" if family == "presence" else f"{family} of {name}"


def _samples(group: Group, claims: Sequence[Claim]) -> set[tuple[str, int]]:
    return {(claims[member].region_id, claims[member].sample) for member in group.members}


def _in_one_sample(claims: Sequence[Claim], key: tuple[str, str], values: frozenset[str]) -> bool:
    """Whether one and the same sample gives the thing all these values: there are several of it."""
    said: dict[tuple[str, int], frozenset[str]] = {}
    for claim in claims:
        found = facts(claim.text).get(key, frozenset())
        sample = (claim.region_id, claim.sample)
        said[sample] = said.get(sample, frozenset()) | found
    return any(values <= found for found in said.values())
