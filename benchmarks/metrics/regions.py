"""Scores of regions: dense-captioning mAP; are captions about their regions, and unlike their neighbours'?

The mAP is that of Johnson, Karpathy, Fei-Fei, "DenseCap" (2016), in the form that later dense captioners share.
`distinctness` and `grounding` are ours: who says the same of every region of a photo has a mean margin of exactly 0 and
wins exactly half. Boxes are XYXY pixels, continuous (a box from 0 to 2 is 2 wide).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.caption import FUNCTION_WORDS, Floats, Groups, Texts, cider, tokenize
from patchioner.base.errors import OptionError

Counts = NDArray[np.int64]
Measure = Callable[[Sequence[str], Sequence[Sequence[str]]], ArrayLike]
"""(n captions, n lists of references) -> n scores."""

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
TEXT_THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
MERGE_IOU, RECALL_STEPS = 0.7, 100


def pairwise_iou(left: Floats, right: Floats) -> Floats:
    """Intersection over union of every pair, (n, 4) and (m, 4) -> (n, m); 0 where both areas are 0."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = [(side[:, 2] - side[:, 0]) * (side[:, 3] - side[:, 1]) for side in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def merge_boxes(boxes: Floats, captions: Groups) -> tuple[Floats, list[list[str]]]:
    """Merge nearly equal boxes: (m, 4) of them in the order in which they were taken, and their captions.

    Again and again, the box that overlaps most of those left (of equals the first) takes all that overlap it at
    `MERGE_IOU` or more; coordinates are averaged, captions pooled in input order.
    """
    close = pairwise_iou(boxes, boxes) >= MERGE_IOU
    np.fill_diagonal(close, True)  # a box without area overlaps itself too, or it would never go
    left = np.ones(len(boxes), dtype=bool)
    merged: list[Floats] = []
    texts: list[list[str]] = []
    while left.any():
        counts = np.where(left, (close & left).sum(axis=1), -1)
        group = np.flatnonzero(close[int(counts.argmax())] & left).tolist()
        merged.append(boxes[group].mean(axis=0))
        texts.append([text for index in group for text in captions[index]])
        left[group] = False
    return np.array(merged).reshape(-1, 4), texts


class DensePhoto(NamedTuple):
    """What was said of one photo: `boxes` (d, 4), their `scores` (only the order counts) and captions; and what is
    true: `truth_boxes` (g, 4), not merged, and g lists of references.
    """

    boxes: Sequence[Sequence[float]]
    scores: Sequence[float]
    captions: Sequence[str]
    truth_boxes: Sequence[Sequence[float]]
    truth_captions: Groups


class DenseMatches(NamedTuple):
    """All d detections of all photos by decreasing score, (d,): photo, IoU with the merged box that it took (0: none),
    text score 0..1 against that box's references (-1: none); and the number of merged ground truths of each photo.
    """

    photo: NDArray[np.intp]
    iou: Floats
    text: Floats
    truths: NDArray[np.intp]


def match(photos: Iterable[DensePhoto], text_measure: Measure) -> DenseMatches:
    """Give every detection its ground truth and its text score; `text_measure`, 0..1, is asked once.

    Per photo, ground truths are merged; detections in decreasing score (equal ones in order) take the merged box of
    their best IoU, the first of equals, if it is above 0 and nobody wanted that box before.
    """
    rows: list[tuple[int, float, float]] = []
    asked: list[tuple[int, str, list[str]]] = []
    truths: list[int] = []
    for index, photo in enumerate(photos):
        scores, boxes = np.asarray(photo.scores), _rows(photo.boxes)
        merged, groups = merge_boxes(_rows(photo.truth_boxes), photo.truth_captions)
        truths.append(len(merged))
        for detection, (taken, iou) in enumerate(zip(*_take(boxes, scores, merged), strict=True)):
            if taken >= 0:
                asked.append((len(rows), photo.captions[detection], groups[taken]))
            rows.append((index, float(scores[detection]), float(iou)))
    text = np.full(len(rows), -1.0)
    if asked:
        places, said, due = zip(*asked, strict=True)
        text[list(places)] = text_measure(said, due)
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    order = np.argsort(-table[:, 1], kind="stable")
    photo_of = table[order, 0].astype(np.intp)
    return DenseMatches(photo_of, table[order, 2], text[order], np.array(truths))


def _rows(boxes: Sequence[Sequence[float]]) -> Floats:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _take(boxes: Floats, scores: Floats, merged: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Merged box that each detection takes (-1: none) and its IoU with it."""
    taken, overlap = np.full(len(boxes), -1, np.intp), np.zeros(len(boxes))
    if not len(boxes) or not len(merged):
        return taken, overlap
    iou = pairwise_iou(boxes, merged)
    best = iou.argmax(axis=1)
    order = np.argsort(-scores, kind="stable")
    order = order[iou[order, best[order]] > 0]
    # Whoever comes first among those that want the same box gets it.
    _, first = np.unique(best[order], return_index=True)
    winners = order[first]
    taken[winners], overlap[winners] = best[winners], iou[winners, best[winners]]
    return taken, overlap


def dense_map(matches: DenseMatches, weights: Counts | None = None) -> float:
    """Dense mAP x 100: of 30 average precisions, for IoU 0.3 .. 0.7 (at least), text score 0 .. 0.25 (strictly above).

    `weights` (photos,) say how often each photo counts, None: once; OptionError: they leave no ground truth.
    """
    counts = np.ones(len(matches.truths), np.int64) if weights is None else weights
    truths = int(counts @ matches.truths)
    if truths <= 0:
        raise OptionError("no ground truth in any photo: there is no recall to measure")
    often, thresholds = counts[matches.photo], product(IOU_THRESHOLDS, TEXT_THRESHOLDS)
    right = [(matches.iou >= iou) & (matches.text > text) for iou, text in thresholds]
    return 100.0 * float(np.mean([average_precision(one, truths, often) for one in right]))


def average_precision(right: NDArray[np.bool_], truths: int, often: Counts) -> float:
    """Mean, over recall 0.00, 0.01 .. 0.99, of the best precision at that recall or more (0 where never reached).

    `right`: (d,) whether each detection is right, by decreasing score; `often`: (d,) how often each counts.
    """
    kept = often > 0
    hits, seen = np.cumsum((right * often)[kept]), np.cumsum(often[kept])
    # The best precision from each place on; recall only grows, so it is also the best at that recall or more.
    best = np.maximum.accumulate((hits / seen)[::-1])[::-1]
    # In whole numbers, never by rounded fractions.
    first = np.searchsorted(RECALL_STEPS * hits, np.arange(RECALL_STEPS) * truths)
    return float(best[first[first < len(best)]].sum() / RECALL_STEPS)


# Words after which "orange" cannot be the colour of the thing that they name.
_NO_NOUNS: Final = FUNCTION_WORDS | {
    "near", "under", "between", "beside", "onto", "through", "behind", "next", "while", "sitting", "lying", "cut",
    "sliced", "slices", "without", "here", "hanging", "placed", "inside",
}  # fmt: skip
_IRREGULAR: Final = {
    "man": "men", "woman": "women", "child": "children", "person": "persons", "policeman": "policemen",
    "businessman": "businessmen", "fisherman": "fishermen", "gentleman": "gentlemen", "goose": "geese", "foot": "feet",
    "mouse": "mice", "knife": "knives", "calf": "calves", "sheep": "sheep", "aircraft": "aircraft", "cattle": "cattle",
    "luggage": "luggage", "people": "people", "broccoli": "broccoli", "skis": "skis", "scissors": "scissors",
}  # fmt: skip


_TABLE = Path(__file__).with_name("coco_classes.txt").read_text(encoding="utf-8").splitlines()
_CLASSES = [re.split(r"[:,]\s*", line.strip(":, ")) for line in _TABLE]
SYNONYMS: Final = {name: (name, *others) for name, *others in _CLASSES}
"""COCO class -> the singular words that name it, its own name first."""
# Compounds that hold a word of the table and name none of its classes.
_, *_NO_CLASS = SYNONYMS.pop("(none)")


def plural(phrase: str) -> str:
    """Plural of an English noun phrase (of its last word)."""
    head, space, word = phrase.rpartition(" ")
    if word in _IRREGULAR:
        return head + space + _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{phrase}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{phrase[:-1]}ies"
    return f"{phrase}s"


def _phrases() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Words of every phrase -> the classes that it names."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, synonyms in SYNONYMS.items():
        for phrase in synonyms:
            for form in dict.fromkeys((phrase, plural(phrase))):
                key = tuple(form.split())
                found[key] = (*found.get(key, ()), name)
    return {tuple(phrase.split()): () for phrase in _NO_CLASS} | found


_PHRASES: Final = _phrases()
_LONGEST: Final = max(map(len, _PHRASES))


def named_classes(caption: str) -> frozenset[str]:
    """COCO classes that a caption names; a word may stand for several ("glass": cup and wine glass)."""
    return frozenset(name for names in _mentions(tokenize(caption)) for name in names)


def _mentions(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    start = 0
    while start < len(words):
        sizes = range(min(_LONGEST, len(words) - start), 0, -1)
        size = next((n for n in sizes if tuple(words[start : start + n]) in _PHRASES), 0)
        after = words[start + size] if start + size < len(words) else ""
        colour = words[start] == "orange" and after.isalpha() and after not in _NO_NOUNS
        if size and not (colour and size == 1):
            yield _PHRASES[tuple(words[start : start + size])]
        start += size or 1


def class_named(captions: Sequence[str], classes: Sequence[Sequence[str]]) -> Floats:
    """100 where a caption names its COCO class (the first of its references), else 0: a `Measure`."""
    named = {text: named_classes(text) for text in set(captions)}
    pairs = zip(captions, classes, strict=True)
    return np.array([100.0 * (due[0] in named[text]) for text, due in pairs])


def distinctness(captions: Texts, photos: Texts, regions: Sequence[Hashable]) -> dict[str, tuple[int, int]]:
    """By photo with two regions or more, (pairs of regions with the same caption, pairs of regions).

    Case and punctuation do not matter. `photos` and `regions` name those of each of n captions; what comes twice in a
    photo counts once. OptionError: one region has two different captions.
    """
    said: dict[str, dict[Hashable, tuple[str, ...]]] = {}
    for caption, photo, region in zip(captions, photos, regions, strict=True):
        words = tuple(tokenize(caption))
        if said.setdefault(photo, {}).setdefault(region, words) != words:
            told = f"region {region!r} of {photo!r} has two captions, {caption!r} is one"
            raise OptionError(f"{told}: give each a name of its own")
    counts = {photo: Counter(found.values()) for photo, found in said.items() if len(found) > 1}
    return {
        photo: (sum(math.comb(n, 2) for n in found.values()), math.comb(found.total(), 2))
        for photo, found in counts.items()
    }


class Grounding(NamedTuple):
    """How well captions belong to their own regions: of each of `samples` (indices of those that have another region in
    their photo) its score against the own references minus the mean against the others', and the share that lose.
    """

    samples: tuple[int, ...]
    margins: Floats
    wins: Floats


def fixed_cider(references: Sequence[Sequence[str]]) -> Measure:
    """CIDEr-D as a measure of pairs, with the idf of these references kept whatever pairs are asked."""
    score = partial(cider, idf_from=references)
    return lambda said, due: score(said, due)[1]


def grounding(
    captions: Texts, references: Groups, photos: Sequence[Hashable], measure: Measure,
    regions: Sequence[Hashable] | None = None,
) -> Grounding:  # fmt: skip
    """Compare each of n captions with its own references and with those of the other regions of its photo.

    `measure` (say `fixed_cider(references)`, not plain `cider`) is asked once for all pairs and must not depend on the
    others. Samples of one region are not compared; `regions` None: each has its own. OptionError: no photo has two.
    """
    names: Sequence[Hashable] = range(len(captions)) if regions is None else regions
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
    own, theirs = scores[: len(kept)], scores[len(kept) :]
    rows = np.searchsorted(kept, [left for left, _ in pairs])
    mine, counts = own[rows], np.bincount(rows)
    other = np.bincount(rows, theirs) / counts
    wins = np.bincount(rows, (mine > theirs) + 0.5 * (mine == theirs)) / counts
    return Grounding(tuple(kept), own - other, wins)
