"""Statements -> verdicts on their sentences -> one paragraph.

A sentence is kept or dropped whole, never rewritten. A language model may word statements and not add to them: it names
the statements of every sentence that it writes, and each is checked against their words.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from decoders.scene_graph import word_set
from patchioner import detail
from patchioner.base.errors import DetailError, FutileError
from patchioner.base.files import check
from patchioner.detail import Claim, DetailRegion, FusedSentence, Photo, Support, Verdict, prose
from patchioner.detail.describe import overlap_share
from patchioner.detail.models import AskedModel

_LOG = logging.getLogger(__name__)
_OVERLAP = 0.1  # share of the smaller region from which two regions may show the same thing
_OCCASIONS = 2  # other texts about a region, from which on it tells that none of them names a thing
_Pairs: TypeAlias = Collection[tuple[str, str]]
_Reason = tuple[str, str]  # one of `Verdict.reason`, the reason in words


@dataclass(frozen=True)
class FilterSettings:
    """What is kept."""

    rules: bool = True  # hedges, preamble and fragments are dropped, see `clean`
    alike: float = 0.6  # similarity from which two claims say the same
    trusted_agreement: int = 0  # from so many samples on a claim is kept without support; 0: never
    # Which need the scorer's support as a whole: texts of one sentence that no share of samples tells of, and sentences
    # of which no thing is scored; or all.
    whole_sentences: Literal["captions", "always"] = "captions"
    # A thing of less support drops its sentence where none of 2 or more other samples of overlapping regions names it.
    lone_support: float = 0.2
    # Of a text of one sentence each thing must be named by this share of the samples about overlapping regions (about
    # the region alone where a user gave it), each other word by half of it; 0: no such test.
    share: float = 0.45

    def __post_init__(self) -> None:
        check("[0, 1]", self, "alike lone_support share")
        check("int [0, 10000]", self, "trusted_agreement")
        check(("captions", "always"), self, "whole_sentences")


def filter_statements(
    photo: Photo,
    regions: detail.Regions,
    statements: Sequence[detail.Statement],
    *,
    scorer: detail.Scorer | None = None,
    settings: FilterSettings | None = None,
) -> list[Verdict]:
    """Judge each sentence of each statement; of those that say the same one is kept, and names the others.
    `DetailError`: a statement speaks of a region that is not given, or two regions have one id."""
    chosen, by_id = settings or FilterSettings(), {region.id: region for region in regions}
    unknown = sorted({one.region_id for one in statements} - by_id.keys())
    if len(by_id) < len(regions) or unknown:
        raise DetailError(f"statements about {unknown}, regions {[one.id for one in regions]}: give every id once")
    claims: list[Claim] = []
    for one in statements:
        for place, text in enumerate(prose.split_sentences(one.text)):
            claims.append(Claim(f"c{len(claims) + 1}", text, one.region_id, one.sample, place, one.log_prob))
    verdicts: dict[str, Verdict] = {}

    def left_by(why_not: Callable[[Claim], _Reason | None], some: Sequence[Claim]) -> list[Claim]:
        for claim in some:
            if reason := why_not(claim):
                verdicts[claim.id] = Verdict(claim, False, 1, (claim.region_id,), None, *reason)
        return [claim for claim in some if claim.id not in verdicts]

    left = left_by(lambda claim: clean(claim.text), claims) if chosen.rules else claims
    pairs = product({claim.region_id for claim in claims}, repeat=2)
    near = {(a, b) for a, b in pairs if overlap_share(by_id[a], by_id[b]) >= _OVERLAP}
    heard = {pair for pair in near if pair[0] == pair[1] or by_id[pair[0]].kind != "user"}
    beside = supporting_samples(claims, left, heard)
    left = left_by(lambda one: rarely_said(one.text, beside[one.text_id], chosen.share), left)
    groups = agreeing_groups(left, near, chosen.alike)
    supports: list[Support] | list[None] = [None] * len(groups)
    if scorer is not None and groups:
        supports = scorer.score(photo, [(by_id[one[0].region_id], one[0].text) for one in groups])
    for group, support in zip(groups, supports, strict=True):
        reason, agreement = None, len({one.text_id for one in group})
        if scorer is not None and support is not None and not 0 < chosen.trusted_agreement <= agreement:
            reason = unsupported(support, beside[group[0].text_id], scorer, chosen)
        verdicts |= {one.claim.id: one for one in _judged(group, agreement, support, reason)}
    return [verdicts[claim.id] for claim in claims]


_RULES: Final = {reason: prose.any_of(reason) for reason in ("preamble", "hedge")}


def clean(sentence: str) -> _Reason | None:
    """Why a sentence says nothing that a photo could support; None where it may."""
    if sentence.rstrip().endswith(":"):
        return "preamble", "leads in to a list"
    for reason, pattern in _RULES.items():
        if found := pattern.search(sentence.replace("\u2019", "'")):
            return reason, f"{reason}: {found.group()!r}"
    if len(sentence.split()) < 2 or not prose.things(sentence):
        return "fragment", "names no thing"
    return None


def agreeing_groups(claims: Sequence[Claim], near: _Pairs, alike: float) -> list[list[Claim]]:
    """Claims that say the same, grouped, ordered by their first claim. A claim joins the group to whose first claim it
    is most `alike`, if it is enough so (`similarity_matrix`) and their regions are `near`. First in its group then
    stands the claim most like the others, of those the fullest."""
    likeness = prose.similarity_matrix([claim.text for claim in claims])
    groups: dict[int, list[int]] = {}  # by the place of their first claim
    for index, claim in enumerate(claims):
        beside = [first for first in groups if (claim.region_id, claims[first].region_id) in near]
        best = max(beside, key=lambda first: float(likeness[index, first]), default=index)
        groups.setdefault(best if likeness[index, best] >= alike else index, []).append(index)
    found = []
    for group in groups.values():
        total = likeness[:, group].sum(axis=1)
        words = {index: sum(prose.word_weights(claims[index].text).values()) for index in group}
        best = max(group, key=lambda index: (float(total[index]), words[index], -index))
        found.append([claims[index] for index in dict.fromkeys([best, *group])])
    return found


class Beside(NamedTuple):
    """Sentences of a claim's own text; other samples about overlapping regions; how many name a kind, or say a word."""

    sentences: int
    others: int
    named: Mapping[str, int]
    said: Mapping[str, int]


def supporting_samples(claims: Sequence[Claim], left: Sequence[Claim], near: _Pairs) -> dict[tuple[str, int], Beside]:
    """(region, sample) of all `claims` -> what the other samples say in those that are `left`."""
    lengths = Counter(claim.text_id for claim in claims)
    kinds: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    words: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for claim in left:
        kinds[claim.text_id].update(map(prose.kind_of, prose.things(claim.text)))
        words[claim.text_id].update(prose.content_words(claim.text))
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
    needed = dict.fromkeys(sorted(prose.content_words(text)), share / 2)
    needed |= dict.fromkeys(map(prose.kind_of, prose.things(text)), share)
    for word, least in needed.items():
        found = (beside.said.get(word, 0) + 1) / (beside.others + 1)
        if found < least:
            return "unsupported", f"{found:.0%} of {beside.others + 1} texts say {word!r}, not {least:.0%}"
    return None


def unsupported(support: Support, beside: Beside, scorer: detail.Scorer, settings: FilterSettings) -> _Reason | None:
    """Why the photo does not support a claim; None where it does."""
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
    lone = [one for one in support.objects if not beside.named.get(prose.kind_of(one[0]))]
    name, least = min(lone, key=lambda one: one[1], default=("", 1.0))
    if least >= settings.lone_support:
        return None
    sign = f"little sign of {name!r} (support {least:.2f}, needs {settings.lone_support:.2f})"
    return "object", f"{sign}, which none of {beside.others} other texts names"


def _judged(group: Sequence[Claim], agreement: int, support: Support | None, why: _Reason | None) -> Iterator[Verdict]:
    """The first claim's verdict is the group's; the others of a kept group are merged into it."""
    first, *others = group
    regions = tuple(dict.fromkeys(claim.region_id for claim in group))
    reason, note = why or (None, "")
    verdict = rest = Verdict(first, why is None, agreement, regions, support, reason, note)
    if why is None:
        rest = dropped(verdict, "duplicate", f'says the same as {first.id}: "{first.text}"')
        verdict = replace(verdict, merged=tuple(claim.id for claim in others))
    yield verdict
    for one in others:
        yield replace(rest, claim=one, regions=tuple(dict.fromkeys([one.region_id, *regions])))


_KINDS = ("global", "semantic", "user", "spatial", "grid")  # as a paragraph speaks of them


@dataclass(frozen=True)
class FuseSettings:
    """How sentences become a paragraph; chosen on the 114 development photos, `benchmarks.detail` "objects"."""

    max_words: int = 120  # of the paragraph
    duplicate: float = 0.5  # similarity from which two sentences say the same
    new_share: float = 0.5  # of a sentence's things, that no sentence before it names; 0 asks for none
    # The sentence that adds most content per word is first, not what most samples agree on: for large models' texts.
    coverage: bool = False

    def __post_init__(self) -> None:
        check("int [1, 10000]", self, "max_words")
        check("[0, 1]", self, "duplicate new_share")


class GreedyFuser:
    """Verdicts -> sentences of a paragraph, without a language model (a `Fuser`)."""

    def __init__(self, settings: FuseSettings | None = None) -> None:
        self._settings = settings or FuseSettings()
        self.settings: dict[str, object] = {"fuser": "greedy", **asdict(self._settings)}

    def fuse(self, photo: Photo, regions: detail.Regions, kept: Sequence[Verdict]) -> detail.Fused:
        """The sentences in order, and verdicts on kept claims that bring nothing new ("duplicate") or do not fit."""
        settings, kept = self._settings, ordered(regions, kept)
        texts = [finished(verdict.claim.text) for verdict in kept]
        alike, left, named = prose.similarity_matrix(texts), settings.max_words, set[str]()
        taken: dict[int, list[Verdict]] = {}  # place of a sentence -> of whom it speaks
        left_out: list[Verdict] = []
        agreed = [(-one.agreement, -one.support.score if one.support else 0.0) for one in kept]
        places = sorted(range(len(texts)), key=agreed.__getitem__)
        for place in _by_coverage(texts, kept, taken) if settings.coverage else places:
            verdict, words = kept[place], len(texts[place].split())
            same = max(taken, key=lambda other: float(alike[place, other]), default=None)
            own = set(map(prose.kind_of, prose.things(texts[place])))
            if same is not None and alike[place, same] >= settings.duplicate:
                taken[same].append(verdict)
            elif settings.new_share and len(own - named) < max(settings.new_share * len(own), 1e-9):
                left_out.append(dropped(verdict, "duplicate", "the paragraph names its things already"))
            elif words > left:
                full = f"other sentences have more to say in {settings.max_words} words"
                left_out.append(dropped(verdict, "length", full))
            else:
                taken[place] = [verdict]
                named |= own
                left -= words
        return [_sentence(texts[place], taken[place]) for place in sorted(taken)], left_out


def ordered(regions: detail.Regions, kept: Sequence[Verdict]) -> list[Verdict]:
    """Kept claims by kind of region: the whole, things, places."""
    ranks = {one.id: _KINDS.index(one.kind) for one in regions}
    return sorted(kept, key=lambda verdict: ranks[verdict.claim.region_id])


def _by_coverage(texts: Sequence[str], verdicts: Sequence[Verdict], taken: Collection[int]) -> Iterator[int]:
    """Each time the place whose text adds most per word to those taken: words and pairs, worth the samples with them.
    After Gillick and Favre, "A Scalable Global Model for Summarization" (2009), greedily."""
    parts = [_concepts(text) for text in texts]
    said: dict[str, set[tuple[str, int]]] = {}
    merged: Counter[str] = Counter()
    for own, verdict in zip(parts, verdicts, strict=True):
        for part in own:
            said.setdefault(part, set()).add(verdict.claim.text_id)
            merged[part] += len(verdict.merged)
    left = list(range(len(texts)))
    while left:
        told = set().union(*(parts[place] for place in taken))
        gains = []
        for at in left:
            new = parts[at] - told
            fresh, words = (sum(" " not in part for part in of) for of in (new, parts[at]))
            worth = sum(len(said[part]) + merged[part] for part in new) / len(texts[at].split())
            gains.append(worth if 2 * fresh >= words else 0.0)  # what is half told comes last
        yield left.pop(gains.index(max(gains)))


def _concepts(text: str) -> set[str]:
    words = prose.words_of(text)
    telling = {word for word in words if word not in _PLAIN}
    return telling | {f"{a} {b}" for a, b in pairwise(words) if {a, b} & telling}


def finished(text: str) -> str:
    """The text with a capital and a stop."""
    plain = " ".join(text.split()).rstrip(",;:")
    return prose.stopped(plain[:1].upper() + plain[1:])


def _sentence(text: str, verdicts: Sequence[Verdict]) -> FusedSentence:
    """A sentence of the paragraph that says what the claims say."""
    claims = dict.fromkeys(one.claim.id for one in verdicts)
    regions = dict.fromkeys(name for one in verdicts for name in (one.claim.region_id, *one.regions))
    scores = [one.support.score for one in verdicts if one.support is not None]
    agreement = max(one.agreement for one in verdicts)
    return FusedSentence(text, tuple(claims), tuple(regions), agreement, min(scores, default=None))


def dropped(verdict: Verdict, reason: str, note: str) -> Verdict:
    """The verdict on a kept claim that is left out after all."""
    return replace(verdict, kept=False, reason=reason, note=note)


@dataclass(frozen=True)
class _Written:
    """A sentence, and the numbers, from 1, of the statements that it says."""

    text: str
    ids: tuple[int, ...]


_LONGEST, _MOST = 100_000, 60  # characters of an answer, statements
_PLAIN: Final = word_set(prose.LISTS["plain words"])
_ALLOWED: Final = word_set("there is are also and in on at the a an with")
_NEGATIONS: Final = word_set("no not none never without nothing nobody neither nor cannot n't")

# Change the prompt and its version goes up: answers to the old one are other answers.
PROMPT: Final = "fuse-rewrite/2"
SYSTEM: Final = prose.prompt("fuse prompt")


class LanguageFuser:
    """Verdicts -> sentences of a paragraph, by a language model under check (a `Fuser`). `GreedyFuser` takes over where
    the model gives no usable answer, and beyond 60 statements."""

    def __init__(self, model: AskedModel, settings: FuseSettings | None = None, *, seed: int = 0) -> None:
        self._model, self._settings = model, settings or FuseSettings()
        self._asking: dict[str, Any] = {"temperature": 0.2, "max_tokens": 2048, "seed": seed}
        self._greedy = GreedyFuser(self._settings)
        own = {"fuser": "language", "model": model.settings, "prompt": PROMPT, "most": _MOST}
        self.settings = {**self._greedy.settings, **own, **self._asking}

    def fuse(self, photo: Photo, regions: detail.Regions, kept: Sequence[Verdict]) -> detail.Fused:
        """As `GreedyFuser.fuse`; "no source": told in no sentence, or only in such as say what no statement says."""
        kept, sentences = ordered(regions, kept), list[FusedSentence]()
        if 2 <= len(kept) <= _MOST:
            asked = _numbered(kept, {region.id: region for region in regions})
            sentences = self._checked(self._written(asked, len(kept)), kept)
        if not sentences:
            return self._greedy.fuse(photo, regions, kept)
        told = {name for sentence in sentences for name in sentence.claim_ids}
        note = "the language model told it in no sentence that its statements support"
        return sentences, [dropped(one, "no source", note) for one in kept if one.claim.id not in told]

    def _written(self, statements: str, count: int) -> Sequence[_Written]:
        """What the model answers; asked a second time with the error; nothing in the end."""
        asked = user = f"At most {self._settings.max_words} words.\n{statements}"
        for _ in range(2):
            try:
                said = self._model.ask(SYSTEM, asked, **self._asking)
            except FutileError:  # nobody would answer the next photo either: not ours to cover up
                raise
            except DetailError as error:
                _LOG.warning("no answer (%s); fusing without a model", error)
                return []
            try:
                return read_written(said, count)
            except DetailError as error:
                wrong = f"Your last answer could not be used: {error}"
                asked = f"{user}\n\n{wrong}. Answer with the JSON object alone."
        _LOG.warning("no usable answer in two tries (%s); fusing without a model", wrong)
        return []

    def _checked(self, written: Sequence[_Written], verdicts: Sequence[Verdict]) -> list[FusedSentence]:
        """The sentences whose every word has a source, each once, as far as they fit."""
        found: dict[str, FusedSentence] = {}
        left = self._settings.max_words
        for one in written:
            sources = [verdicts[number - 1] for number in dict.fromkeys(one.ids)]
            text = finished(one.text)
            if words := unsourced_words(text, [source.claim.text for source in sources], allowed=_ALLOWED):
                _LOG.info("dropped %r: no statement says %s", text, ", ".join(words))
            elif len(text.split()) <= left and text.casefold() not in found:
                found[text.casefold()] = _sentence(text, sources)
                left -= len(text.split())
        return list(found.values())


def unsourced_words(text: str, claims: Sequence[str], allowed: Collection[str] = ()) -> list[str]:
    """Content words and negations of a sentence that none of its claims has, sorted; forms and synonyms count as one. A
    sentence that puts the words of its claims together in another sense passes."""
    said = " ".join(claims)
    terms = (prose.words_of(said), allowed, *map(prose.content_words, (said, *claims)))
    known = {prose.root(word) for words in terms for word in words}
    words = prose.content_words(text)
    new = {word for word in words if known.isdisjoint(map(prose.root, (word, *word.split("-"))))}
    return sorted(new | (_negations(text) - _negations(said)))


def _negations(text: str) -> set[str]:
    return {"not" if word.endswith("n't") else word for word in prose.words_of(text)} & _NEGATIONS


def _numbered(verdicts: Sequence[Verdict], regions: Mapping[str, DetailRegion]) -> str:
    """Claims as the user's part of a prompt: one numbered line each."""
    lines = []
    for number, verdict in enumerate(verdicts, 1):
        region = regions[verdict.claim.region_id]
        # A name comes from outside as statements do: letters alone, so that it cannot close the bracket.
        name = "".join(one for one in region.name or "" if one.isalnum() or one == " ")
        part = "whole photo" if region.kind == "global" else name[:40].strip() or "a part"
        text = " ".join(finished(verdict.claim.text).replace('"', "'").split())
        lines.append(f'{number}. [{part}] "{text}"')
    return "\n".join(lines)


def read_written(answer: str, count: int) -> tuple[_Written, ...]:
    """The sentences of an answer to `SYSTEM`; words around the one JSON object are no harm. `DetailError`: no such
    object, a sentence without words or without numbers from 1 to `count`."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        if len(answer) > _LONGEST or not 0 <= start < end:
            raise ValueError(f"{answer!r:.60} holds no JSON object")
        found = json.loads(answer[start : end + 1])
        written: tuple[_Written, ...] = detail.read(tuple[_Written, ...], found["sentences"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise DetailError(f"the answer is not as asked for ({what})") from error
    for one in written:
        if not any(map(str.isalnum, one.text)):
            raise DetailError(f"the text {one.text!r:.60} of a sentence must be words")
        if not one.ids or not 1 <= min(one.ids) <= max(one.ids) <= count:
            raise DetailError(f"ids of {one.text!r:.60} are {list(one.ids)!r:.60}; give numbers from 1 to {count}")
    if not written:
        raise DetailError("the answer has no sentences; give at least one")
    return written
