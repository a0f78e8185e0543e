"""Who else names the things of a claim: a thing that one text alone names is the one to look at twice.

Knows: names of things, which samples speak of overlapping regions. Does NOT know: photos, scores, verdicts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from patchioner.detail.filter.agreement import overlap_share
from patchioner.detail.filter.things import things
from patchioner.detail.text import canonical, word_set
from patchioner.detail.values import Claim, DetailRegion

# One text's man is another's person, pedestrian or player.
_PEOPLE: Final = word_set("""
    person people man woman child boy girl baby lady adult teenager pedestrian player rider worker passenger spectator
    skier surfer skateboarder snowboarder bystander guy group crowd family couple audience
""")


@dataclass(frozen=True)
class Company:
    """What else was said beside a claim.

    Attributes:
        sentences: of its own text, itself included: 1 for a caption.
        others: number of other samples that speak of a region that overlaps its own.
        named: kind of thing -> in how many of those it is named.
    """

    sentences: int
    others: int
    named: Mapping[str, int]

    def witnesses(self, name: str) -> int:
        """In how many other samples a thing is named.

        Example:
            >>> Company(1, 4, {"bus": 3}).witnesses("tour bus")
            3
        """
        return self.named.get(_kind(name), 0)


def companies(
    claims: Sequence[Claim],
    said: Sequence[Claim],
    regions: Mapping[str, DetailRegion],
    *,
    overlap: float = 0.1,
) -> list[Company]:
    """The company of each claim.

    Args:
        claims: all, as they came: they tell how long a text is.
        said: n, those of them that are left, which may witness one another.
        regions: of all their ids.
        overlap: share of the smaller region from which two regions may show the same thing; the whole photo overlaps
            all.

    Returns:
        n, in the order of `said`.
    """
    lengths = Counter((claim.region_id, claim.sample) for claim in claims)
    kinds: dict[tuple[str, int], set[str]] = {sample: set() for sample in lengths}
    for claim in said:
        kinds[claim.region_id, claim.sample].update(map(_kind, things(claim.text)))
    found: dict[tuple[str, int], Company] = {}
    for own in lengths:
        near = [
            other
            for other in lengths
            if other != own and overlap_share(regions[own[0]], regions[other[0]]) >= overlap
        ]
        named: dict[str, int] = defaultdict(int)
        for other in near:
            for kind in kinds[other]:
                named[kind] += 1
        found[own] = Company(lengths[own], len(near), dict(named))
    return [found[claim.region_id, claim.sample] for claim in said]


def _kind(name: str) -> str:
    """What a thing is: the last word of its name, synonyms made one, people all alike."""
    word = canonical(name.rpartition(" ")[2])
    return "person" if word in _PEOPLE else word
