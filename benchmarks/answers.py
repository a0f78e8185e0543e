"""Asks a model about every photo of the development sets, once per photo.

Knows: the samples, the public methods of the model, and which regions each sample asks about.
Does NOT know: scores. One backbone pass a photo, whatever is asked about it; all captions of a
group of photos go through the model as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.captioner import Captioner, unit_rows
from benchmarks.readers import (
    ClassBoxSample,
    DevSets,
    ImageSample,
    RegionSetSample,
    Sample,
    TraceSample,
)
from patchioner.base.progress import progress
from patchioner.regions import Box, RegionSet, Trace, WholeImage

PERSON = "person"
MIN_AREA_SHARE = 0.02
PHOTOS_A_BATCH = 16

T = TypeVar("T")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QualitySets:
    """The samples that the quality table asks about; `names` are the classes to choose from."""

    images: tuple[ImageSample, ...]
    region_sets: tuple[RegionSetSample, ...]
    traces: tuple[TraceSample, ...]
    boxes: tuple[ClassBoxSample, ...]
    names: tuple[str, ...]

    @classmethod
    def read(cls, sets: DevSets, limit: int | None = None) -> QualitySets:
        """Read all sets, cut to the first `limit` photos of image captioning."""
        images = sets.images()[:limit]
        kept = {sample.photo for sample in images}
        boxes = sets.class_boxes(min_area_share=MIN_AREA_SHARE, without=(PERSON,))
        return cls(
            images=images,
            region_sets=tuple(s for s in sets.region_sets() if limit is None or s.photo in kept),
            traces=tuple(s for s in sets.traces() if limit is None or s.photo in kept),
            boxes=tuple(s for s in boxes if limit is None or s.photo in kept),
            names=sets.class_names(),
        )

    def photos(self) -> tuple[str, ...]:
        """Every photo asked about, once, in order of first mention."""
        groups: tuple[Sequence[Sample], ...] = (
            self.images, self.region_sets, self.traces, self.boxes,
        )  # fmt: skip
        return tuple(dict.fromkeys(sample.photo for group in groups for sample in group))


@dataclass(frozen=True)
class Answers:
    """What a model said.

    Attributes:
        whole_captions: photo -> caption of the whole photo.
        set_captions: one per region set, in the order of the samples.
        trace_captions: one per trace.
        whole_embeddings: photo -> unit embedding (dim,) of the whole photo.
        box_embeddings: (boxes, dim) unit rows, one per class box.
        name_embeddings: (names, dim) unit rows, one per class name.
        caption_embeddings: (captions, dim) unit rows, one per reference of the image samples.
    """

    whole_captions: dict[str, str]
    set_captions: tuple[str, ...]
    trace_captions: tuple[str, ...]
    whole_embeddings: dict[str, Floats]
    box_embeddings: Floats
    name_embeddings: Floats
    caption_embeddings: Floats


def ask(
    model: Captioner,
    sets: QualitySets,
    photos: DevSets,
    *,
    weighting: Any = None,
    options: Any = None,
    prompts: Sequence[str] = ("a photo of a {name}",),
) -> Answers:
    """Let `model` caption and embed everything that `sets` asks about.

    Args:
        model: see `Captioner`.
        sets: the samples.
        photos: tells where a photo lies.
        weighting: of regions and whole photos; None leaves the model's own.
        options: decoding options; None leaves the model's own.
        prompts: templates with `{name}`; the unit embeddings of several are averaged.

    Example:
        >>> ask(model, QualitySets.read(sets), sets)  # doctest: +SKIP
    """
    questions = {photo: _Questions(photo, sets) for photo in sets.photos()}
    bar = progress(questions, description="photos", total=len(questions), unit="photo")
    for batch in _batches(bar, PHOTOS_A_BATCH):
        asked = []
        for photo in batch:
            features = model.encode(str(photos.photo_path(photo)))
            questions[photo].embed(model, features, weighting)
            asked.append((features, questions[photo].regions()))
        captions = model.caption_many(asked, weighting=weighting, options=options)
        for photo, said in zip(batch, captions, strict=True):
            questions[photo].keep_captions([caption.text for caption in said])
    return _gather(model, sets, questions, prompts)


class _Questions:
    """The regions of one photo that samples ask about, and the answers as they come in."""

    def __init__(self, photo: str, sets: QualitySets) -> None:
        self.photo = photo
        self.sets = [i for i, sample in enumerate(sets.region_sets) if sample.photo == photo]
        self.traces = [i for i, sample in enumerate(sets.traces) if sample.photo == photo]
        self.boxes = [i for i, sample in enumerate(sets.boxes) if sample.photo == photo]
        self._samples = sets
        self.captions: list[str] = []
        self.embeddings: Floats = np.zeros((0, 0), dtype=np.float32)

    def regions(self) -> list[Any]:
        """The whole photo, then its region sets, then its traces."""
        box_sets = [self._samples.region_sets[i].boxes for i in self.sets]
        traces = [self._samples.traces[i].points for i in self.traces]
        return [
            WholeImage(),
            *(RegionSet([Box(*box) for box in boxes]) for boxes in box_sets),
            *(Trace(points, normalized=True) for points in traces),
        ]

    def embed(self, model: Captioner, features: Any, weighting: Any) -> None:
        """Keep the unit embeddings of the whole photo and of its class boxes."""
        boxes = [Box(*self._samples.boxes[i].box) for i in self.boxes]
        embedded = model.embed_regions(features, [WholeImage(), *boxes], weighting=weighting)
        self.embeddings = unit_rows(embedded, f"{self.photo}: region")

    def keep_captions(self, texts: list[str]) -> None:
        """Keep the captions of `regions()`, in that order."""
        self.captions = texts


def _gather(
    model: Captioner, sets: QualitySets, questions: dict[str, _Questions], prompts: Sequence[str]
) -> Answers:
    """Put the answers of the photos into the order of the samples."""
    set_captions: dict[int, str] = {}
    trace_captions: dict[int, str] = {}
    boxes: dict[int, Floats] = {}
    for question in questions.values():
        said = iter(question.captions[1:])
        set_captions.update(zip(question.sets, islice(said, len(question.sets)), strict=True))
        trace_captions.update(zip(question.traces, said, strict=True))
        boxes.update(zip(question.boxes, question.embeddings[1:], strict=True))
    references = [text for sample in sets.images for text in sample.references]
    return Answers(
        whole_captions={photo: q.captions[0] for photo, q in questions.items()},
        set_captions=tuple(set_captions[i] for i in range(len(sets.region_sets))),
        trace_captions=tuple(trace_captions[i] for i in range(len(sets.traces))),
        whole_embeddings={photo: q.embeddings[0] for photo, q in questions.items()},
        box_embeddings=np.array([boxes[i] for i in range(len(sets.boxes))], dtype=np.float32),
        name_embeddings=embed_names(model, sets.names, prompts),
        caption_embeddings=unit_rows(model.embed_text(references), "caption"),
    )


def embed_names(model: Captioner, names: Sequence[str], prompts: Sequence[str]) -> Floats:
    """Unit embeddings (names, dim) of class names, averaged over the prompt templates.

    Example:
        >>> embed_names(model, ["bus"], ["a photo of a {name}", "{name}"])  # doctest: +SKIP
    """
    mean = sum(
        unit_rows(model.embed_text([prompt.format(name=name) for name in names]), "class name")
        for prompt in prompts
    )
    rows = np.asarray(mean, dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
