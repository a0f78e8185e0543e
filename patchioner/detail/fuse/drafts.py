"""A sentence on its way into the paragraph, with the claims that it says.

Knows: verdicts and which of them were folded into which. Does NOT know: how likeness, order or length are decided.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from patchioner.detail.values import DetailRegion, DropReason, FusedSentence, Verdict


@dataclass(frozen=True, eq=False)
class Draft:
    """One sentence that may be taken.

    Attributes:
        text: that stands alone: no pronoun without its noun, places in terms of the whole photo.
        verdict: of the claim that it words.
        region: of that claim.
        folded: verdicts on the claims that say the same, left out in its favour.
        sources: ids of further claims whose words were borrowed: where a pronoun's noun comes from.
        following: the text that may stand instead where the sentence before it in its statement comes right before it
            in the paragraph ("She wears ..."); not longer than `text`. None where `text` is the only one.
        place: where its region is, in words, to be said before the first sentence about it; None: nowhere to be told.
    """

    text: str
    verdict: Verdict
    region: DetailRegion
    folded: tuple[Verdict, ...] = ()
    sources: tuple[str, ...] = ()
    following: str | None = None
    place: str | None = None

    @property
    def members(self) -> tuple[Verdict, ...]:
        """Its own verdict, then the folded ones."""
        return (self.verdict, *self.folded)

    @property
    def words(self) -> int:
        """How many words it has at most, `place` included."""
        return len(self.text.split()) + len((self.place or "").split())

    @property
    def voices(self) -> int:
        """In how many texts something like it was said."""
        seen = {(one.claim.region_id, one.claim.sample) for one in self.members}
        return max(len(seen), *(one.agreement for one in self.members))

    def fold(self, other: Draft) -> Draft:
        """This draft, with another one left out in its favour."""
        return dataclasses.replace(self, folded=(*self.folded, *other.members))

    def sentence(self, text: str | None = None) -> FusedSentence:
        """As it goes into the paragraph, worded as `text` (None: as it is)."""
        ids = [one.claim.id for one in self.members]
        regions = [name for one in self.members for name in (one.claim.region_id, *one.regions)]
        scores = [one.support.score for one in self.members if one.support is not None]
        return FusedSentence(
            self.text if text is None else text,
            tuple(dict.fromkeys([*ids, *self.sources])),
            tuple(dict.fromkeys(regions)),
            self.voices,
            min(scores) if scores else None,
        )


def dropped(verdict: Verdict, reason: DropReason, note: str) -> Verdict:
    """The verdict on a kept claim that is left out after all."""
    return dataclasses.replace(verdict, kept=False, reason=reason, note=note)
