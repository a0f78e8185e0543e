"""Turns what a model said into the measures of the quality table.

Knows: samples, answers, metrics, intervals, and what each measure must and should reach.
Does NOT know: models, files, or how a table is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.answers import Answers, QualitySets
from benchmarks.bootstrap import Interval, bootstrap_mean, bootstrap_ratio
from benchmarks.metrics import cider
from benchmarks.readers import RegionSetSample, TraceSample

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], tuple[float, NDArray[np.float64]]]


@dataclass(frozen=True)
class Target:
    """What a measure must reach and what it aims at; `strict`: equal to `must` is not enough."""

    must: float
    aim: float
    strict: bool = False

    def passed(self, value: float) -> bool:
        """Tell whether `value` reaches the must (a NaN never does)."""
        return value > self.must if self.strict else value >= self.must


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    Attributes:
        key: stable name, for files.
        label: what a person reads.
        interval: measured value and its bounds over photos.
        samples, photos: how many it was measured on.
        target: None for a figure that is there for comparison.
    """

    key: str
    label: str
    interval: Interval
    samples: int
    photos: int
    target: Target | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the must is reached; None without a target."""
        return None if self.target is None else self.target.passed(self.interval.value)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: resamples and their seed."""

    rounds: int = 2000
    seed: int = 0

    def mean(self, values: NDArray[np.float64], photos: Sequence[str]) -> Interval:
        """Interval of a mean over photos."""
        return bootstrap_mean(values, photos, rounds=self.rounds, seed=self.seed)

    def ratio(
        self, above: NDArray[np.float64], below: NDArray[np.float64], photos: Sequence[str]
    ) -> Interval:
        """Interval of a ratio of two scores of the same samples."""
        return bootstrap_ratio(above, below, photos, rounds=self.rounds, seed=self.seed)


def measure(
    sets: QualitySets,
    answers: Answers,
    *,
    bootstrap: Bootstrap | None = None,
    metric: Metric = cider,
) -> list[Measure]:
    """Score all answers: the rows of the quality table, in its order.

    A set without samples gives no row.

    Args:
        sets: the samples.
        answers: what the model said of them.
        bootstrap: resampling of the intervals; None is its default.
        metric: scores captions (CIDEr, Java-free or official).

    Example:
        >>> measure(sets, answers)[0].key  # doctest: +SKIP
        'image_cider'
    """
    how = bootstrap or Bootstrap()
    return [
        *caption_measures(sets, answers, bootstrap=how, metric=metric),
        *_naming(sets, answers, how),
        *_retrieval(sets, answers, how),
    ]


def caption_measures(
    sets: QualitySets, answers: Answers, *, bootstrap: Bootstrap, metric: Metric = cider
) -> list[Measure]:
    """Only the rows that score captions: photos, region sets, traces.

    Example:
        >>> caption_measures(sets, answers, bootstrap=Bootstrap())  # doctest: +SKIP
    """
    rows: list[Measure] = []
    if sets.images:
        photos = [sample.photo for sample in sets.images]
        said = [answers.whole_captions[photo] for photo in photos]
        _, scores = metric(said, [sample.references for sample in sets.images])
        interval = bootstrap.mean(scores, photos)
        label = "image captioning, CIDEr"
        rows.append(_row("image_cider", label, interval, photos, Target(50, 65)))
    rows += _regional(
        "region_sets", "region sets", sets.region_sets, answers.set_captions, answers,
        Target(1.03, 1.15, strict=True), bootstrap, metric,
    )  # fmt: skip
    rows += _regional(
        "traces", "traces", sets.traces, answers.trace_captions, answers,
        Target(1.0, 1.15, strict=True), bootstrap, metric,
    )  # fmt: skip
    return rows


def _regional(
    key: str,
    label: str,
    samples: Sequence[RegionSetSample | TraceSample],
    said: Sequence[str],
    answers: Answers,
    target: Target,
    bootstrap: Bootstrap,
    metric: Metric,
) -> list[Measure]:
    """The region's caption, the whole photo's on the same references, and their ratio."""
    if not samples:
        return []
    photos = [sample.photo for sample in samples]
    references = [sample.references for sample in samples]
    _, regional = metric(said, references)
    _, whole = metric([answers.whole_captions[photo] for photo in photos], references)
    return [
        _row(f"{key}_cider", f"{label}, CIDEr", bootstrap.mean(regional, photos), photos),
        _row(
            f"{key}_whole_cider",
            f"{label}, CIDEr of the whole-image caption",
            bootstrap.mean(whole, photos),
            photos,
        ),
        _row(
            f"{key}_ratio",
            f"{label}, region / whole image",
            bootstrap.ratio(regional, whole, photos),
            photos,
            target,
        ),
    ]


def _naming(sets: QualitySets, answers: Answers, bootstrap: Bootstrap) -> list[Measure]:
    """Share of boxes whose nearest class name is theirs; the whole photo's guess beside it."""
    if not sets.boxes:
        return []
    photos = [sample.photo for sample in sets.boxes]
    wanted = np.array([sets.names.index(sample.name) for sample in sets.boxes])
    whole = np.stack([answers.whole_embeddings[photo] for photo in photos])
    names = answers.name_embeddings.T
    regional = _percent(np.argmax(answers.box_embeddings @ names, axis=1) == wanted)
    of_whole = _percent(np.argmax(whole @ names, axis=1) == wanted)
    label = "box naming, % of boxes"
    return [
        _row("box_naming", label, bootstrap.mean(regional, photos), photos, Target(45, 55)),
        _row(
            "box_naming_whole",
            "box naming by the whole-image embedding, %",
            bootstrap.mean(of_whole, photos),
            photos,
        ),
    ]


def _retrieval(sets: QualitySets, answers: Answers, bootstrap: Bootstrap) -> list[Measure]:
    """Share of captions whose own photo ranks first (or among five) of all photos."""
    if not sets.images:
        return []
    gallery = np.stack([answers.whole_embeddings[sample.photo] for sample in sets.images])
    owner = np.repeat(np.arange(len(sets.images)), [len(s.references) for s in sets.images])
    photos = [sets.images[index].photo for index in owner]
    ranks = retrieval_ranks(answers.caption_embeddings @ gallery.T, owner)
    first, fifth = (bootstrap.mean(_percent(ranks <= k), photos) for k in (1, 5))
    return [
        _row("retrieval_r1", "text to image, R@1 %", first, photos, Target(55, 62)),
        _row("retrieval_r5", "text to image, R@5 %", fifth, photos),
    ]


def retrieval_ranks(similarities: NDArray[np.float32], owner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rank (from 1) of each query's own item; equal similarity counts against it.

    So a model that gives every photo the same embedding is not rewarded.

    Args:
        similarities: (queries, items).
        owner: (queries,) index of the right item.

    Returns:
        Ranks, (queries,).

    Example:
        >>> retrieval_ranks(np.array([[0.1, 0.9], [0.5, 0.5]], np.float32), np.array([1, 1]))
        array([1, 2])
    """
    own = np.take_along_axis(similarities, owner[:, None], axis=1)
    return np.asarray((similarities >= own).sum(axis=1), dtype=np.intp)


def _percent(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return right.astype(np.float64) * 100.0


def _row(
    key: str, label: str, interval: Interval, photos: Sequence[str], target: Target | None = None
) -> Measure:
    return Measure(key, label, interval, len(photos), len(set(photos)), target)
