"""Is a region's caption about that region, and does it differ from its neighbours'?

None of the published tables measures this, so the definitions are ours:

* repeated pairs: of all pairs of different regions of one photo, the share whose captions are the same words;
* unique captions: the mean over photos of (different captions / regions), for photos with at least two regions;
* margin: how much better a caption fits the references of its own region than those of another region of the same photo
  (own score - mean score against the others);
* wins: share of the others that lose against the own references, a draw counting half.

A captioner that says the same of every region of a photo has a mean margin of exactly 0 and wins exactly half, by
symmetry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.caption import cider
from benchmarks.metrics.class_names import named_classes
from benchmarks.metrics.words import check_pairs, tokenize
from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]

PairMeasure = Callable[[Sequence[str], Sequence[Sequence[str]]], ArrayLike]
"""(n captions, n lists of references) -> n scores."""


@dataclass(frozen=True)
class Distinctness:
    """How often regions of one photo share a caption.

    Attributes:
        repeated_pairs: share of pairs with the same caption, 0..1; 0 is best, and when there is no pair.
        unique_captions: mean share of different captions per photo, 0..1; 1 is best, and when no photo has two regions.
        repeats, pairs: (photos,) pairs with the same caption, and all pairs, of each photo.
        photos: the photos with at least two regions, in order of first mention.
    """

    repeated_pairs: float
    unique_captions: float
    repeats: tuple[int, ...]
    pairs: tuple[int, ...]
    photos: tuple[Hashable, ...]


def distinctness(
    captions: Sequence[str], photos: Sequence[Hashable], regions: Sequence[Hashable] | None = None
) -> Distinctness:
    """Measure how distinct the captions of the regions of each photo are; case and punctuation do not matter.

    Args:
        captions: n captions.
        photos: the photo of each.
        regions: the region of each. A region that comes twice in a photo, as it does where each reference is a sample,
            counts once. None: every caption has a region of its own.

    Raises:
        OptionError: lengths differ, or one region of a photo has two different captions.
    """
    names = _checked_regions(captions, photos, regions)
    said: dict[Hashable, dict[Hashable, tuple[str, ...]]] = {}
    for caption, photo, region in zip(captions, photos, names, strict=True):
        words = tuple(tokenize(caption))
        if said.setdefault(photo, {}).setdefault(region, words) != words:
            raise OptionError(
                f"region {region!r} of photo {photo!r} has two different captions, {caption!r} is one: give each region"
                " a name of its own"
            )
    counts = {photo: Counter(found.values()) for photo, found in said.items() if len(found) > 1}
    repeats = tuple(sum(n * (n - 1) // 2 for n in found.values()) for found in counts.values())
    pairs = tuple(n * (n - 1) // 2 for n in (found.total() for found in counts.values()))
    unique = [len(found) / found.total() for found in counts.values()]
    return Distinctness(
        repeated_pairs=sum(repeats) / sum(pairs) if pairs else 0.0,
        unique_captions=sum(unique) / len(unique) if unique else 1.0,
        repeats=repeats,
        pairs=pairs,
        photos=tuple(counts),
    )


@dataclass(frozen=True)
class Grounding:
    """How well captions belong to their own regions.

    Attributes:
        samples: indices of the samples that have another region in their photo; the rest cannot be compared.
        own, other: (samples,) scores against the own references, and the mean against the others.
        wins: (samples,) share of the others that each beats, 0..1.
    """

    samples: tuple[int, ...]
    own: Floats
    other: Floats
    wins: Floats

    @property
    def margins(self) -> Floats:
        """(samples,) own minus other."""
        return self.own - self.other


def fixed_cider(references: Sequence[Sequence[str]]) -> PairMeasure:
    """CIDEr-D as a measure of pairs, with the idf of these references kept whatever pairs are asked."""
    score = partial(cider, idf_from=references)
    return lambda said, due: score(said, due)[1]


def class_named(captions: Sequence[str], classes: Sequence[Sequence[str]]) -> Floats:
    """100 where a caption names its COCO class (the first of its references), else 0: a `PairMeasure`."""
    named = {text: named_classes(text) for text in set(captions)}
    pairs = zip(captions, classes, strict=True)
    return np.array([100.0 * (due[0] in named[text]) for text, due in pairs])


def grounding(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    photos: Sequence[Hashable],
    measure: PairMeasure,
    regions: Sequence[Hashable] | None = None,
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

    Raises:
        OptionError: lengths differ, no photo has two regions, or the measure does not give one finite score per pair.
    """
    check_pairs(captions, references)
    names = _checked_regions(captions, photos, regions)
    members: dict[Hashable, list[int]] = {}
    for index, photo in enumerate(photos):
        members.setdefault(photo, []).append(index)
    groups = members.values()
    pairs = [(i, j) for group in groups for i in group for j in group if names[i] != names[j]]
    if not pairs:
        raise OptionError("no photo has two regions: there is nothing to compare a region with")
    kept = sorted({left for left, _ in pairs})
    asked = [(i, i) for i in kept] + pairs
    given = measure([captions[i] for i, _ in asked], [references[j] for _, j in asked])
    scores = np.asarray(given, dtype=np.float64)
    if scores.shape != (len(asked),) or not np.isfinite(scores).all():
        raise OptionError(
            f"the measure gave scores of shape {scores.shape} for {len(asked)} pairs: give one finite score per pair"
        )
    own, theirs = scores[: len(kept)], scores[len(kept) :]
    rows = np.searchsorted(kept, [left for left, _ in pairs])
    mine, counts = own[rows], np.bincount(rows)
    other = np.bincount(rows, theirs) / counts
    wins = np.bincount(rows, (mine > theirs) + 0.5 * (mine == theirs)) / counts
    return Grounding(tuple(kept), own, other, wins)


def one_reference_each(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]], NDArray[np.intp]]:
    """Take samples with several references apart: predictions, lists of one reference, index of each row's sample.

    Region sets come with one to five references. Scored together, a set is one sample against all of them, as the
    published system does; one at a time is what comparisons with single-reference systems need.
    """
    check_pairs(predictions, references)
    rows = [(i, text) for i, group in enumerate(references) for text in group]
    origin = np.array([i for i, _ in rows], dtype=np.intp)
    return [predictions[i] for i, _ in rows], [[text] for _, text in rows], origin


def _checked_regions(
    captions: Sequence[str], photos: Sequence[Hashable], regions: Sequence[Hashable] | None
) -> Sequence[Hashable]:
    names: Sequence[Hashable] = range(len(captions)) if regions is None else regions
    if not len(captions) == len(photos) == len(names):
        raise OptionError(
            f"{len(captions)} captions, {len(photos)} photos, {len(names)} regions: give one of each per sample"
        )
    return names
