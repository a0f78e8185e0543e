"""Claims made into sentences that can stand anywhere in the paragraph.

Knows: the order of the steps (lead-in, places, pronouns) and what is given up on the way. Does NOT know: likeness,
length, order of the paragraph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patchioner.detail.fuse.drafts import Draft, dropped
from patchioner.detail.fuse.introductions import without_ties
from patchioner.detail.fuse.locations import for_whole_photo, names_a_place, place_of
from patchioner.detail.fuse.pronouns import leans, person_for, pointed, restored, without_adverb
from patchioner.detail.fuse.sentences import whole_sentence
from patchioner.detail.values import DetailRegion, Verdict

Size = tuple[int, int]
_OF_THE_CROP = "its places are those of a part of the photo, and cannot be told of the whole"
_LEFT_BEHIND = "what it speaks of was said in a sentence that is not there"


def drafts_of(
    regions: Sequence[DetailRegion], kept: Sequence[Verdict], size: Size, *, locations: bool = True
) -> tuple[list[Draft], list[Verdict]]:
    """One draft per kept claim that can stand alone, and verdicts on the others.

    Args:
        regions: all that claims speak of.
        kept: verdicts whose claims may be used.
        size: (width, height) of the photo in pixels.
        locations: whether drafts about a part of the photo may say where it is.

    Returns:
        Drafts in the order of `kept`; verdicts with kept=False and the reason "fragment".
    """
    known = {region.id: region for region in regions}
    standing = {name: one for one in kept for name in one.merged}
    standing |= {one.claim.id: one for one in kept}
    drafts: list[Draft] = []
    left_out: list[Verdict] = []
    for verdict in kept:
        region = known[verdict.claim.region_id]
        before = _before(verdict, standing)
        around = [other for other in kept if other.claim.region_id == region.id]
        made = _draft(verdict, region, before, around, size, locations=locations)
        if isinstance(made, str):
            left_out.append(dropped(verdict, "fragment", made))
        else:
            drafts.append(made)
    return drafts, left_out


def _before(verdict: Verdict, standing: Mapping[str, Verdict]) -> list[Verdict]:
    """What stands for the claims that come before this one in its text, in order.

    Ids count sentences up through all texts, so that the sentence before "c7" is "c6"; where that was merged into
    another, the other one says the same.
    """
    number = verdict.claim.id.removeprefix("c")
    if not number.isdecimal():
        return []
    last = int(number)
    names = (f"c{place}" for place in range(last - verdict.claim.place, last))
    return [standing[name] for name in names if name in standing]


def _draft(
    verdict: Verdict,
    region: DetailRegion,
    before: list[Verdict],
    around: list[Verdict],
    size: Size,
    *,
    locations: bool,
) -> Draft | str:
    """The draft of a claim; in words why there is none."""
    told = pointed(without_ties(without_adverb(verdict.claim.text)))
    text = _told_of_photo(told, region, size)
    if text is None:
        return _OF_THE_CROP
    following: str | None = None
    sources: tuple[str, ...] = ()
    if leans(text):
        earlier = [other for other in before if not leans(without_adverb(other.claim.text))]
        found = restored(text, [whole_sentence(other.claim.text) for other in earlier])
        if found is None:
            earlier = list(around)
            found = person_for(text, [other.claim.text for other in earlier])
        if found is None:
            return _LEFT_BEHIND
        source = earlier[found[1]].claim
        follows = (source.region_id, source.sample, source.place) == (
            region.id, verdict.claim.sample, verdict.claim.place - 1
        )  # fmt: skip
        following, text, sources = (text if follows else None), found[0], (source.id,)
    return Draft(
        text, verdict, region, sources=sources, following=following,
        place=_place(text, region, size) if locations else None,
    )  # fmt: skip


def _told_of_photo(text: str, region: DetailRegion, size: Size) -> str | None:
    sentence = whole_sentence(text)
    if region.kind != "global":
        told = for_whole_photo(sentence, region.box, size)
        sentence = whole_sentence(told) if told else ""
    return sentence or None


def _place(text: str, region: DetailRegion, size: Size) -> str | None:
    """Where the region is, if that should be told and the text does not tell it."""
    if region.kind == "global" or names_a_place(text):
        return None
    return place_of(region.box, size)
