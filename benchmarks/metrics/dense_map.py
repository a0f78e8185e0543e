"""Dense-captioning mean average precision: is the box right AND does the caption fit it?

Source: Johnson, Karpathy, Fei-Fei, "DenseCap" (2016), in the form that later dense captioners share:

1. Per photo, ground truths that overlap at IoU >= 0.7 are merged (`merge_boxes`).
2. Per photo, detections in decreasing score take their best-IoU merged box if that IoU is above 0 and the box is free
   still. A box is used up by the first detection that wants it, even if they hardly overlap; the second one is wrong.
3. Over all photos, for IoU in 0.3 .. 0.7 and text score in 0 .. 0.25: a detection is right if it took a box with at
   least that IoU and a text score strictly above that threshold. AP is the mean, over recall 0.00, 0.01 .. 0.99, of the
   best precision at that recall or more; the mAP is the mean of the 30 APs. `detection` asks nothing of the text.

Equal scores keep their order: photos in the order given, detections in the order given within a photo. So does a
detection with two best boxes (the first merged box). Recall is compared in whole numbers, never by rounded fractions.
Boxes are XYXY pixels, continuous (a box from 0 to 2 is 2 wide).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
TEXT_THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
MERGE_IOU = 0.7
RECALL_STEPS = 100

TextMeasure = Callable[[Sequence[str], Sequence[Sequence[str]]], ArrayLike]
"""(n captions, n lists of references) -> n scores between 0 and 1."""


def as_boxes(boxes: ArrayLike, what: str = "boxes") -> Floats:
    """(n, 4) float64; OptionError for another shape, a number that is not finite, or corners in another order."""
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.size == 0:
        return np.zeros((0, 4))
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise OptionError(f"{what} have shape {rows.shape}: give (n, 4), x1 y1 x2 y2 a row")
    bad = ~np.isfinite(rows).all(axis=1) | (rows[:, 2] < rows[:, 0]) | (rows[:, 3] < rows[:, 1])
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise OptionError(
            f"{what}[{index}] is {rows[index].tolist()}: give finite x1 y1 x2 y2 with x1 <= x2 and y1 <= y2"
        )
    return rows


def pairwise_iou(left: Floats, right: Floats) -> Floats:
    """Intersection over union of every pair, (n, 4) and (m, 4) -> (n, m); 0 where both areas are 0."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = [(side[:, 2] - side[:, 0]) * (side[:, 3] - side[:, 1]) for side in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def merge_boxes(
    boxes: Floats, captions: Sequence[Sequence[str]], *, iou: float = MERGE_IOU
) -> tuple[Floats, list[list[str]]]:
    """Merge nearly equal boxes.

    Again and again: the box that overlaps most of those left (of equals the first) takes all that overlap it at `iou`
    or more with it; their coordinates are averaged, each input box weighing the same, and their captions pooled in
    input order. The m merged boxes, (m, 4), come in the order in which they were taken.
    """
    close = pairwise_iou(boxes, boxes) >= iou
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


@dataclass(frozen=True)
class DensePhoto:
    """What was said of one photo, and what is true of it; OptionError for lengths that differ or no finite numbers.

    Attributes:
        boxes, scores, captions: (d, 4) detected boxes, (d,) confidence of each (only their order counts), d captions.
        truth_boxes, truth_captions: (g, 4) ground truths, not merged, and g lists of references.
    """

    boxes: ArrayLike = field(repr=False)
    scores: Sequence[float] = field(repr=False)
    captions: Sequence[str]
    truth_boxes: ArrayLike = field(repr=False)
    truth_captions: Sequence[Sequence[str]] = field(repr=False)

    def __post_init__(self) -> None:
        boxes, truths = as_boxes(self.boxes), as_boxes(self.truth_boxes, "truth_boxes")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "truth_boxes", truths)
        if not len(boxes) == len(self.scores) == len(self.captions):
            raise OptionError(
                f"{len(boxes)} boxes, {len(self.scores)} scores and {len(self.captions)} captions of one photo: give"
                " one of each per detection"
            )
        if len(truths) != len(self.truth_captions) or not all(self.truth_captions):
            raise OptionError(
                f"{len(truths)} truth_boxes for {len(self.truth_captions)} truth_captions: give a list with a reference"
                " per box"
            )
        if not np.isfinite(self.scores).all():
            raise OptionError(f"scores are {self.scores!r:.80}: give finite numbers")


@dataclass(frozen=True)
class DenseMatches:
    """All d detections of all photos by decreasing score.

    Attributes:
        photo, iou, text: (d,) index of the photo of each; IoU with the merged box that it took, 0 where it took none;
            text score against that box's references, 0..1, -1 where it took none.
        truths: (photos,) merged ground truths of each photo.
    """

    photo: NDArray[np.intp]
    iou: Floats
    text: Floats
    truths: NDArray[np.intp]


@dataclass(frozen=True)
class DenseMap:
    """Dense-captioning mAP: "mAP" with the official METEOR, else "mAP (<text measure>)".

    Attributes:
        value, detection: mean of the 30 average precisions, and of the five that ask nothing of the text, x 100.
        detections, truths: how many detections, and merged ground truths, there were.
    """

    name: str
    value: float
    detection: float
    detections: int
    truths: int


def match(photos: Iterable[DensePhoto], text_measure: TextMeasure) -> DenseMatches:
    """Give every detection its merged ground truth and its text score (steps 1 and 2 above).

    `text_measure` is asked once. OptionError: no ground truth at all, or a text score that is not within 0..1.
    """
    rows: list[tuple[int, float, float]] = []
    asked: list[tuple[int, str, list[str]]] = []
    truths: list[int] = []
    for index, photo in enumerate(photos):
        scores, boxes = np.asarray(photo.scores), np.asarray(photo.boxes)
        merged, groups = merge_boxes(np.asarray(photo.truth_boxes), photo.truth_captions)
        truths.append(len(merged))
        for detection, (taken, iou) in enumerate(zip(*_take(boxes, scores, merged), strict=True)):
            if taken >= 0:
                asked.append((len(rows), photo.captions[detection], groups[taken]))
            rows.append((index, float(scores[detection]), float(iou)))
    if not sum(truths):
        raise OptionError("no ground truth in any photo: there is no recall to measure")
    text = np.full(len(rows), -1.0)
    if asked:
        text[[row for row, _, _ in asked]] = _text_scores(text_measure, asked)
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    order = np.argsort(-table[:, 1], kind="stable")
    return DenseMatches(
        table[order, 0].astype(np.intp), table[order, 2], text[order], np.array(truths)
    )


def summarize(
    matches: DenseMatches, *, name: str, weights: NDArray[np.int64] | None = None
) -> DenseMap:
    """Average precisions of matches (step 3 above); `weights` (photos,) say how often each photo counts, None: once."""
    counts = np.ones(len(matches.truths), np.int64) if weights is None else weights
    truths = int(counts @ matches.truths)
    if truths <= 0:
        raise OptionError("the weights leave no ground truth: give some photo with one a weight")
    often = counts[matches.photo]

    def precision(right: NDArray[np.bool_]) -> float:
        return 100.0 * average_precision(right, truths, often)

    taken = matches.text >= 0
    boxed = [taken & (matches.iou >= least) for least in IOU_THRESHOLDS]
    table = [precision(one & (matches.text > least)) for one in boxed for least in TEXT_THRESHOLDS]
    detection = float(np.mean([precision(found) for found in boxed]))
    label = "mAP" if name == "METEOR" else f"mAP ({name})"
    return DenseMap(label, float(np.mean(table)), detection, int(often.sum()), truths)


def average_precision(
    right: NDArray[np.bool_], truths: int, often: NDArray[np.int64] | None = None
) -> float:
    """Mean, over recall 0.00, 0.01 .. 0.99, of the best precision at that recall or more (0 where never reached).

    `right`: (d,) whether each detection is right, by decreasing score; `often`: (d,) how often each counts.
    """
    weights = np.ones(len(right), np.int64) if often is None else often
    kept = weights > 0
    hits, seen = np.cumsum((right * weights)[kept]), np.cumsum(weights[kept])
    # The best precision from each place on; recall only grows, so it is also the best at that recall or more.
    best = np.maximum.accumulate((hits / seen)[::-1])[::-1]
    first = np.searchsorted(RECALL_STEPS * hits, np.arange(RECALL_STEPS) * truths)
    reached = first < len(best)
    return float(best[first[reached]].sum() / RECALL_STEPS)


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


def _text_scores(measure: TextMeasure, asked: Sequence[tuple[int, str, list[str]]]) -> Floats:
    given = measure([said for _, said, _ in asked], [due for _, _, due in asked])
    scores = np.asarray(given, dtype=np.float64)
    if scores.shape != (len(asked),):
        raise OptionError(
            f"the text measure gave scores of shape {scores.shape} for {len(asked)} captions: give one per caption"
        )
    # The negation catches NaN too.
    bad = ~((scores >= 0) & (scores <= 1 + 1e-9))
    if bad.any():
        raise OptionError(
            f"the text measure gave {scores[bad][0]}: the thresholds are for scores within 0..1 (not x 100)"
        )
    return scores
