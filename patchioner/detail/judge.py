"""Which sentences about a photo may be used, and why the others may not: raw statements in, verdicts out.

A sentence is kept or dropped whole, never rewritten. Agreement among samples of one model is no proof: it repeats its
mistakes. What no score can verify of a sentence stands in `Support.unverifiable`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from patchioner.base.errors import DetailError
from patchioner.detail.divide import overlap_share
from patchioner.detail.text import (
    content_words,
    kind_of,
    similarity_matrix,
    split_sentences,
    things,
    word_weights,
)
from patchioner.detail.values import (
    Claim,
    DetailRegion,
    Photo,
    Scorer,
    Statement,
    Support,
    Verdict,
    check,
)

_OVERLAP = 0.1  # share of the smaller region from which two regions may show the same thing
_OCCASIONS = 2  # other texts about a region, from which on it tells that none of them names a thing
_Reason = tuple[str, str]
"""(One of `Verdict.reason`, the reason in words)."""


@dataclass(frozen=True)
class FilterSettings:
    """What is kept.

    Attributes:
        rules: hedges, preamble and fragments are dropped, see `clean`.
        alike: similarity from which two claims say the same.
        trusted_agreement: from so many samples on a claim is kept without support; 0: never. The published system takes
            two samples that agree for proof.
        whole_sentences: which sentences need the scorer's support as a whole. It was calibrated on captions, and of the
            sentences of long texts it drops every third true one: "captions" asks it of texts of one sentence that no
            share of samples tells of, and of sentences of which no single thing is scored; "always" of all.
        lone_support: a thing drops its sentence where its own support is below this and no other sample of an
            overlapping region names it (two at least must have had the occasion); 0: never.
        share: of a text of one sentence each thing must be named by this share of the samples about overlapping regions
            (about the region alone where a user gave it), each other word by half of it; 0: no such test. Our captions
            come from the alignment that scores them: what many samples say is better evidence.
    """

    rules: bool = True
    alike: float = 0.6
    trusted_agreement: int = 0
    whole_sentences: Literal["captions", "always"] = "captions"
    lone_support: float = 0.2
    share: float = 0.45

    def __post_init__(self) -> None:
        check(self, alike=(0, 1), lone_support=(0, 1), share=(0, 1))
        check(self, whole_sentences=("captions", "always"), trusted_agreement=(0, 10_000))


def filter_statements(
    photo: Photo,
    regions: Sequence[DetailRegion],
    statements: Sequence[Statement],
    *,
    scorer: Scorer | None = None,
    settings: FilterSettings | None = None,
) -> list[Verdict]:
    """Judge each sentence of each statement; of those that say the same one is kept, and names the others.

    `DetailError`: a statement speaks of a region that is not given, or two regions have one id.
    """
    chosen, by_id = settings or FilterSettings(), {region.id: region for region in regions}
    unknown = sorted({one.region_id for one in statements} - by_id.keys())
    if len(by_id) < len(regions) or unknown:
        ids = [region.id for region in regions]
        raise DetailError(f"statements about {unknown}, regions {ids}: every id must be there once")
    claims = split_claims(statements)
    verdicts: dict[str, Verdict] = {}

    def left_by(why_not: Callable[[Claim], _Reason | None], some: Sequence[Claim]) -> list[Claim]:
        for claim in some:
            reason = why_not(claim)
            if reason is not None:
                verdicts[claim.id] = Verdict(claim, False, 1, (claim.region_id,), None, *reason)
        return [claim for claim in some if claim.id not in verdicts]

    left = left_by(lambda claim: clean(claim.text), claims) if chosen.rules else claims
    spoken = {claim.region_id for claim in claims}
    pairs = ((one, other) for one in spoken for other in spoken)
    near = {
        (one, other) for one, other in pairs if overlap_share(by_id[one], by_id[other]) >= _OVERLAP
    }
    heard = {pair for pair in near if pair[0] == pair[1] or by_id[pair[0]].kind != "user"}
    beside = supporting_samples(claims, left, heard)
    left = left_by(
        lambda one: rarely_said(one.text, beside[one.region_id, one.sample], chosen.share), left
    )
    groups = agreeing_groups(left, near, chosen.alike)
    supports: list[Support] | list[None] = [None] * len(groups)
    if scorer is not None and groups:
        asked = [(by_id[first.region_id], first.text) for first, *_ in groups]
        supports = scorer.score(photo, asked)
    for group, support in zip(groups, supports, strict=True):
        own, reason = beside[group[0].region_id, group[0].sample], None
        agreement = len({(one.region_id, one.sample) for one in group})
        trusted = 0 < chosen.trusted_agreement <= agreement
        if scorer is not None and support is not None and not trusted:
            reason = unsupported(support, own, scorer, chosen)
        for verdict in _of_group(group, agreement, support, reason):
            verdicts[verdict.claim.id] = verdict
    return [verdicts[claim.id] for claim in claims]


def split_claims(statements: Sequence[Statement]) -> list[Claim]:
    """The sentences of all statements, with ids "c1", "c2", ... in order."""
    parts = [
        (text, one.region_id, one.sample, place, one.log_prob)
        for one in statements
        for place, text in enumerate(split_sentences(one.text))
    ]
    return [Claim(f"c{number}", *part) for number, part in enumerate(parts, 1)]


def _words(text: str) -> re.Pattern[str]:
    """Alternatives, separated by white space; "_" is a space."""
    return re.compile(rf"\b(?:{'|'.join(text.split())})\b".replace("_", " "), re.IGNORECASE)


_RULES: Final = {
    "preamble": _words(r"""
        here(?:'s|_is|_are)_(?:the|a|an|some|my) (?:modified|enhanced|revised)_(?:caption|description) key_elements
        i(?:'m|_am)_(?:unable|sorry) if_you please can_describe as_an_ai (?:not|no_longer|isn't|aren't)_(?:\w+_)?visible
        (?:cannot|can't|unable|difficult|hard|impossible)_(?:to_|be_)?(?:tell|determine|discern|see|say|identif\w+)
        does(?:n't|_not)_(?:provide|contain|show|include) not_specified
    """),
    "hedge": _words(r"""
        appear(?:s|ed|ing)? seem(?:s|ed|ingly)? suggest\w* likely possibl[ey] perhaps probabl\w+ maybe presumably
        potentially might may could would indicat\w+ impl(?:y|ies|ied|ying) looks?_(?:like|as) as_(?:if|though)
        typical(?:ly)? hint\w*
    """),
}


def clean(sentence: str) -> _Reason | None:
    """Why a sentence says nothing that a photo could support; None where it may."""
    if sentence.rstrip().endswith(":"):
        return "preamble", "leads in to a list"
    for reason, pattern in _RULES.items():
        found = pattern.search(sentence)
        if found:
            return reason, f"{reason}: {found.group()!r}"
    if len(sentence.split()) < 2 or not things(sentence):
        return "fragment", "names no thing"
    return None


def agreeing_groups(
    claims: Sequence[Claim], near: Collection[tuple[str, str]], alike: float = 0.6
) -> list[list[Claim]]:
    """Claims that say the same, grouped, ordered by their first claim.

    A claim joins the group to whose first claim it is most `alike`, if it is enough so (`similarity_matrix`) and their
    regions are `near`. First in its group then stands the claim most like the others, of those the fullest.
    """
    likeness = similarity_matrix([claim.text for claim in claims])
    groups: list[list[int]] = []
    for index, claim in enumerate(claims):
        fitting = [
            group
            for group in groups
            if likeness[index, group[0]] >= alike
            and (claim.region_id, claims[group[0]].region_id) in near
        ]
        if fitting:
            max(fitting, key=lambda group: float(likeness[index, group[0]])).append(index)
        else:
            groups.append([index])
    found = []
    for group in groups:
        total = likeness[:, group].sum(axis=1)
        words = {index: sum(word_weights(claims[index].text).values()) for index in group}
        best = max(group, key=lambda index: (float(total[index]), words[index], -index))
        found.append([claims[index] for index in dict.fromkeys([best, *group])])
    return found


class Beside(NamedTuple):
    """Sentences of a claim's own text; other samples about overlapping regions; how many name a kind of thing, and say
    a kind or a word."""

    sentences: int
    others: int
    named: Mapping[str, int]
    said: Mapping[str, int]


def supporting_samples(
    claims: Sequence[Claim], left: Sequence[Claim], near: Collection[tuple[str, str]]
) -> dict[tuple[str, int], Beside]:
    """(region, sample) of all `claims` -> what the other samples say in those that are `left`."""
    lengths = Counter((claim.region_id, claim.sample) for claim in claims)
    kinds: dict[tuple[str, int], set[str]] = {sample: set() for sample in lengths}
    words: dict[tuple[str, int], set[str]] = {sample: set() for sample in lengths}
    for claim in left:
        kinds[claim.region_id, claim.sample].update(map(kind_of, things(claim.text)))
        words[claim.region_id, claim.sample].update(content_words(claim.text))
    found = {}
    for own, sentences in lengths.items():
        others = [other for other in lengths if other != own and (own[0], other[0]) in near]
        named = Counter(kind for other in others for kind in kinds[other])
        said = Counter(word for other in others for word in kinds[other] | words[other])
        found[own] = Beside(sentences, len(others), named, said)
    return found


def rarely_said(text: str, beside: Beside, share: float) -> _Reason | None:
    """Why a text of one sentence says what too few samples say; None where enough do."""
    if beside.sentences > 1 or beside.others < _OCCASIONS:
        return None
    needed = dict.fromkeys(sorted(content_words(text)), share / 2)
    needed |= dict.fromkeys(map(kind_of, things(text)), share)
    for word, least in needed.items():
        found = (beside.said.get(word, 0) + 1) / (beside.others + 1)
        if found < least:
            told = f"{found:.0%} of {beside.others + 1} texts say {word!r}, not {least:.0%}"
            return "unsupported", told
    return None


def unsupported(
    support: Support, beside: Beside, scorer: Scorer, settings: FilterSettings
) -> _Reason | None:
    """Why the photo does not support a claim; None where it does."""
    # The measure of whole sentences was fitted on captions; of a long text's sentences the things are judged.
    told = settings.share > 0 and beside.others >= _OCCASIONS
    caption = (beside.sentences == 1 and not told) or not support.objects
    weak = support.score < scorer.threshold
    if weak and (caption or settings.whole_sentences == "always"):
        name, least = min(support.objects, key=lambda one: one[1], default=("", 1.0))
        limit = getattr(scorer, "object_threshold", 0.0)
        if least < limit:
            return "object", f"no sign of {name!r} (support {least:.2f}, needs {limit:.2f})"
        return "unsupported", f"support {support.score:.2f}, needs {scorer.threshold:.2f}"
    if beside.others < _OCCASIONS:
        return None
    lone = [one for one in support.objects if not beside.named.get(kind_of(one[0]))]
    name, least = min(lone, key=lambda one: one[1], default=("", 1.0))
    if least >= settings.lone_support:
        return None
    sign = f"little sign of {name!r} (support {least:.2f}, needs {settings.lone_support:.2f})"
    return "object", f"{sign}, which none of {beside.others} other texts names"


def _of_group(
    group: Sequence[Claim], agreement: int, support: Support | None, reason: _Reason | None
) -> list[Verdict]:
    """The first claim's verdict is the group's; the others of a kept group are merged into it."""
    first, *others = group
    regions = tuple(dict.fromkeys(claim.region_id for claim in group))
    why, note = reason or (None, "")
    verdict = rest = Verdict(first, why is None, agreement, regions, support, why, note)
    if why is None:
        note = f'says the same as {first.id}: "{first.text}"'
        rest = replace(verdict, kept=False, reason="duplicate", note=note)
        verdict = replace(verdict, merged=tuple(claim.id for claim in others))
    return [verdict] + [
        replace(rest, claim=one, regions=tuple(dict.fromkeys([one.region_id, *regions])))
        for one in others
    ]
