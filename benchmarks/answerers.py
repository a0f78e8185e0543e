"""Who answers: the model itself, and every baseline.

An answer depends on its sample alone, never on what is asked beside it.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Sample, task_named
from benchmarks.metrics.words import NGram, count_ngrams, tokenize
from benchmarks.settings import RunSettings, options_of, weighting_of
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.regions import WholeImage

LoadModel = Callable[[str, str], Patchioner]
"""Makes a model from (name, device)."""


@dataclass(frozen=True)
class Answer:
    """What was said of one sample, or why nothing was.

    Attributes:
        text: the caption; None where there is none.
        score: how sure its author is; only the order counts (mean log-probability, cosine, or 0).
        skipped: the reason where there is no caption.
    """

    text: str | None
    score: float = 0.0
    skipped: str | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked about one photo: where it lies, its features (None if nobody needs them), its samples."""

    path: Path
    features: Any
    samples: tuple[Sample, ...]


class Answerer:
    """Captions samples.

    Attributes:
        needs: "nothing" of the photo, its "features", or features that hold the "photo" itself.
    """

    needs = "features"

    def prepare(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """The samples that it answers, each with the references that it is scored on."""
        return samples

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """One answer per sample of each photo; RegionError, ImageError for what the model cannot see."""
        raise NotImplementedError


class ByModel(Answerer):
    """The model captions each region (`crop`: each region's crop)."""

    def __init__(self, model: Patchioner, settings: RunSettings, *, crop: bool = False) -> None:
        self.model = model
        self._weighting = weighting_of(model, settings)
        self._options = options_of(model, settings)
        self._crop = True if crop else None
        self.needs = "photo" if crop or model.settings.crop else "features"

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        return self._caption([(one.features, [s.region for s in one.samples]) for one in asked])

    def _caption(self, items: list[tuple[Any, list[Any]]]) -> list[list[Answer]]:
        said = self.model.caption_many(
            items, weighting=self._weighting, options=self._options, crop=self._crop
        )
        return [[Answer(one.text, float(one.score)) for one in captions] for captions in said]


class Whole(ByModel):
    """The model's caption of the whole photo, for each of its regions."""

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        said = self._caption([(one.features, [WholeImage()]) for one in asked])
        return [found * len(one.samples) for found, one in zip(said, asked, strict=True)]


class ClipCls(ByModel):
    """Another model (CLIP and a memory) that reads its CLS token: of the whole photo, or of crops.

    As in the published tables: crops for dense captioning, the whole photo for traces, sets and images.
    """

    def __init__(self, model: Patchioner, settings: RunSettings) -> None:
        crops = task_named(settings.task).clip_crops
        super().__init__(model, replace(settings, weighting="cls"), crop=crops)
        self.needs = "nothing"  # of the measured model: it has a backbone of its own

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        return self._caption([(str(one.path), [s.region for s in one.samples]) for one in asked])


class Nearest(Answerer):
    """The memory sentence nearest to the region's embedding: what the decoder adds to it is the difference."""

    def __init__(self, model: Patchioner, settings: RunSettings) -> None:
        self._model, self._weighting = model, weighting_of(model, settings)
        self._bank, _ = _memory(model)

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        answers = []
        for one in asked:
            regions = [sample.region for sample in one.samples]
            embedded = self._model.embed_regions(one.features, regions, self._weighting)
            found = self._bank.nearest(embedded, 1)
            rows = zip(found.texts or (), found.similarities, strict=True)
            answers.append([Answer(texts[0], float(row[0])) for texts, row in rows])
        return answers


class Sentences(Answerer):
    """A sentence for each sample, chosen without looking at the photo."""

    needs = "nothing"

    def __init__(self, choose: Callable[[Sample], str]) -> None:
        self._choose = choose

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        return [[Answer(self._choose(sample)) for sample in one.samples] for one in asked]


class Oracle(Sentences):
    """One human reference scored against the others, for samples that have at least two.

    Which one is left out depends on seed and sample id. Its scores rest on one reference less than the model's.
    """

    def __init__(self, seed: int) -> None:
        self._chosen: dict[str, str] = {}
        self._seed = seed
        super().__init__(lambda sample: self._chosen[sample.id])

    def prepare(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """The samples with two references or more, each without the chosen one."""
        kept = []
        for sample in samples:
            due = sample.references
            if len(due) >= 2:
                index = int(generator(self._seed, sample.id).integers(len(due)))
                self._chosen[sample.id] = due[index]
                kept.append(replace(sample, references=due[:index] + due[index + 1 :]))
        return tuple(kept)


def baseline(name: str, model: Patchioner, settings: RunSettings, load: LoadModel) -> Answerer:
    """The answerer of one of `BASELINES`; OptionError where it needs something that is not there."""
    seed = settings.seed
    if name == "whole":
        return Whole(model, settings)
    if name == "crop":
        return ByModel(model, settings, crop=True)
    if name == "nearest":
        return Nearest(model, settings)
    if name == "oracle":
        return Oracle(seed)
    if name == "clip":
        if settings.clip_model is None:
            raise OptionError(
                "the baseline 'clip' needs the model to run: give --clip-model a folder, YAML file or hub id of a CLIP"
                " backbone with a memory bank and a decoder"
            )
        return ClipCls(load(settings.clip_model, settings.device), settings)
    _, texts = _memory(model)
    if name == "majority":
        typical = most_typical(texts, seed=seed)
        return Sentences(lambda sample: typical)
    return Sentences(lambda sample: texts[int(generator(seed, sample.id).integers(len(texts)))])


BASELINES = ("whole", "crop", "nearest", "majority", "random", "oracle", "clip")


def generator(seed: int, sample_id: str) -> np.random.Generator:
    """A random generator that depends on the seed and the sample, not on the order of samples."""
    return np.random.default_rng([seed, zlib.crc32(sample_id.encode())])


def _memory(model: Patchioner) -> tuple[MemoryBank, Sequence[str]]:
    bank = model.parts.bank
    if bank is None or bank.texts is None:
        raise OptionError(
            "the baselines 'nearest', 'majority' and 'random' speak in memory sentences, and this model has no memory"
            " bank with texts: leave them out"
        )
    return bank, bank.texts


def most_typical(texts: Sequence[str], *, most: int = 20_000, seed: int = 0) -> str:
    """The sentence that agrees most with all others; of equals, the first.

    Vedantam, Zitnick, Parikh, "CIDEr" (2015), equation 2 with the other sentences as references: the mean over n = 1..4
    of the cosine of tf-idf vectors. Without CIDEr-D's clipping it is linear in the references: one pass for all others.

    Args:
        texts: the sentences.
        most: of more than this many, a sample is drawn with `seed`.
        seed: of that draw.

    Raises:
        OptionError: no sentence.
    """
    if not texts:
        raise OptionError("there is no sentence to choose from: the memory bank holds no texts")
    kept: Sequence[int] = range(len(texts))
    if len(texts) > most:
        drawn = np.random.default_rng(seed).choice(len(texts), size=most, replace=False)
        kept = sorted(int(index) for index in drawn)
    counted = [count_ngrams(tokenize(texts[index]), 4) for index in kept]
    totals = np.zeros(len(counted))
    for order in range(4):
        totals += _agreement([counts[order] for counts in counted])
    return texts[kept[int(totals.argmax())]]


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
