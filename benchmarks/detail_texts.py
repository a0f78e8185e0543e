"""Scores of long texts: objects named, DID-Bench with its controls; what the parts of `benchmarks.detail` share."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    Difference,
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_statistic,
)
from benchmarks.command import CIDER_WARNING
from benchmarks.data import (
    BenchmarkDataError,
    PhotoFolder,
    load_json,
    task_named,
)
from benchmarks.metrics import Meteor, bleu, cider, rouge_l
from benchmarks.metrics.class_names import SYNONYMS, named_classes
from benchmarks.run import load_pretrained
from benchmarks.scoring import PERSON, finite
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.detail import (
    DetailRegion,
    Statement,
)
from patchioner.detail.text import split_sentences
from patchioner.detail.values import RegionKind

Floats = NDArray[np.float64]
WORDS = 240  # near the mean of the published references (248 and 239), declared beforehand
OBJECT_METRICS = ("precision", "recall", "clean")
EXTRACTIVE, AGAIN, ALONE = "extractive", "global again", "global alone"
_STOP_TEXT: Final = """
a an the and or of in on at to with is are be as that this it its there which by for from has have can also some what
their his her they he she into while being been was were not no but than then them these those such other another more
very may might image picture scene photo photograph
"""
_STOP: Final = frozenset(_STOP_TEXT.split())
_REGION_KINDS: Mapping[str, RegionKind] = {
    "quadrant": "spatial",
    "semantic": "semantic",
    "other": "semantic",  # a semantic region whose box was altered in the published run
}


@dataclass(frozen=True)
class Setup:
    """Everything that the parts of one run are told: folders, model, limit on photos, words on DID-Bench, seed."""

    data: Path
    out: Path
    name: str = "patchioner-mini"
    limit: int | None = None
    words: int = WORDS
    seed: int = 0
    meteor: Meteor | None = None

    @cached_property
    def model(self) -> Patchioner:
        """The model, loaded when it is first asked for."""
        return load_pretrained(self.name, "cpu")


@dataclass(frozen=True)
class Part:
    """What a part found: its tables, the same figures as JSON values, and bars that were not reached."""

    title: str
    text: str
    values: dict[str, Any]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """Counts of n texts, each of another photo: classes named, those of them there, classes there, words; all (n,).

    After CHAIR (Rohrbach et al., EMNLP 2018): CHAIR_i is 100 - precision, CHAIR_s is 100 - clean. COCO's annotators
    left out some things, so that precision is a little too low; objects outside of the classes are not looked at.
    """

    named: Floats
    right: Floats
    there: Floats
    words: Floats

    def interval(self, metric: str, seed: int = 0) -> Interval:
        """Share of the named classes that are there, of those there that are named, of texts that name no other."""
        photos = range(len(self.named))
        if metric == "clean":
            return bootstrap_mean(self.named == self.right, photos, seed=seed)
        below = self.named if metric == "precision" else self.there
        return bootstrap_ratio(self.right, below, photos, seed=seed)

    def gain_over(self, other: ObjectScores, metric: str, seed: int = 0) -> Difference:
        """How much a metric exceeds that of other texts of the same photos, resampled for both together."""

        def share(one: ObjectScores, often: NDArray[np.int64]) -> float:
            if metric == "clean":
                return float(often @ (one.named == one.right) / often.sum())
            below = float(often @ (one.named if metric == "precision" else one.there))
            return float(often @ one.right) / below if below else 0.0

        photos = range(len(self.named))
        return bootstrap_statistic(lambda o: share(self, o) - share(other, o), photos, seed=seed)


def object_scores(
    texts: Sequence[str], present: Sequence[Collection[str]], *, people: bool = True
) -> ObjectScores:
    """Count the objects that n texts name, each of another photo with COCO classes that are there.

    Without `people` the class "person" is left out on both sides: it is in most photos, and named without looking.
    """
    if len(texts) != len(present) or not texts:
        raise OptionError(f"{len(texts)} texts for {len(present)} photos: give one text per photo")
    rows = []
    for text, classes in zip(texts, present, strict=True):
        skipped = frozenset() if people else {PERSON}
        there, named = frozenset(classes) - skipped, named_classes(text) - skipped
        right = named & there
        # "glass" is a cup and a wine glass: where one of them is there, the other was not claimed.
        shared = [
            n for n in named - right if any(set(SYNONYMS[n]) & set(SYNONYMS[r]) for r in right)
        ]
        rows.append((len(named) - len(shared), len(right), len(there), len(text.split())))
    return ObjectScores(*np.array(rows, dtype=np.float64).T)


@dataclass(frozen=True, eq=False)
class DidPhoto:
    """A photo of DID-Bench, what a large model said of it, and its references (none for some).

    `statements` are one of the whole photo ("global"), three of each other region.
    """

    name: str
    size: tuple[int, int]
    regions: tuple[DetailRegion, ...]
    statements: tuple[Statement, ...]
    references: tuple[str, ...]


def read_did(folder: Path) -> list[DidPhoto]:
    """Read describe_run.json and references_dev.json; BenchmarkDataError if missing or in another form."""
    references, run = (
        load_json(folder / n)[0] for n in ("references_dev.json", "describe_run.json")
    )
    try:
        return [_did_photo(row, references) for row in run]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BenchmarkDataError(
            f"{folder / 'describe_run.json'} is not in its form ({type(error).__name__}: {error}): fetch it again"
        ) from error


def _did_photo(row: Mapping[str, Any], references: Mapping[str, Sequence[str]]) -> DidPhoto:
    size = (int(row["width"]), int(row["height"]))
    regions = [DetailRegion("global", "global", (0.0, 0.0, float(size[0]), float(size[1])))]
    statements = [Statement("global", 0, str(row["global_description"]))]
    counts: dict[str, int] = {}
    for given in row["regions"]:
        kind = _REGION_KINDS[given["kind"]]
        counts[kind] = counts.get(kind, 0) + 1
        left, top, right, bottom = map(float, given["xyxy"])
        region = DetailRegion(f"{kind}-{counts[kind]}", kind, (left, top, right, bottom))
        regions.append(region)
        texts = enumerate(given["descriptions"])
        statements += [Statement(region.id, sample, str(text)) for sample, text in texts]
    name = str(row["file_name"])
    return DidPhoto(name, size, tuple(regions), tuple(statements), tuple(references.get(name, ())))


@dataclass(frozen=True, eq=False)
class Scored:
    """n texts with their DID-Bench scores, x 100: of the set ("bleu1" .. "cider", "meteor"), and of single texts."""

    texts: Sequence[str]
    values: Mapping[str, float]
    samples: Mapping[str, Floats]
    objects: ObjectScores = field(repr=False)

    def gain_over(self, other: Scored, metric: str, seed: int = 0) -> Difference:
        """How much the single texts' scores exceed another set's over the same photos; paired."""
        before, after = other.samples[metric], self.samples[metric]
        return bootstrap_difference(before, after, range(len(self.texts)), seed=seed)


def score_texts(
    texts: Sequence[str], references: Sequence[Sequence[str]], meteor: Meteor | None = None
) -> Scored:
    """Score long captions as DID-Bench does, on raw strings; objects are counted against those of the references."""
    pooled, single = bleu(texts, references, tokenizer=str.split)
    values = {f"bleu{order + 1}": float(pooled[order]) for order in range(4)}
    samples = {f"bleu{order + 1}": single[:, order] for order in range(4)}
    for name, metric in (("rouge_l", rouge_l), ("cider", cider)):
        values[name], samples[name] = metric(texts, references, tokenizer=str.split)
    if meteor is not None:
        values["meteor"], samples["meteor"] = meteor.score(texts, references)
    named = [frozenset().union(*map(named_classes, group)) for group in references]
    return Scored(texts, values, samples, object_scores(texts, named))


def filled(sentences: Iterable[str], max_words: int, *, new_below: float | None = None) -> str:
    """Whole sentences in order, as far as they fit into `max_words`.

    `new_below`: pass over a sentence whose words (Jaccard, without stop words) are so alike to one taken; None: never.
    """
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
            gains.append([name, *(figure(f.value, f.low, f.high, signed=True) for f in found)])
    head = ["text", "words", *metrics, "objects: precision", "recall"]
    differences = markdown_table([f'"{ours}" minus', *paired], gains)
    return f"{markdown_table(head, rows)}\n{differences}\n{CIDER_WARNING}\n"


def did_json(scored: Mapping[str, Scored], seed: int) -> dict[str, Any]:
    """All figures of texts."""
    return {
        name: {
            "words": float(one.objects.words.mean()),
            "scores": {metric: round(value, 4) for metric, value in one.values.items()},
            "objects": {m: finite(one.objects.interval(m, seed)) for m in OBJECT_METRICS},
        }
        for name, one in scored.items()
    }


def annotated(setup: Setup) -> dict[str, frozenset[str]]:
    """Photo -> COCO classes of its boxes of any size, in file order."""
    task = task_named("objects")
    path, photos = task.files(setup.data)
    present: dict[str, set[str]] = {}
    for sample in task.read(path, PhotoFolder(photos), min_area_share=0.0).samples:
        present.setdefault(sample.photo, set()).add(sample.references[0])
    return {name: frozenset(found) for name, found in list(present.items())[: setup.limit]}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]]) + "\n"


def percent(found: Interval, *, signed: bool = False) -> str:
    """A share with its interval, times 100; "-" where it is undefined."""
    return figure(100 * found.value, 100 * found.low, 100 * found.high, signed=signed, digits=1)


def figure(value: float, low: float, high: float, *, signed: bool = False, digits: int = 2) -> str:
    """A value with its bounds; never -0.0."""
    form = f"{'+' if signed else ''}z.{digits}f"
    return "-" if np.isnan(value) else f"{value:{form}} ({low:{form}} to {high:{form}})"
