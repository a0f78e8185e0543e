"""Who answers: the model itself, and every baseline.

Knows: the public methods of a model, memory sentences, seeds. Does NOT know: files or scores.
An answer depends on its sample alone, never on what is asked beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.captioner import Captioner, LoadModel, parts_of
from benchmarks.runner.predictions import Answer
from benchmarks.runner.settings import RunSettings, options_of, weighting_of
from benchmarks.runner.typical import most_typical
from benchmarks.tasks import Sample, task_named
from patchioner.base.errors import OptionError
from patchioner.base.registry import Registry


@dataclass(frozen=True)
class Asked:
    """What is asked about one photo: where it lies, its features (None if nobody needs them), its samples."""

    path: Path
    features: Any
    samples: tuple[Sample, ...]


class Answerer(Protocol):
    """Captions samples.

    Attributes:
        needs: "nothing" of the photo, its "features", or features that hold the "photo" itself.
    """

    needs: str

    def prepare(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """The samples that it answers, each with the references that it is scored on."""

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """One answer per sample of each photo.

        Raises:
            RegionError, ImageError: a region or photo of which the model sees nothing.
        """


class _AllSamples:
    """Answers every sample as it is."""

    needs = "features"

    def prepare(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return samples


class ByModel(_AllSamples):
    """The model captions each region (`crop`: each region's crop)."""

    def __init__(self, model: Captioner, settings: RunSettings, *, crop: bool = False) -> None:
        self._model = model
        self._weighting = weighting_of(model, settings)
        self._options = options_of(model, settings)
        own = parts_of(model)
        self._extra: dict[str, Any] = {"crop": True} if crop else {}
        self.needs = "photo" if crop or (own is not None and own.settings.crop) else "features"

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        return self.caption([(one.features, self.regions(one.samples)) for one in asked])

    def regions(self, samples: tuple[Sample, ...]) -> list[Any]:
        """The regions to caption."""
        return [sample.region for sample in samples]

    def caption(self, items: list[tuple[Any, list[Any]]]) -> list[list[Answer]]:
        """Caption (features or path, regions) pairs."""
        said = self._model.caption_many(
            items, weighting=self._weighting, options=self._options, **self._extra
        )
        return [
            [Answer(caption.text, float(getattr(caption, "score", 0.0))) for caption in captions]
            for captions in said
        ]


class Whole(ByModel):
    """The model's caption of the whole photo, for each of its regions."""

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        from patchioner.regions import WholeImage

        said = self.caption([(one.features, [WholeImage()]) for one in asked])
        return [found * len(one.samples) for found, one in zip(said, asked, strict=True)]


class Nearest(_AllSamples):
    """The memory sentence nearest to the region's embedding: what the decoder adds to it is the difference."""

    def __init__(self, model: Captioner, settings: RunSettings) -> None:
        self._model, self._weighting = model, weighting_of(model, settings)
        self._bank, _ = _memory(model)

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        answers = []
        for one in asked:
            regions = [sample.region for sample in one.samples]
            found = self._bank.nearest(
                self._model.embed_regions(one.features, regions, self._weighting), 1
            )
            answers.append(
                [
                    Answer(texts[0], float(row[0]))
                    for texts, row in zip(found.texts, found.similarities, strict=True)
                ]
            )
        return answers


class Sentences(_AllSamples):
    """A sentence of its own for each sample, drawn without looking at the photo."""

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
            if len(sample.references) < 2:
                continue
            index = int(generator(self._seed, sample.id).integers(len(sample.references)))
            self._chosen[sample.id] = sample.references[index]
            others = sample.references[:index] + sample.references[index + 1 :]
            kept.append(replace(sample, references=others))
        return tuple(kept)


class ClipCls(ByModel):
    """Another model (CLIP and a memory) that reads its CLS token: of the whole photo, or of crops.

    As in the published tables: crops for dense captioning, the whole photo for traces, sets and images.
    """

    def __init__(self, model: Captioner, settings: RunSettings) -> None:
        crops = task_named(settings.task).clip_crops
        super().__init__(model, replace(settings, weighting="cls"), crop=crops)
        self.model = model
        self.needs = "nothing"  # of the measured model: it has a backbone of its own

    def answer(self, asked: Sequence[Asked]) -> list[list[Answer]]:
        """See `Answerer`."""
        return self.caption([(str(one.path), self.regions(one.samples)) for one in asked])


@dataclass(frozen=True)
class Setting:
    """What a baseline is made from: the measured model, the run's settings, and a way to load another model."""

    model: Captioner
    settings: RunSettings
    load_model: LoadModel


BASELINES: Registry[Callable[[Setting], Answerer]] = Registry("baseline")


@BASELINES.register("whole")
def _whole(of: Setting) -> Answerer:
    return Whole(of.model, of.settings)


@BASELINES.register("crop")
def _crop(of: Setting) -> Answerer:
    return ByModel(of.model, of.settings, crop=True)


@BASELINES.register("nearest")
def _nearest(of: Setting) -> Answerer:
    return Nearest(of.model, of.settings)


@BASELINES.register("majority")
def _majority(of: Setting) -> Answerer:
    _, texts = _memory(of.model)
    typical = most_typical(texts, seed=of.settings.seed)
    return Sentences(lambda sample: typical)


@BASELINES.register("random")
def _random(of: Setting) -> Answerer:
    _, texts = _memory(of.model)
    seed = of.settings.seed
    return Sentences(lambda sample: texts[int(generator(seed, sample.id).integers(len(texts)))])


@BASELINES.register("oracle")
def _oracle(of: Setting) -> Answerer:
    return Oracle(of.settings.seed)


@BASELINES.register("clip")
def _clip(of: Setting) -> Answerer:
    name = of.settings.clip_model
    if name is None:
        raise OptionError(
            "the baseline 'clip' needs the model to run: give --clip-model a folder, YAML file or hub id of a CLIP"
            " backbone with a memory bank and a decoder"
        )
    return ClipCls(of.load_model(name, of.settings.device), of.settings)


def generator(seed: int, sample_id: str) -> np.random.Generator:
    """A random generator that depends on the seed and the sample, not on the order of samples.

    Example:
        >>> int(generator(0, "359/0").integers(100)) == int(generator(0, "359/0").integers(100))
        True
    """
    return np.random.default_rng([seed, zlib.crc32(sample_id.encode())])


def _memory(model: Captioner) -> tuple[Any, Sequence[str]]:
    """The memory bank and its texts; OptionError where there are none."""
    bank = getattr(parts_of(model), "bank", None)
    if bank is None or bank.texts is None:
        raise OptionError(
            "the baselines 'nearest', 'majority' and 'random' speak in memory sentences, and this model has no memory"
            " bank with texts: leave them out"
        )
    return bank, bank.texts
