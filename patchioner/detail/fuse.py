"""Kept claims -> one paragraph, greedily: whole sentences chosen, deduplicated, ordered, within a budget of words.

Nothing is rewritten: a sentence stands as it was said, with a capital and a stop. What most samples agree on is taken
first; a sentence that says the same as one that was taken is folded into it, one that names little new is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from patchioner.base.errors import DetailError
from patchioner.detail.text import canonical, similarity_matrix, things
from patchioner.detail.values import (
    REGION_KINDS,
    DetailRegion,
    FusedSentence,
    Photo,
    Verdict,
    check,
)

_ROWS = 3  # centres in the same third of the photo's height are on one line, as a reader sees it


@dataclass(frozen=True)
class FuseSettings:
    """How sentences become a paragraph; chosen on the 114 development photos, `benchmarks.detail` "objects".

    Attributes:
        max_words: the paragraph never has more words (split at white space) than this.
        duplicate: similarity (`text.similarity_matrix`) from which two sentences say the same.
        new_share: share of a sentence's things that no sentence before it in the choice names; 0 asks for none.
    """

    max_words: int = 120
    duplicate: float = 0.5
    new_share: float = 0.5

    def __post_init__(self) -> None:
        check(self, max_words=(1, 10_000), duplicate=(0, 1), new_share=(0, 1))


@dataclass(eq=False)
class Draft:
    """A sentence that may be taken, and the verdicts that it speaks for, its own first."""

    text: str
    region: DetailRegion
    members: list[Verdict] = field(default_factory=list)

    @property
    def words(self) -> int:
        """How many, split at white space."""
        return len(self.text.split())


class GreedyFuser:
    """Verdicts -> sentences of a paragraph, without a language model (a `Fuser`)."""

    def __init__(self, settings: FuseSettings | None = None) -> None:
        self._settings = settings or FuseSettings()

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON."""
        return {"fuser": "greedy", **asdict(self._settings)}

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts on kept claims that bring nothing new ("duplicate") or do not fit.

        `DetailError`: a claim of a region that is not among `regions`.
        """
        taken, left_out = chosen(drafts_of(photo.size, regions, kept), self._settings)
        return [sentence_of(draft.text, [draft]) for draft in taken], left_out


def drafts_of(
    size: tuple[int, int], regions: Sequence[DetailRegion], kept: Sequence[Verdict]
) -> list[Draft]:
    """One per kept claim, as the paragraph speaks of them.

    By kind of region (`REGION_KINDS`), then row by row and left to right, then by place in the text.
    """
    ranks = {region.id: (_rank(region, size), region) for region in regions}
    usable = [verdict for verdict in kept if verdict.kept]
    for verdict in usable:
        if verdict.claim.region_id not in ranks:
            raise DetailError(
                f"claim {verdict.claim.id!r} is about region {verdict.claim.region_id!r}, which is not among "
                f"{sorted(ranks)}: give all regions that were described"
            )
    usable.sort(key=lambda one: (ranks[one.claim.region_id][0], one.claim.place, one.claim.sample))
    return [Draft(finished(one.claim.text), ranks[one.claim.region_id][1], [one]) for one in usable]


def _rank(region: DetailRegion, size: tuple[int, int]) -> tuple[object, ...]:
    left, top, right, bottom = region.box
    row = int(_ROWS * (top + bottom) / 2 / max(size[1], 1))
    return REGION_KINDS.index(region.kind), row, left + right, top + bottom, region.id


def chosen(drafts: Sequence[Draft], settings: FuseSettings) -> tuple[list[Draft], list[Verdict]]:
    """The drafts to take, in the order given, each speaking for those that say the same; verdicts on the others."""
    alike = similarity_matrix([draft.text for draft in drafts])
    taken: list[int] = []
    left_out: list[Verdict] = []
    named: set[str] = set()
    left = settings.max_words
    for place in sorted(range(len(drafts)), key=lambda place: _order(drafts[place])):
        draft = drafts[place]
        same = max(taken, key=lambda other: float(alike[place, other]), default=None)
        if same is not None and alike[place, same] >= settings.duplicate:
            drafts[same].members.extend(draft.members)
            continue
        own = {canonical(name.rpartition(" ")[2]) for name in things(draft.text)}
        if settings.new_share and len(own - named) < max(settings.new_share * len(own), 1e-9):
            note = "the paragraph names its things already"
            left_out += [dropped(one, "duplicate", note) for one in draft.members]
        elif draft.words > left:
            note = f"other sentences have more to say in {settings.max_words} words"
            left_out += [dropped(one, "length", note) for one in draft.members]
        else:
            taken.append(place)
            named |= own
            left -= draft.words
    return [drafts[place] for place in sorted(taken)], left_out


def _order(draft: Draft) -> tuple[float, float]:
    """Said by most first, then the best supported; else as the paragraph speaks of them."""
    verdict = draft.members[0]
    return -verdict.agreement, -(verdict.support.score if verdict.support is not None else 0.0)


def finished(text: str) -> str:
    """The text with a capital and a stop."""
    plain = " ".join(text.split()).rstrip(",;:")
    plain = plain[:1].upper() + plain[1:]
    return plain if plain.rstrip("\"'\u201d\u2019)").endswith((".", "!", "?")) else f"{plain}."


def sentence_of(text: str, drafts: Sequence[Draft]) -> FusedSentence:
    """A sentence of the paragraph that says what the drafts say."""
    members = [one for draft in drafts for one in draft.members]
    regions = [name for one in members for name in (one.claim.region_id, *one.regions)]
    scores = [one.support.score for one in members if one.support is not None]
    return FusedSentence(
        text,
        tuple(dict.fromkeys(one.claim.id for one in members)),
        tuple(dict.fromkeys(regions)),
        max(one.agreement for one in members),
        min(scores) if scores else None,
    )


def dropped(verdict: Verdict, reason: str, note: str) -> Verdict:
    """The verdict on a kept claim that is left out after all."""
    return replace(verdict, kept=False, reason=reason, note=note)
