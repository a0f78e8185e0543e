"""Scores of long texts: objects named, DID-Bench with its controls; what the parts of `benchmarks.detail` share."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import scoring
from benchmarks.command import CIDER_WARNING, figure, markdown_table
from benchmarks.data import BenchmarkDataError, PhotoFolder, load_json, read_folder, task_named
from benchmarks.metrics import Meteor, bleu, cider, rouge_l
from benchmarks.metrics.caption import Floats, Groups, Texts
from benchmarks.metrics.regions import SYNONYMS, named_classes, plural
from benchmarks.run import load_pretrained
from benchmarks.scoring import PERSON, Interval, bootstrap_mean, finite
from decoders.scene_graph import word_set
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.base.progress import progress
from patchioner.detail import DetailRegion, Photo, RegionKind, Scorer, Statement, open_photo
from patchioner.detail.fuse import FilterSettings, clean, filter_statements
from patchioner.detail.prose import LISTS, split_sentences
from patchioner.detail.score import DenseScorer

WORDS = 240  # near the mean of the published references (248 and 239), declared beforehand
OBJECT_METRICS = ("precision", "recall", "clean")
EXTRACTIVE, AGAIN, ALONE = "extractive", "global again", "global alone"
_STOP: Final = word_set(LISTS["plain words"]) | {"what"}
# "other": a semantic region whose box was altered in the published run.
_KINDS: dict[str, RegionKind] = {"quadrant": "spatial", "semantic": "semantic", "other": "semantic"}


@dataclass(frozen=True)
class Setup:
    """What the parts of one run are told: folders, model, limit on photos, words on DID-Bench, seed."""

    data: Path
    out: Path
    name: str = "patchioner-mini"
    limit: int | None = None
    words: int = WORDS
    seed: int = 0
    meteor: Meteor | None = None
    preset: str = "careful"

    @cached_property
    def model(self) -> Patchioner:
        """The model, loaded when it is first asked for."""
        return load_pretrained(self.name, "cpu")


class Part(NamedTuple):
    """What a part found: its tables, the same figures as JSON values, and bars that were not reached."""

    title: str
    text: str
    values: dict[str, Any]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """Counts (n,) of texts, each of another photo: classes named, those of them there, classes there, words.

    After CHAIR (Rohrbach et al., EMNLP 2018): CHAIR_i is 100 - precision, CHAIR_s is 100 - clean.
    """

    named: Floats
    right: Floats
    there: Floats
    words: Floats

    def share(self, metric: str) -> tuple[Floats, Floats]:
        """Of each text, above and below the line: right, of those named or there; or whether it names no other."""
        if metric == "clean":
            return (self.named == self.right).astype(np.float64), np.ones(len(self.named))
        return self.right, self.named if metric == "precision" else self.there

    def interval(self, metric: str, seed: int = 0) -> Interval:
        """The share over all texts."""
        return scoring.bootstrap_ratio(*self.share(metric), range(len(self.named)), seed=seed)

    def gain_over(self, other: ObjectScores, metric: str, seed: int = 0) -> Interval:
        """How much a metric exceeds that of other texts of the same photos, resampled for both together."""

        def share(one: ObjectScores, often: NDArray[np.int64]) -> float:
            above, below = (float(often @ part) for part in one.share(metric))
            return above / below if below else 0.0

        gain = lambda often: share(self, often) - share(other, often)  # noqa: E731
        return scoring.bootstrap_statistic(gain, range(len(self.named)), seed=seed)


def object_scores(texts: Sequence[str], present: Sequence[Collection[str]], *, people: bool = True) -> ObjectScores:
    """Count the objects that n texts name, each of a photo with those COCO classes; without `people`, but persons."""
    if len(texts) != len(present) or not texts:
        raise OptionError(f"{len(texts)} texts for {len(present)} photos: give one text per photo")
    rows, skipped = [], frozenset(() if people else (PERSON,))
    for text, classes in zip(texts, present, strict=True):
        there, named = frozenset(classes) - skipped, named_classes(text) - skipped
        right = named & there
        # "glass" is a cup and a wine glass: where one of them is there, the other was not claimed.
        words = {word for name in right for word in SYNONYMS[name]}
        claimed = right | {name for name in named if words.isdisjoint(SYNONYMS[name])}
        rows.append((len(claimed), len(right), len(there), len(text.split())))
    return ObjectScores(*np.array(rows, dtype=np.float64).T)


@dataclass(frozen=True, eq=False)
class DidPhoto:
    """A photo of DID-Bench, what a large model said of it (first of the whole photo), and its references, if any."""

    name: str
    size: tuple[int, int]
    regions: tuple[DetailRegion, ...]
    statements: tuple[Statement, ...]
    references: tuple[str, ...]


def read_did(folder: Path) -> list[DidPhoto]:
    """Read describe_run.json and references_dev.json; BenchmarkDataError if missing or in another form."""
    names = ("references_dev.json", "describe_run.json")
    references, run = (load_json(folder / name)[0] for name in names)
    try:
        return [_did_photo(row, references) for row in run]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        told = f"{folder / names[1]} is not in its form ({type(error).__name__}: {error})"
        raise BenchmarkDataError(f"{told}: fetch it again") from error


def referenced(folder: Path, limit: int | None = None) -> list[DidPhoto]:
    """The first `limit` photos of `read_did` that have references."""
    return [photo for photo in read_did(folder) if photo.references][:limit]


def _did_photo(row: Mapping[str, Any], references: Mapping[str, Sequence[str]]) -> DidPhoto:
    size = (int(row["width"]), int(row["height"]))
    regions = [DetailRegion("global", "global", (0.0, 0.0, float(size[0]), float(size[1])))]
    statements = [Statement("global", 0, str(row["global_description"]))]
    counts = Counter[str]()
    for given in row["regions"]:
        kind = _KINDS[given["kind"]]
        counts[kind] += 1
        left, top, right, bottom = map(float, given["xyxy"])
        region = DetailRegion(f"{kind}-{counts[kind]}", kind, (left, top, right, bottom))
        regions.append(region)
        texts = enumerate(given["descriptions"])
        statements += [Statement(region.id, sample, str(text)) for sample, text in texts]
    name = str(row["file_name"])
    return DidPhoto(name, size, tuple(regions), tuple(statements), tuple(references.get(name, ())))


class Scored(NamedTuple):
    """DID-Bench scores of n texts, x 100: of the set ("bleu1" .. "cider", "meteor"), of single texts; and objects."""

    values: Mapping[str, float]
    samples: Mapping[str, Floats]
    objects: ObjectScores

    def gain_over(self, other: Scored, metric: str, seed: int = 0) -> Interval:
        """How much the single texts' scores exceed another set's over the same photos; paired."""
        gains = self.samples[metric] - other.samples[metric]
        return bootstrap_mean(gains, range(len(gains)), seed=seed)


def score_texts(texts: Texts, references: Groups, meteor: Meteor | None = None) -> Scored:
    """Score long captions as DID-Bench does, on raw strings; objects are counted against those of the references."""
    pooled, single = bleu(texts, references, tokenizer=str.split)
    values = {f"bleu{order + 1}": float(score) for order, score in enumerate(pooled)}
    samples = {name: single[:, order] for order, name in enumerate(values)}
    for name, metric in (("rouge_l", rouge_l), ("cider", cider)):
        values[name], samples[name] = metric(texts, references, tokenizer=str.split)
    if meteor is not None:
        values["meteor"], samples["meteor"] = meteor.score(texts, references)
    named = [frozenset().union(*map(named_classes, group)) for group in references]
    return Scored(values, samples, object_scores(texts, named))


def filled(sentences: Iterable[str], max_words: int, *, new_below: float | None = None) -> str:
    """Sentences in order, as far as they fit, but none whose words are as alike (Jaccard) to one's as `new_below`."""
    taken: list[str] = []
    seen: list[frozenset[str]] = []
    budget = max_words
    for sentence in sentences:
        words = frozenset(re.findall(r"[a-z0-9'-]+", sentence.lower())) - _STOP
        size = len(sentence.split())
        alike = (len(words & one) / len(words | one) if words | one else 1.0 for one in seen)
        if size <= budget and (new_below is None or all(share < new_below for share in alike)):
            taken.append(sentence)
            seen.append(words)
            budget -= size
    return " ".join(taken)


def _region_sentences(photo: DidPhoto) -> Iterator[str]:
    """Of every sample in turn: the semantic regions, then the others."""
    parts = sorted(photo.regions[1:], key=lambda region: region.kind != "semantic")
    texts = {p.id: [s.text for s in photo.statements if s.region_id == p.id] for p in parts}
    for sample in range(max(map(len, texts.values()), default=0)):
        for part in parts:
            if sample < len(texts[part.id]):
                yield from split_sentences(texts[part.id][sample])


def controls(photos: Sequence[DidPhoto], lengths: Sequence[int]) -> dict[str, list[str]]:
    """Texts as long as asked that no filter has touched: what length alone is worth, and what copying is."""
    found: dict[str, list[str]] = {EXTRACTIVE: [], AGAIN: [], ALONE: [], "another photo's": []}
    for place, (photo, length) in enumerate(zip(photos, lengths, strict=True)):
        own = split_sentences(photo.statements[0].text)
        other = photos[(place + 1) % len(photos)]
        found[EXTRACTIVE].append(filled([*own, *_region_sentences(photo)], length, new_below=0.5))
        found[AGAIN].append(filled(own * 12, length))
        found[ALONE].append(photo.statements[0].text)
        found["another photo's"].append(filled([*own, *_region_sentences(other)], length))
    return found


def missed_rivals(scored: Mapping[str, Scored]) -> list[str]:
    """Where the first text does not beat a rival of its length on METEOR or CIDEr, by the scores of the set."""
    name, own = next(iter(scored.items()))
    return [
        f"{metric} {own.values[metric]:.2f} ({name}), {scored[rival].values[metric]:.2f} ({rival})"
        for rival in (EXTRACTIVE, AGAIN, ALONE)
        for metric in ("meteor", "cider")
        if metric in own.values and not own.values[metric] > scored[rival].values[metric]
    ]


def did_tables(scored: Mapping[str, Scored], seed: int) -> str:
    """Scores, objects and paired differences (first minus each other) of texts."""
    ours, own = next(iter(scored.items()))
    metrics = [n for n in ("bleu1", "bleu4", "meteor", "rouge_l", "cider") if n in own.values]
    paired = [name for name in ("meteor", "cider") if name in own.values]
    rows, gains = [], []
    for name, one in scored.items():
        shares = [percent(one.objects.interval(metric, seed)) for metric in OBJECT_METRICS[:2]]
        words = f"{one.objects.words.mean():.0f}"
        rows.append([name, words, *(f"{one.values[metric]:.2f}" for metric in metrics), *shares])
        if name != ours:
            found = [own.gain_over(one, metric, seed) for metric in paired]
            shown = [figure(f.value, f.low, f.high, signed=True, digits=2) for f in found]
            gains.append([name, *shown])
    head = ["text", "words", *metrics, "objects: precision", "recall"]
    differences = markdown_table([f'"{ours}" minus', *paired], gains)
    return f"{markdown_table(head, rows)}\n{differences}\n{CIDER_WARNING}\n"


def did_json(scored: Mapping[str, Scored], seed: int) -> dict[str, Any]:
    """All figures of texts."""
    found = {}
    for name, one in scored.items():
        objects = {m: finite(one.objects.interval(m, seed)) for m in OBJECT_METRICS}
        scores = {metric: round(value, 4) for metric, value in one.values.items()}
        words = float(one.objects.words.mean())
        found[name] = {"words": words, "scores": scores, "objects": objects}
    return found


def annotated(setup: Setup) -> dict[str, frozenset[str]]:
    """Photo -> COCO classes of its boxes of any size, in file order."""
    task = task_named("objects")
    path, photos = task.files(setup.data)
    present: dict[str, set[str]] = {}
    for sample in task.read(path, PhotoFolder(photos), min_area_share=0.0).samples:
        present.setdefault(sample.photo, set()).add(sample.references[0])
    return {name: frozenset(found) for name, found in list(present.items())[: setup.limit]}


def percent(found: Interval, *, signed: bool = False) -> str:
    """A share with its interval, times 100; "-" where it is undefined."""
    return figure(100 * found.value, 100 * found.low, 100 * found.high, signed=signed)


KEPT, DROPPED = 0.90, 0.5  # of true sentences kept, of exchanged objects dropped
COLOURS: Final = "red|orange|yellow|green|blue|purple|pink|brown|black|white|grey"
NUMBERS: Final = "one|two|three|four|five|six"
KINDS: Final = ("other photo", "object", "likely object", "colour", "number")
"""A "likely object" is one that is often in photos with what else is there."""
Span = tuple[int, int, bool]
"""Start and end of words, and whether they are a plural."""


@dataclass(frozen=True)
class Planted:
    """A false statement, the true one that it was made of, and what was exchanged."""

    photo: str
    kind: str
    true: str
    false: str
    was: str = ""
    now: str = ""


def plant(
    sentences: Mapping[str, Sequence[str]], present: Mapping[str, frozenset[str]], *, seed: int = 0
) -> list[Planted]:
    """Make up to one false statement of each of `KINDS` of each true sentence, whatever photos come before it.

    `present` are COCO classes in each photo, by annotation; those that a true sentence names count too.
    """
    photos = sorted(sentences)
    planted: list[Planted] = []
    for photo in sentences:
        generator = random.Random(f"{seed} {photo}")
        here = present[photo] | frozenset().union(*map(named_classes, sentences[photo]))
        absent = sorted(set(SYNONYMS) - here)
        beside = {n: sum(len(c & here) for c in present.values() if n in c) for n in absent}
        likely = sorted(absent, key=lambda name: -beside[name])[:5]
        others = [name for name in photos if name != photo and sentences[name]]
        for sentence in sentences[photo]:
            if others:
                foreign = generator.choice(sentences[generator.choice(others)])
                planted.append(Planted(photo, "other photo", sentence, foreign))
            classes = _of_classes(sentence)
            ways = [("object", classes, absent), ("likely object", classes, likely)]
            for kind, words in (("colour", COLOURS), ("number", NUMBERS)):
                matches = re.finditer(rf"\b(?:{words})\b(?!-)", sentence, re.I)
                ways.append((kind, [(*one.span(), False) for one in matches], words.split("|")))
            for way in ways:
                planted += _swap(photo, sentence, *way, generator)
    return planted


def _swap(
    photo: str, sentence: str, kind: str, spans: Sequence[Span], names: Sequence[str], generator: random.Random
) -> list[Planted]:  # fmt: skip
    """At most one: a place and what comes into it are drawn."""
    if not spans or not names:
        return []
    start, end, several = generator.choice(spans)
    was = sentence[start:end]
    name = generator.choice([name for name in names if name != was.lower()])
    now = plural(name) if several else name
    article = "n" if now[0] in "aeiou" else ""
    before = re.sub(r"\b(a)n?(\s+)$", rf"\1{article}\2", sentence[:start], flags=re.I)
    if before.strip() == "" and was[:1].isupper():
        now = now.capitalize()
    return [Planted(photo, kind, sentence, f"{before}{now}{sentence[end:]}", was, now)]


def _of_classes(sentence: str) -> list[Span]:
    """Where COCO classes are named, the longest where they overlap: "hot dog" is no dog."""
    found: list[Span] = []
    for name in sorted(named_classes(sentence)):
        for word in SYNONYMS[name]:
            for form in dict.fromkeys((word, plural(word))):
                matches = re.finditer(rf"\b{re.escape(form)}\b", sentence, re.I)
                found += [(*match.span(), form != word) for match in matches]
    chosen: list[Span] = []
    for span in sorted(set(found), key=lambda span: (span[0] - span[1], span[0])):
        if all(span[1] <= other[0] or span[0] >= other[1] for other in chosen):
            chosen.append(span)
    return sorted(chosen)


def run_planted(setup: Setup) -> Part:
    """People's captions, and the falsehoods planted in them, each judged alone on the whole photo."""
    samples = read_folder(setup.data, "image")[: setup.limit]
    sentences = {sample.photo: sample.references for sample in samples}
    boxes = annotated(replace(setup, limit=None))
    present = {photo: boxes.get(photo, frozenset()) for photo in sentences}
    every = plant(sentences, present, seed=setup.seed)
    true = [(photo, text) for photo, texts in sentences.items() for text in texts]
    scorer = DenseScorer(setup.model)
    judged: dict[tuple[str, str], tuple[bool, float]] = {}
    for photo in progress(list(sentences), description="judging", unit="photo"):
        opened = open_photo(setup.data / "photos" / photo, setup.model)
        false = [one.false for one in every if one.photo == photo]
        for text in dict.fromkeys([*sentences[photo], *false]):
            judged[photo, text] = _judged(opened, text, scorer)
    share = bootstrap_mean([judged[key][0] for key in true], [photo for photo, _ in true])
    level = float(np.quantile([judged[key][1] for key in true], 1 - KEPT))
    rows: list[list[str]] = []
    values: dict[str, Any] = {}
    for kind in KINDS:
        if not (ones := [one for one in every if one.kind == kind]):
            continue
        kept, of_false = zip(*(judged[one.photo, one.false] for one in ones), strict=True)
        dropped = bootstrap_mean([not one for one in kept], [one.photo for one in ones])
        of_true = np.array([judged[one.photo, one.true][1] for one in ones])
        at = float((np.array(of_false) < level).mean())
        precision = average_precision(of_true, np.array(of_false))
        shares = (percent(dropped), f"{100 * at:.1f}", f"{100 * precision:.1f}")
        rows.append([kind, str(len(ones)), *shares])
        values[kind] = {"count": len(ones), "dropped": finite(dropped), "dropped_at": at}
        values[kind]["average_precision"] = precision
    missed = []
    if share.value < KEPT:
        missed.append(f"{share.value:.1%} of the true sentences are kept, not {KEPT:.0%}")
    objects = values.get("object", {"dropped": {"value": 1.0}})["dropped"]["value"]
    if objects < DROPPED:
        missed.append(f"{objects:.1%} of the exchanged objects are dropped, not {DROPPED:.0%}")
    head = ["planted", "n", "dropped, %", "dropped at 90 % kept, %", "average precision"]
    text = f"{len(true)} captions of {len(sentences)} photos, written by people. Kept: {percent(share)} %.\n\n"
    found = {"photos": len(sentences), "kept": finite(share), "kinds": values}
    title = "The scorer against planted falsehoods"
    return Part(title, text + markdown_table(head, rows), found, tuple(missed))


def _judged(photo: Photo, text: str, scorer: Scorer) -> tuple[bool, float]:
    """Whether a text that stands alone is kept, and its score."""
    width, height = photo.size
    whole = DetailRegion("global", "global", (0.0, 0.0, float(width), float(height)))
    alone = FilterSettings(rules=False, alike=1.0, lone_support=0.0, share=0.0)
    statements = [Statement("global", 0, text)]
    verdicts = filter_statements(photo, [whole], statements, scorer=scorer, settings=alone)
    scores = [verdict.support.score for verdict in verdicts if verdict.support is not None]
    kept = all(verdict.kept or verdict.reason == "duplicate" for verdict in verdicts)
    return kept, min(scores, default=0.0)


def average_precision(of_true: Floats, of_false: Floats) -> float:
    """Mean over the true ones of the precision at each one's score."""
    right = (of_true[None] >= of_true[:, None]).sum(axis=1)
    wrong = (of_false[None] >= of_true[:, None]).sum(axis=1)
    return float(np.mean(right / (right + wrong)))


def run_among(setup: Setup) -> Part:
    """In every other sample one sentence has one thing exchanged for a class that no text about the photo names; then
    the filter runs. Other sentences count as true, though not all are; what is folded into its like counts as kept.
    """
    folder = setup.data / "did"
    photos = referenced(folder, setup.limit)
    scorer = DenseScorer(setup.model)
    shares: dict[bool, list[tuple[bool, str]]] = {True: [], False: []}
    for photo in progress(photos, description="judging", unit="photo"):
        statements, false = planted_among(photo, setup.seed)
        opened = open_photo(folder / "photos" / photo.name, setup.model)
        for verdict in filter_statements(opened, photo.regions, statements, scorer=scorer):
            kept = verdict.kept or verdict.reason == "duplicate"
            if verdict.claim.text in false:
                shares[False].append((not kept, photo.name))
            elif verdict.support is not None:
                shares[True].append((kept, photo.name))
    kept_, dropped = (bootstrap_mean(*zip(*shares[true], strict=True)) for true in (True, False))
    text = f"{len(photos)} photos. Kept of the rest: {percent(kept_)} %; planted dropped: {percent(dropped)} %.\n"
    values = {"photos": len(photos), "kept": finite(kept_), "dropped": finite(dropped)}
    return Part("One false thing among all that was said", text, values)


def planted_among(photo: DidPhoto, seed: int = 0) -> tuple[list[Statement], set[str]]:
    """The statements of a photo with a false sentence in every other one, and the false sentences."""
    generator = random.Random(f"{seed} {photo.name}")
    texts = [*(one.text for one in photo.statements), *photo.references]
    absent = sorted(set(SYNONYMS) - frozenset().union(*map(named_classes, texts)))
    statements, false = [], set()
    for place, statement in enumerate(photo.statements):
        sentences = split_sentences(statement.text)
        fitting = [at for at, s in enumerate(sentences) if clean(s) is None and named_classes(s)]
        if place % 2 == 0 and fitting and absent:
            at = generator.choice(fitting)
            spans = _of_classes(sentences[at])
            for one in _swap(photo.name, sentences[at], "object", spans, absent, generator):
                if split_sentences(one.false) == [one.false]:
                    sentences[at] = one.false
                    false.add(one.false)
        statements.append(replace(statement, text=" ".join(sentences)))
    return statements, false
