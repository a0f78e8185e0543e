"""Which sentences about a photo may be used, and why the others may not: raw statements in, verdicts out.

A sentence is kept or dropped whole, never rewritten. Agreement among samples of one model is no proof: it repeats its
mistakes. What no score can verify of a sentence stands in `Support.unverifiable`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from PIL import Image

from decoders.scene_graph.lexicon import word_set
from patchioner.base.errors import DetailError
from patchioner.detail.divide import overlap_share
from patchioner.detail.text import (
    Embed,
    canonical,
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

_OCCASIONS = 2  # other texts about a region, from which on it tells that none of them names a thing


@dataclass(frozen=True)
class FilterSettings:
    """What is kept.

    Attributes:
        rules: hedges, mood, preamble and fragments are dropped, by the words in `clean`.
        mood: whether mood is among them; off for benchmarks whose references are full of it.
        alike: similarity from which two claims say the same.
        overlap: share of the smaller region from which two regions may show the same thing.
        trusted_agreement: from so many samples on a claim is kept without support; 0: never. The published system takes
            two samples that agree for proof.
        whole_sentences: which sentences need the scorer's support as a whole. It was calibrated on captions, and of the
            sentences of long texts it drops every third true one: "captions" asks it of texts of one sentence, and of
            sentences of which no single thing is scored; "always" of all.
        lone_support: a thing drops its sentence where its own support is below this and no other sample of an
            overlapping region names it (two at least must have had the occasion); 0: never.
        lone_caption: a text of one sentence that no other sample agrees with needs this support; 0: no more than the
            others; 1: it goes. Our captions come from the alignment that scores them, so that scores alone say little.
        merge: of claims that say the same one is kept, and names the others in `merged`.
    """

    rules: bool = True
    mood: bool = True
    alike: float = 0.6
    overlap: float = 0.1
    trusted_agreement: int = 0
    whole_sentences: Literal["captions", "always"] = "captions"
    lone_support: float = 0.2
    lone_caption: float = 1.0
    merge: bool = True

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("alike", "overlap", "lone_support", "lone_caption"), (0, 1))
        kinds = ("captions", "always")
        check(self, **shares, whole_sentences=kinds, trusted_agreement=(0, 10_000))


def filter_statements(
    photo: Photo,
    regions: Sequence[DetailRegion],
    statements: Sequence[Statement],
    *,
    scorer: Scorer | None = None,
    settings: FilterSettings | None = None,
    embed: Embed | None = None,
) -> list[Verdict]:
    """Judge each sentence of each statement.

    `DetailError`: a statement speaks of a region that is not given, or two regions have one id.
    """
    chosen = settings or FilterSettings()
    by_id = {region.id: region for region in regions}
    unknown = sorted({one.region_id for one in statements} - by_id.keys())
    if len(by_id) < len(regions) or unknown:
        ids = [region.id for region in regions]
        raise DetailError(f"statements about {unknown}, regions {ids}: every id must be there once")
    claims = split_claims(statements)
    verdicts: dict[str, Verdict] = {}
    for claim in claims:
        reason = clean(claim.text, mood=chosen.mood) if chosen.rules else None
        if reason is not None:
            own = (claim.region_id,)
            verdicts[claim.id] = Verdict(claim, False, 1, own, None, reason[0], reason[1])
    left = [claim for claim in claims if claim.id not in verdicts]
    groups = agreeing_groups(left, by_id, alike=chosen.alike, overlap=chosen.overlap, embed=embed)
    supports: list[Support | None] = [None] * len(groups)
    if scorer is not None and groups:
        asked = [left[group.representative] for group in groups]
        supports[:] = scorer.score(photo, [(by_id[one.region_id], one.text) for one in asked])
    others = supporting_samples(claims, left, by_id, overlap=chosen.overlap)
    for group, support in zip(groups, supports, strict=True):
        beside = others[group.representative]
        reason = None
        if scorer is not None and support is not None:
            reason = _unsupported(group, support, beside, scorer, chosen)
        for verdict in _of_group(group, left, support, reason, merge=chosen.merge):
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


def _words(text: str, *, before: str = r"\b") -> re.Pattern[str]:
    """Alternatives, separated by white space; "_" is a space."""
    return re.compile(rf"{before}(?:{'|'.join(text.split())})\b".replace("_", " "), re.IGNORECASE)


_RULES: Final = {
    "preamble": _words(
        r"""
        here(?:'s|_is|_are)_(?:the|a|an|some|my) (?:modified|enhanced|revised)_(?:caption|description) key_elements
        i(?:'m|_am)_(?:unable|sorry) if_you please can_describe as_an_ai (?:not|no_longer|isn't|aren't)_(?:\w+_)?visible
        (?:cannot|can't|unable|difficult|hard|impossible)_(?:to_|be_)?(?:tell|determine|discern|see|say|identif\w+)
        (?:in|out_of)_focus focal_point depth_of_field blur\w* resolution grainy viewers? colou?r_palette vantage_point
        camera_angle taken_(?:from|during|with) does(?:n't|_not)_(?:provide|contain|show|include) not_specified
        """
    ),
    "mood": _words(
        r"""
        atmosphere ambian?ence mood vibe aesthetic\w* charm\w* seren\w+ tranquil\w* testament essence evok\w+ whims\w+
        harmon\w+ inviting cozy cosy peaceful\w* beautifully beauty captivating sense_of feeling_of touch_of symboli\w+
        reminiscent timeless solitude joy\w* nostalgi\w+ dynamism vitality bustling sophisticat\w+ elegan\w+ narrative
        simplicity everyday_life welcoming enjoy\w* relax\w+ leisure\w* contemplat\w+ anticipat\w+ excitement
        """
    ),
    "hedge": _words(
        r"""
        appear(?:s|ed|ing)? seem(?:s|ed|ingly)? suggest\w* likely possibl[ey] perhaps probabl\w+ maybe presumably
        potentially might may could would indicat\w+ impl(?:y|ies|ied|ying) looks?_(?:like|as) as_(?:if|though)
        typical(?:ly)? hint\w*
        """
    ),
}
_ABOUT_PICTURE: Final = _words(
    r"perspective angle focus lighting style composition impression setting environment combination contrast quality",
    before=r"^(?:overall,_)?(?:the|this|its)_(?:\w+_)?",
)


def clean(sentence: str, *, mood: bool = True) -> tuple[str, str] | None:
    """(Reason, in words) why a sentence says nothing that a photo could support; None where it may."""
    if sentence.rstrip().endswith(":"):
        return "preamble", "leads in to a list"
    for reason, pattern in _RULES.items():
        found = pattern.search(sentence)
        if found and (mood or reason != "mood"):
            return reason, f"{reason}: {found.group()!r}"
    if _ABOUT_PICTURE.search(sentence):
        return "preamble", "speaks of the picture, not of what it shows"
    if len(sentence.split()) < 2 or not things(sentence):
        return "fragment", "names no thing"
    return None


@dataclass(frozen=True)
class Group:
    """Claims that say the same, by index.

    Attributes:
        representative: the one most like the others; of those the fullest.
        members: all, in order.
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
    """Sort claims into groups that say the same, ordered by their first claim.

    A claim joins the group to whose first claim it is most `alike`, if it is enough so (`similarity_matrix`) and their
    regions overlap by at least that share of the smaller one.
    """
    likeness = similarity_matrix([claim.text for claim in claims], embed=embed)
    ids = list(dict.fromkeys(claim.region_id for claim in claims))
    near = {(a, b): overlap_share(regions[a], regions[b]) >= overlap for a in ids for b in ids}
    groups: list[list[int]] = []
    for index, claim in enumerate(claims):
        fitting = [
            group
            for group in groups
            if likeness[index, group[0]] >= alike
            and near[claim.region_id, claims[group[0]].region_id]
        ]
        if fitting:
            max(fitting, key=lambda group: float(likeness[index, group[0]])).append(index)
        else:
            groups.append([index])
    found = []
    for members in groups:
        total = likeness[:, members].sum(axis=1)
        words = {index: sum(word_weights(claims[index].text).values()) for index in members}
        best = max(members, key=lambda index: (float(total[index]), words[index], -index))
        samples = {(claims[index].region_id, claims[index].sample) for index in members}
        said_of = dict.fromkeys(claims[index].region_id for index in (best, *members))
        found.append(Group(best, tuple(members), len(samples), tuple(said_of)))
    return found


# One text's man is another's person, pedestrian or player.
_PEOPLE: Final = word_set("""
    person people man woman child boy girl baby lady adult teenager pedestrian player rider worker passenger spectator
    skier surfer skateboarder snowboarder bystander guy group crowd family couple audience
""")


@dataclass(frozen=True)
class Beside:
    """What else was said where a claim was made.

    Attributes:
        sentences: of its own text: 1 for a caption.
        others: number of other samples that speak of a region that overlaps its own.
        named: kind of thing -> in how many of those it is named.
    """

    sentences: int
    others: int
    named: Mapping[str, int]

    def supporting(self, name: str) -> int:
        """In how many other samples a thing is named."""
        return self.named.get(_kind(name), 0)


def supporting_samples(
    claims: Sequence[Claim],
    left: Sequence[Claim],
    regions: Mapping[str, DetailRegion],
    *,
    overlap: float = 0.1,
) -> list[Beside]:
    """What else was said beside each of the claims that are `left` of all `claims`, in order."""
    lengths = Counter((claim.region_id, claim.sample) for claim in claims)
    kinds: dict[tuple[str, int], set[str]] = {sample: set() for sample in lengths}
    for claim in left:
        kinds[claim.region_id, claim.sample].update(map(_kind, things(claim.text)))
    found: dict[tuple[str, int], Beside] = {}
    for own, sentences in lengths.items():
        near = [
            other
            for other in lengths
            if other != own and overlap_share(regions[own[0]], regions[other[0]]) >= overlap
        ]
        named = Counter(kind for other in near for kind in kinds[other])
        found[own] = Beside(sentences, len(near), named)
    return [found[claim.region_id, claim.sample] for claim in left]


def _kind(name: str) -> str:
    """What a thing is: the last word of its name, synonyms made one, people all alike."""
    word = canonical(name.rpartition(" ")[2])
    return "person" if word in _PEOPLE else word


def _unsupported(
    group: Group, support: Support, beside: Beside, scorer: Scorer, settings: FilterSettings
) -> tuple[str, str] | None:
    """(Reason, in words) why the photo does not support a group; None where it does."""
    if 0 < settings.trusted_agreement <= group.agreement:
        return None
    # The measure of whole sentences was fitted on captions; of a long text's sentences the things are judged.
    caption = beside.sentences == 1 or not support.objects
    weak = support.score < scorer.threshold
    if weak and (caption or settings.whole_sentences == "always"):
        name, least = min(support.objects, key=lambda one: one[1], default=("", 1.0))
        limit = getattr(scorer, "object_threshold", 0.0)
        if least < limit:
            return "object", f"no sign of {name!r} (support {least:.2f}, needs {limit:.2f})"
        return "unsupported", f"support {support.score:.2f}, needs {scorer.threshold:.2f}"
    if beside.others < _OCCASIONS:
        return None
    alone = beside.sentences == 1 and group.agreement == 1
    if alone and support.score < settings.lone_caption:
        return (
            "unsupported",
            f"one text alone says so, of {beside.others + 1}: its support is {support.score:.2f}, below "
            f"{settings.lone_caption:.2f}",
        )
    lone = [one for one in support.objects if not beside.supporting(one[0])]
    name, least = min(lone, key=lambda one: one[1], default=("", 1.0))
    if least >= settings.lone_support:
        return None
    return (
        "object",
        f"little sign of {name!r} (support {least:.2f}, needs {settings.lone_support:.2f}), which none of "
        f"{beside.others} other texts names",
    )


def _of_group(
    group: Group,
    claims: Sequence[Claim],
    support: Support | None,
    reason: tuple[str, str] | None,
    *,
    merge: bool,
) -> list[Verdict]:
    """The representative's verdict is the group's; the others of a kept group are merged into it."""
    first = claims[group.representative]
    others = [claims[member] for member in group.members if member != group.representative]
    why, note = reason or (None, "")
    verdict = Verdict(first, why is None, group.agreement, group.regions, support, why, note)
    if why is None and merge:
        note = f'says the same as {first.id}: "{first.text}"'
        rest = replace(verdict, kept=False, reason="duplicate", note=note)
        verdict = replace(verdict, merged=tuple(claim.id for claim in others))
    else:
        rest = verdict
    return [
        verdict,
        *(
            replace(rest, claim=one, regions=tuple(dict.fromkeys([one.region_id, *group.regions])))
            for one in others
        ),
    ]


_BLOCK: Final = 8
# Of 3,371 photos of COCO the flattest has 49 levels, and the noisiest 21 times the spread of noise (noise itself: 1).
_LEVELS: Final = 8.0
_TIMES: Final = 6.0
_FEWEST_BLOCKS: Final = 16


def why_blank(image: Image.Image) -> str | None:
    """Why an RGB photo shows nothing (whatever is said of it is invented), in words; None where it may show something.

    Means of blocks of 8 x 8 pixels are compared. **One colour**: in no channel do two of them differ by more than 8
    of 255 levels. **Noise**: pixels that have nothing to do with their neighbours have means that vary 64 times less
    than they do; in photos they vary many times more than that; below 6 times it is noise. What was enlarged
    from noise, a gradient, or a pattern without meaning is not recognized.
    """
    # Of small photos smaller blocks: an eighth of the shorter side.
    block = min(max(min(image.size) // _BLOCK, 1), _BLOCK)
    means = np.asarray(image.convert("RGB").reduce(block), dtype=np.int64).reshape(-1, 3)
    levels = int((means.max(axis=0) - means.min(axis=0)).max())
    if levels <= _LEVELS:
        return f"the photo is of one colour: its parts differ by {levels} of 255 levels"
    times = structure(image)
    if times is not None and times <= _TIMES:
        return (
            "the photo is noise: its pixels have nothing to do with their neighbours "
            f"(structure {times:.1f}; noise has 1, photos have 20 and more)"
        )
    return None


def structure(image: Image.Image) -> float | None:
    """How many times more the means of blocks vary than those of independent pixels would: 1 of noise, 64 at most.

    None where there are fewer than 16 whole blocks of 8 x 8 pixels, or all pixels are alike.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    rows, columns = grey.shape[0] // _BLOCK, grey.shape[1] // _BLOCK
    whole = grey[: rows * _BLOCK, : columns * _BLOCK]
    spread = float(whole.var()) if whole.size else 0.0
    if rows * columns < _FEWEST_BLOCKS or spread == 0:
        return None
    means = whole.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
    return float(means.var()) * _BLOCK**2 / spread
