"""Grounding: is a region's caption about that region?

Knows: captions, references, the photo and region of each, and any measure of a caption against references.
Does NOT know: models, pictures. None of the published tables measures this, so the definitions are ours:

* margin: how much better a caption fits the references of its own region than those of another region of the same photo
  (mean own score - mean score against the others; each sample weighs the same);
* win rate: share of the others that lose against the own references, a draw counting half; the mean over samples.

A captioner that says the same of every region of a photo has a margin of exactly 0 and a win rate of exactly 50 %, by
symmetry. Class boxes give a third one:

* hit rate: share of boxes whose caption names the class of the box (`benchmarks.metrics.class_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.bootstrap import Interval, bootstrap_mean
from benchmarks.metrics.cider import cider
from benchmarks.metrics.class_names import names_class
from benchmarks.metrics.ngrams import check_pairs
from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]

PairMeasure = Callable[[Sequence[str], Sequence[Sequence[str]]], ArrayLike]
"""(n captions, n lists of references) -> n scores."""


@dataclass(frozen=True)
class Grounding:
    """How well captions belong to their own regions.

    Attributes:
        margin: mean own score minus mean other score, with an interval over photos; in units of the measure.
        win_rate: in percent, with an interval over photos.
        samples: indices of the samples that have another region in their photo; the rest cannot be compared.
        own, other: their scores against the own references, and the mean against the others.
        wins: share of the others that each beats, 0..1.
    """

    margin: Interval
    win_rate: Interval
    samples: tuple[int, ...]
    own: tuple[float, ...]
    other: tuple[float, ...]
    wins: tuple[float, ...]


def fixed_cider(references: Sequence[Sequence[str]]) -> PairMeasure:
    """CIDEr-D as a measure of pairs, with the idf of these references kept whatever pairs are asked.

    Example:
        >>> fixed_cider([["a red bus stops"], ["two dogs run away"]])(["a red bus stops"], [["a red bus stops"]])
        array([1000.])
    """
    score = partial(cider, idf_from=references)
    return lambda said, due: score(said, due)[1]


def grounding(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    photos: Sequence[Hashable],
    measure: PairMeasure,
    *,
    regions: Sequence[Hashable] | None = None,
    rounds: int = 2000,
    seed: int = 0,
) -> Grounding:
    """Compare every caption with its own references and with those of the other regions of its photo.

    Args:
        captions: n captions.
        references: n lists of references.
        photos: the photo of each sample.
        measure: scores captions against references, e.g. `fixed_cider(references)`; asked once for all pairs. It must
            not depend on which other pairs are asked, so plain `cider` will not do.
        regions: the region of each sample; samples of one region are not compared with one another. None: every sample
            has a region of its own.
        rounds, seed: of the bootstrap over photos.

    Raises:
        OptionError: lengths differ, no photo has two regions, or the measure does not give one finite score per pair.

    Example:
        >>> same = lambda said, due: [float(text in group) for text, group in zip(said, due)]
        >>> grounding(["a", "b"], [["a"], ["b"]], ["x", "x"], same).margin.value
        1.0
    """
    check_pairs(captions, references)
    names = list(range(len(captions))) if regions is None else list(regions)
    if not len(captions) == len(photos) == len(names):
        raise OptionError(
            f"{len(captions)} captions, {len(photos)} photos, {len(names)} regions: give one of each per sample"
        )
    pairs = _other_regions(photos, names)
    if not pairs:
        raise OptionError("no photo has two regions: there is nothing to compare a region with")
    kept = sorted({left for left, _ in pairs})
    asked = [(i, i) for i in kept] + pairs
    scores = np.asarray(
        measure([captions[i] for i, _ in asked], [references[j] for _, j in asked]), np.float64
    )
    if scores.shape != (len(asked),) or not np.isfinite(scores).all():
        raise OptionError(
            f"the measure gave scores of shape {scores.shape} for {len(asked)} pairs: give one finite score per pair"
        )
    own = dict(zip(kept, scores[: len(kept)], strict=True))
    rows = np.searchsorted(kept, [left for left, _ in pairs])
    mine, theirs = np.array([own[left] for left, _ in pairs]), scores[len(kept) :]
    counts = np.bincount(rows)
    other = np.bincount(rows, theirs) / counts
    wins = np.bincount(rows, (mine > theirs) + 0.5 * (mine == theirs)) / counts
    owns = scores[: len(kept)]
    groups = [photos[i] for i in kept]
    return Grounding(
        margin=bootstrap_mean(owns - other, groups, rounds=rounds, seed=seed),
        win_rate=bootstrap_mean(100.0 * wins, groups, rounds=rounds, seed=seed),
        samples=tuple(kept),
        own=tuple(owns.tolist()),
        other=tuple(other.tolist()),
        wins=tuple(wins.tolist()),
    )


def _other_regions(
    photos: Sequence[Hashable], regions: Sequence[Hashable]
) -> list[tuple[int, int]]:
    """Pairs of samples of one photo and different regions, both ways round."""
    members: dict[Hashable, list[int]] = {}
    for index, photo in enumerate(photos):
        members.setdefault(photo, []).append(index)
    return [
        (i, j)
        for group in members.values()
        for i in group
        for j in group
        if regions[i] != regions[j]
    ]


@dataclass(frozen=True)
class HitRate:
    """Share of class boxes whose caption names the class, in percent.

    Attributes:
        rate: over all boxes, with an interval over photos.
        by_class: (class, hits, boxes) rows, in alphabetical order.
        hits: (n,) whether each caption names its class.
    """

    rate: Interval
    by_class: tuple[tuple[str, int, int], ...]
    hits: tuple[bool, ...]


def object_hits(
    captions: Sequence[str],
    classes: Sequence[str],
    photos: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
) -> HitRate:
    """Measure how often the caption of a class box names its class.

    Args:
        captions: n captions of boxes.
        classes: the COCO class of each box.
        photos: the photo of each.
        rounds, seed: of the bootstrap over photos.

    Raises:
        OptionError: lengths differ, or there is no box.
        UnknownNameError: a class that COCO does not have.

    Example:
        >>> object_hits(["a puppy", "a tree"], ["dog", "cat"], ["x", "y"]).rate.value
        50.0
    """
    if not len(captions) == len(classes) == len(photos):
        raise OptionError(
            f"{len(captions)} captions, {len(classes)} classes, {len(photos)} photos: give one of each per box"
        )
    hits = [names_class(text, name) for text, name in zip(captions, classes, strict=True)]
    rate = bootstrap_mean([100.0 * hit for hit in hits], photos, rounds=rounds, seed=seed)
    found = {
        name: [h for h, c in zip(hits, classes, strict=True) if c == name] for name in set(classes)
    }
    rows = tuple((name, sum(found[name]), len(found[name])) for name in sorted(found))
    return HitRate(rate, rows, tuple(hits))
