"""Fusion without a language model: the same sentences in, the same paragraph out.

Knows: the order of the steps. Does NOT know: how a sentence is worded (`drafting`, `sentences`), what is alike
(`hierarchy`), what fits (`budget`), what comes first (`ordering`).
"""

from __future__ import annotations

from collections.abc import Sequence

from patchioner.base.errors import DetailError
from patchioner.detail.fuse.budget import chosen
from patchioner.detail.fuse.drafting import drafts_of
from patchioner.detail.fuse.drafts import Draft, dropped
from patchioner.detail.fuse.hierarchy import fold_tree, region_tree
from patchioner.detail.fuse.introductions import introduced
from patchioner.detail.fuse.locations import without_place
from patchioner.detail.fuse.ordering import in_order, opener_first
from patchioner.detail.fuse.sentences import joined, opening, placed
from patchioner.detail.fuse.settings import FuseSettings
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, FusedSentence, Verdict

_ROUNDS = 4
_SHORT = 12  # words: "On the left, there is a dog on a couch." and its like are joined in pairs


class DeterministicFuser:
    """Verdicts -> sentences of a paragraph, by rule. Fulfils `patchioner.detail.stages.Fuser`.

    Every claim is worded so that it stands alone (`drafting`); what says the same is folded, within a region, between
    overlapping regions, then over the photo (`hierarchy`); what says most in `max_words` is taken (`budget`), put in
    order (`ordering`), and told with places and pronouns where they fit.

    Args:
        settings: see `FuseSettings`.

    Example:
        >>> fuser = DeterministicFuser(FuseSettings(max_words=60))
        >>> sentences, left_out = fuser.fuse(photo, regions, kept)  # doctest: +SKIP
    """

    def __init__(self, settings: FuseSettings | None = None) -> None:
        self._settings = FuseSettings() if settings is None else settings

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON."""
        return {"fuser": "deterministic", **self._settings.as_json()}

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts on kept claims that it left out.

        Claims that say the same as a sentence are among its `claim_ids`. Left out are claims that cannot stand alone
        ("fragment"), that bring nothing new ("duplicate"), that do not fit ("length").

        Args:
            photo: only its size is used.
            regions: all that claims speak of.
            kept: verdicts whose claims may be used; others among them are ignored.

        Raises:
            DetailError: a claim of a region that is not among `regions`.
        """
        return self.fuse_sized(photo.size, regions, kept)

    def fuse_sized(
        self, size: tuple[int, int], regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """As `fuse`, for a photo of which nothing but its (width, height) in pixels is at hand."""
        usable = [verdict for verdict in kept if verdict.kept]
        _check(regions, usable)
        drafts, left_out = drafts_of(regions, usable, size, locations=self._settings.locations)
        folded = fold_tree(drafts, region_tree(regions, self._settings.overlap_iou), self._settings)
        ordered = in_order(folded, regions, size)
        taken, sentences = self._fitted(ordered)
        return sentences, left_out + self._passed_over(ordered, taken, sentences)

    def _fitted(self, drafts: Sequence[Draft]) -> tuple[list[Draft], list[FusedSentence]]:
        """Words saved by pronouns and places told once make room for more: choose again, a little longer."""
        room = self._settings.max_words
        best: tuple[list[Draft], list[FusedSentence]] = ([], [])
        for _ in range(_ROUNDS):
            taken = chosen(drafts, self._settings, room)
            sentences = worded(taken)
            spare = self._settings.max_words - count_words(sentences)
            if spare < 0 and best[0]:
                break
            if spare < 0:  # the first sentence grew by a word
                room += spare
                continue
            best = (taken, sentences)
            if not spare or len(taken) == len(drafts):
                break
            room += spare
        return best

    def _passed_over(
        self, drafts: Sequence[Draft], taken: Sequence[Draft], sentences: Sequence[FusedSentence]
    ) -> list[Verdict]:
        room = self._settings.max_words - count_words(sentences)
        kept = {id(draft) for draft in taken}
        found: list[Verdict] = []
        for draft in drafts:
            if id(draft) in kept:
                continue
            fits = draft.words <= room
            note = (
                "the paragraph says it already"
                if fits
                else f"other sentences said more in {self._settings.max_words} words"
            )
            found += [
                dropped(one, "duplicate" if fits else "length", note) for one in draft.members
            ]
        return found


def _check(regions: Sequence[DetailRegion], kept: Sequence[Verdict]) -> None:
    known = {region.id for region in regions}
    for verdict in kept:
        if verdict.claim.region_id not in known:
            raise DetailError(
                f"claim {verdict.claim.id!r} is about region {verdict.claim.region_id!r}, which is not among the"
                f" regions {sorted(known)}: give all regions that were described"
            )


def count_words(sentences: Sequence[FusedSentence]) -> int:
    """How many words, split at white space, sentences have together."""
    return sum(len(sentence.text.split()) for sentence in sentences)


def worded(drafts: Sequence[Draft]) -> list[FusedSentence]:
    """Drafts in order -> sentences: places told once, pronouns kept where their noun comes right before.

    The first sentence opens with no place: another one comes first, or its place is not told. What no sentence before
    names is not told with "The" (`introductions`). No sentence is longer than its draft's `words` but the first, by one
    word ("There is" -> "The image shows").
    """
    found: list[FusedSentence] = []
    previous: Draft | None = None
    told: str | None = None
    for draft in opener_first(drafts):
        text = introduced(draft.text, [sentence.text for sentence in found])
        if previous is not None and draft.following is not None and _follows(previous, draft):
            text = draft.following
        elif previous is None:
            text = opening(introduced(without_place(text), []))
        elif draft.place is not None and draft.place != told:
            text, told = placed(text, draft.place), draft.place
        sentence = draft.sentence(text)
        together = previous is not None and previous.region.id == draft.region.id
        pair = _pair(found[-1], sentence) if together else None
        if pair is not None:
            found[-1] = pair
        else:
            found.append(sentence)
        previous = draft
    return found


def _follows(previous: Draft, draft: Draft) -> bool:
    ours, theirs = previous.verdict.claim, draft.verdict.claim
    return previous.following is None and (ours.region_id, ours.sample, ours.place) == (
        theirs.region_id,
        theirs.sample,
        theirs.place - 1,
    )


def _pair(first: FusedSentence, second: FusedSentence) -> FusedSentence | None:
    """Two short sentences as one, with the sources of both; None where they stay apart."""
    if max(len(one.text.split()) for one in (first, second)) > _SHORT:
        return None
    text = joined(first.text, second.text)
    if text is None:
        return None
    scores = [one.support for one in (first, second) if one.support is not None]
    return FusedSentence(
        text,
        tuple(dict.fromkeys([*first.claim_ids, *second.claim_ids])),
        tuple(dict.fromkeys([*first.region_ids, *second.region_ids])),
        max(first.agreement, second.agreement),
        min(scores) if scores else None,
    )
