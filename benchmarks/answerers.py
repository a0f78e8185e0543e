"""Who answers, by each sample alone: the model under a run's settings, every baseline; the file of what was said."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import BenchmarkDataError, Sample, task_named
from benchmarks.metrics.caption import NGram, count_ngrams, tokenize
from benchmarks.settings import RunSettings, options_of, weighting_of
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.regions import WholeImage

Samples = tuple[Sample, ...]
LoadModel = Callable[[str, str], Patchioner]
"""Makes a model from (name, device)."""


@dataclass(frozen=True)
class Answer:
    """What was said of one sample and how sure its author is (only the order counts), or the reason why nothing was."""

    text: str | None
    score: float = 0.0
    skipped: str | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked about one photo: where it lies, its features (None if nobody needs them), its samples."""

    path: Path
    features: Any
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Answerer:
    """Captions samples.

    `answer` gives one answer per sample of each photo (RegionError, ImageError for what the model cannot see) and
    `needs` "nothing" of the photo, its "features", or these with the "photo" itself; `prepare` gives the samples that
    it answers, with the references to score them on; `other` is the model that answers, if not the measured one.
    """

    answer: Callable[[Sequence[Asked]], list[list[Answer]]]
    needs: str = "features"
    prepare: Callable[[Samples], Samples] = lambda samples: samples
    other: Patchioner | None = None


def by_model(model: Patchioner, settings: RunSettings, *, crop: bool = False, whole: bool = False) -> Answerer:
    """The model captions each region, its crop, or the whole photo in its place."""
    weighting, options = weighting_of(model, settings), options_of(model, settings)

    def answer(asked: Sequence[Asked]) -> list[list[Answer]]:
        items = []
        for one in asked:  # a photo without features is for a model that encodes it itself
            regions = [WholeImage()] if whole else [sample.region for sample in one.samples]
            items.append((str(one.path) if one.features is None else one.features, regions))
        how: dict[str, Any] = {"weighting": weighting, "options": options}
        said = model.caption_many(items, **how, crop=True if crop else None)
        found = [[Answer(caption.text, float(caption.score)) for caption in one] for one in said]
        times = [len(one.samples) if whole else 1 for one in asked]
        return [answers * count for answers, count in zip(found, times, strict=True)]

    return Answerer(answer, "photo" if crop or model.settings.crop else "features")


def clip_cls(model: Patchioner, settings: RunSettings) -> Answerer:
    """Another model (CLIP and a memory): the CLS token of crops or whole photos, as in the published tables."""
    crops = task_named(settings.task).clip_crops
    own = by_model(model, replace(settings, weighting="cls"), crop=crops)
    return replace(own, needs="nothing", other=model)


def nearest(model: Patchioner, settings: RunSettings) -> Answerer:
    """The memory sentence nearest to the region's embedding: what the decoder adds to it is the difference."""
    (bank, _), weighting = _memory(model), weighting_of(model, settings)

    def answer(asked: Sequence[Asked]) -> list[list[Answer]]:
        answers = []
        for one in asked:
            regions = [sample.region for sample in one.samples]
            found = bank.nearest(model.embed_regions(one.features, regions, weighting), 1)
            rows = zip(found.texts or (), found.similarities, strict=True)
            answers.append([Answer(texts[0], float(row[0])) for texts, row in rows])
        return answers

    return Answerer(answer)


def sentences(choose: Callable[[Sample], str]) -> Answerer:
    """A sentence for each sample, chosen without looking at the photo."""
    answer = lambda asked: [[Answer(choose(s)) for s in one.samples] for one in asked]  # noqa: E731
    return Answerer(answer, "nothing")


def oracle(seed: int) -> Answerer:
    """One human reference, drawn by seed and sample id, scored against the others, of samples with two or more."""
    chosen: dict[str, str] = {}

    def prepare(samples: Samples) -> Samples:
        kept = []
        for sample in (one for one in samples if len(one.references) >= 2):
            due = list(sample.references)
            chosen[sample.id] = due.pop(int(generator(seed, sample.id).integers(len(due))))
            kept.append(replace(sample, references=tuple(due)))
        return tuple(kept)

    return replace(sentences(lambda sample: chosen[sample.id]), prepare=prepare)


def baseline(name: str, model: Patchioner, settings: RunSettings, load: LoadModel) -> Answerer:
    """The answerer of one of `BASELINES`; OptionError where it needs something that is not there."""
    seed = settings.seed
    if name in ("whole", "crop"):
        return by_model(model, settings, crop=name == "crop", whole=name == "whole")
    if name == "nearest":
        return nearest(model, settings)
    if name == "oracle":
        return oracle(seed)
    if name == "clip":
        if settings.clip_model is None:
            wanted = "a folder, YAML file or hub id of a CLIP backbone with memory bank and decoder"
            raise OptionError(f"the baseline 'clip' needs a model: give --clip-model {wanted}")
        return clip_cls(load(settings.clip_model, settings.device), settings)
    _, texts = _memory(model)
    if name == "majority":
        typical = most_typical(texts, seed=seed)
        return sentences(lambda sample: typical)
    return sentences(lambda sample: texts[int(generator(seed, sample.id).integers(len(texts)))])


def generator(seed: int, sample_id: str) -> np.random.Generator:
    """A random generator that depends on the seed and the sample, not on the order of samples."""
    return np.random.default_rng([seed, zlib.crc32(sample_id.encode())])


def _memory(model: Patchioner) -> tuple[MemoryBank, Sequence[str]]:
    bank = model.parts.bank
    if bank is None or bank.texts is None:
        told = "this model has no memory bank with texts: leave them out"
        raise OptionError(f"'nearest', 'majority', 'random' speak in memory sentences, and {told}")
    return bank, bank.texts


def most_typical(texts: Sequence[str], *, most: int = 20_000, seed: int = 0) -> str:
    """The sentence that agrees most with all others; of equals, the first; of more than `most`, a sample is drawn.

    Vedantam, Zitnick, Parikh, "CIDEr" (2015), equation 2 with the other sentences as references: the mean over n = 1..4
    of the cosine of tf-idf vectors. Without CIDEr-D's clipping it is linear in the references: one pass for all others.
    """
    if not texts:
        raise OptionError("there is no sentence to choose from: the memory bank holds no texts")
    count = min(most, len(texts))
    drawn = np.random.default_rng(seed).choice(len(texts), size=count, replace=False)
    kept = sorted(int(index) for index in drawn)
    counted = [count_ngrams(tokenize(texts[index])) for index in kept]
    totals = sum(_agreement([counts[order] for counts in counted]) for order in range(4))
    return texts[kept[int(np.argmax(totals))]]


def _agreement(counted: Sequence[Counter[NGram]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(n,) summed cosine of each tf-idf vector with the others."""
    documents = Counter(ngram for counts in counted for ngram in counts)
    idf = {ngram: math.log(len(counted) / count) for ngram, count in documents.items()}
    vectors: list[dict[NGram, float]] = []
    total: dict[NGram, float] = {}
    for counts in counted:
        weights = {ngram: count * idf[ngram] for ngram, count in counts.items()}
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({ngram: w / norm for ngram, w in weights.items()} if norm else {})
        for ngram, weight in vectors[-1].items():
            total[ngram] = total.get(ngram, 0.0) + weight
    own = [sum(w * (total[ngram] - w) for ngram, w in vector.items()) for vector in vectors]
    return np.array(own, dtype=np.float64)


FILE = "predictions.jsonl"
SCORE_DIGITS = 5  # the last bits of a float depend on how many captions were decoded together


@dataclass(frozen=True)
class Prediction:
    """One line of predictions.jsonl: a `Sample` with its region as JSON, and what was said of it (see `Answer`)."""

    id: str
    photo: str
    row: int
    region: dict[str, Any]
    caption: str | None
    score: float | None
    references: tuple[str, ...]
    area_share: float
    skipped: str | None = None

    @classmethod
    def of(cls, sample: Sample, answer: Answer) -> Prediction:
        """The line of a sample and its answer."""
        score = None if answer.text is None else round(answer.score, SCORE_DIGITS)
        where = sample.id, sample.photo, sample.row, sample.region.to_json()
        share = round(sample.area_share, 6)
        return cls(*where, answer.text, score, sample.references, share, answer.skipped)

    def line(self) -> bytes:
        """The line, with its end."""
        values = dict(vars(self))
        if self.skipped is None:
            del values["skipped"]
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class PredictionLog:
    """The file of one run, opened where an earlier one left off (a cut last line goes); `ids` are of its samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = enumerate(whole.splitlines(), start=1)
        self.ids = [str(_parsed(line, path, number).get("id")) for number, line in lines]
        if len(content) != len(whole):
            os.truncate(path, len(whole))

    def check_order(self, samples: Sequence[Sample]) -> None:
        """Raise BenchmarkDataError unless the lines are of some of `samples`, in their order.

        From the first that is not there, a photo that could not be read then, all are asked again.
        """
        wanted = [sample.id for sample in samples]
        rest = iter(wanted)
        if not all(held in rest for held in self.ids):
            told = f"{self.path} holds other samples than this run asks about"
            raise BenchmarkDataError(f"{told}: choose another --out")
        self.cut_to(len(os.path.commonprefix([self.ids, wanted])))

    def cut_to(self, count: int) -> None:
        """Forget all lines after the first `count`."""
        if count < len(self.ids):
            lines = self.path.read_bytes().splitlines(keepends=True)
            os.truncate(self.path, sum(map(len, lines[:count])))
            del self.ids[count:]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write the lines of a group of photos at once, and wait until they are on the disk."""
        with self.path.open("ab") as file:
            file.write(b"".join(prediction.line() for prediction in predictions))
            file.flush()
            os.fsync(file.fileno())
        self.ids += [prediction.id for prediction in predictions]


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions.jsonl, samples without a caption included; BenchmarkDataError if missing or damaged."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BenchmarkDataError(f"{path} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        values = _parsed(line, path, number)
        try:
            found.append(Prediction(**(values | {"references": tuple(values["references"])})))
        except (KeyError, TypeError) as error:
            told = f"line {number} of {path} is no prediction"
            raise BenchmarkDataError(f"{told}: {error}") from error
    return found


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        told = f"line {number} of {path} is damaged"
        raise BenchmarkDataError(f"{told}: delete it and all after it, then --resume") from error
    if not isinstance(values, dict):
        raise BenchmarkDataError(f"line {number} of {path} is no prediction: {values!r:.60}")
    return values
