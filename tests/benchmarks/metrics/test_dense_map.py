"""Dense mAP and its boxes: worked out by hand, ties and duplicates, and a plain loop over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.metrics.regions import (
    IOU_THRESHOLDS,
    TEXT_THRESHOLDS,
    DenseMap,
    DensePhoto,
    as_boxes,
    match,
    merge_boxes,
    pairwise_iou,
    summarize,
)
from patchioner.base.errors import OptionError

A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]


def figures(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """A text measure that reads the score off the caption: "0.2" scores 0.2, whatever is due."""
    return [float(text) for text in said]


def dense_map(photos: Sequence[DensePhoto], measure: Any, *, name: str = "x") -> DenseMap:
    return summarize(match(photos, measure), name=name)


def test_iou_by_hand() -> None:
    left = as_boxes([[0, 0, 4, 4], [5, 5, 5, 5]])
    right = as_boxes([[0, 0, 4, 4], [2, 0, 6, 4], [4, 4, 8, 8], [1, 1, 2, 2], [5, 5, 5, 5]])
    expected = [[1, 8 / 24, 0, 1 / 16, 0], [0, 0, 0, 0, 0]]
    assert pairwise_iou(left, right) == pytest.approx(np.array(expected))


def test_merged_boxes_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        corners = draw.integers(0, 3, (12, 2))
        boxes = as_boxes(np.hstack([corners, corners + draw.integers(8, 10, (12, 2))]))
        merged, groups = merge_boxes(boxes, [[str(i)] for i in range(12)])
        left, expected = list(range(12)), []
        while left:
            near = {
                i: [j for j in left if _iou(boxes[i].tolist(), boxes[j].tolist()) >= 0.7]
                for i in left
            }
            seed = max(left, key=lambda i: (len(near[i]), -i))
            expected.append(near[seed])
            left = [j for j in left if j not in near[seed]]
        assert groups == [[str(i) for i in group] for group in expected]
        assert merged == pytest.approx(np.array([boxes[group].mean(axis=0) for group in expected]))


@pytest.mark.parametrize(
    ("boxes", "scores", "captions", "value", "detection"),
    [
        ([A, B], [0.9, 0.8], "11", 100, 100),
        # A hit, a miss, B hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: 51 steps at 1, 49 at 2/3.
        ([A, C, B], [0.9, 0.8, 0.7], "111", 51 + 49 * 2 / 3, 51 + 49 * 2 / 3),
        # The first touches A at IoU 0.01 and uses it up; the other way round it is only late.
        ([[0, 0, 1, 1], A, B], [0.9, 0.8, 1.0], "111", 51, 51),
        ([[0, 0, 1, 1], A, B], [0.8, 0.9, 1.0], "111", 100, 100),
        # Detection does not look at the text, not even at 0, which is not above 0.
        ([A, B], [1, 1], "00", 0, 100),
    ],
)  # fmt: skip
def test_by_hand(boxes: Any, scores: Any, captions: str, value: float, detection: float) -> None:
    photo = DensePhoto(boxes, scores, list(captions), [A, B], [["x"], ["y"]])
    result = dense_map([photo], figures, name="METEOR")
    assert (result.name, result.detections, result.truths) == ("mAP", len(boxes), 2)
    assert result.value == pytest.approx(value)
    assert result.detection == pytest.approx(detection)


def test_thresholds() -> None:
    """Text must be above: 0.1 passes 0 and 0.05, 2 of 6 columns. IoU may be equal: 0.5 passes 3 of 5 rows."""
    text = dense_map([DensePhoto([A], [1.0], ["0.1"], [A], [["x"]])], figures, name="ROUGE-L")
    assert text.value == pytest.approx(100 * 2 / 6) and text.name == "mAP (ROUGE-L)"
    half = DensePhoto([[0, 0, 5, 10]], [1.0], ["1"], [A], [["x"]])
    found = dense_map([half], figures)
    assert (found.value, found.detection) == (pytest.approx(60.0), pytest.approx(60.0))


def test_ties_keep_the_order_given() -> None:
    """Equal scores: photos in order, detections in order; of two equal boxes the second is wrong."""
    first = DensePhoto([A, C, B, A], [1] * 4, ["0.1", "0.2", "0.3", "1"], [A, B, A], [["x"], ["y"], ["z"]])  # fmt: skip
    second = DensePhoto([C, A], [1, 1], ["0.4", "0.5"], [C], [["x"]])
    matches = match([first, second], figures)
    assert matches.truths.tolist() == [2, 1]
    assert matches.photo.tolist() == [0, 0, 0, 0, 1, 1]
    assert matches.text.tolist() == [0.1, -1.0, 0.3, -1.0, 0.4, -1.0]


def test_all_references_of_a_merged_box_are_due() -> None:
    asked: list[Sequence[str]] = []

    def watch(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
        asked.extend(due)
        return [1.0] * len(said)

    dense_map([DensePhoto([A], [1], ["s"], [A, B, A], [["x"], ["y"], ["z"]])], watch, name="METEOR")
    assert asked == [["x", "z"]]


def test_photos_without_detections_or_truths_count() -> None:
    """The one lowers recall, the other precision."""
    hit = DensePhoto([A], [0.5], ["1"], [A], [["x"]])
    missed = DensePhoto([], [], [], [B], [["y"]])
    invented = DensePhoto([C], [0.9], ["1"], [], [])
    assert dense_map([hit, missed], figures, name="METEOR").value == pytest.approx(51.0)
    assert dense_map([hit, invented], figures, name="METEOR").value == pytest.approx(50.0)
    with pytest.raises(OptionError, match="no ground truth"):
        dense_map([], figures, name="x")


def test_weights_are_copies_of_photos() -> None:
    photos = _random_photos(6, seed=3)
    often = np.array([2, 0, 1, 3, 1, 0])
    copied = [photo for photo, count in zip(photos, often, strict=True) for _ in range(count)]
    weighted = summarize(match(photos, _alike), name="x", weights=often)
    plain = summarize(match(copied, _alike), name="x")
    assert weighted.value == pytest.approx(plain.value)
    assert (weighted.detections, weighted.truths) == (plain.detections, plain.truths)
    with pytest.raises(OptionError, match="leave no ground truth"):
        summarize(match(photos, _alike), name="x", weights=0 * often)


@pytest.mark.parametrize("scores", [[0.5, 0.5], [math.nan], [70.0], [-1.0]])
def test_bad_text_scores(scores: list[float]) -> None:
    photo = DensePhoto([A], [1.0], ["s"], [A], [["x"]])
    with pytest.raises(OptionError, match=str(scores[0]) if len(scores) == 1 else "2,"):
        dense_map([photo], lambda said, due: scores, name="x")


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (([A], [1.0, 2.0], ["s"], [A], [["x"]]), "1 boxes, 2 scores and 1 captions"),
        (([A], [math.nan], ["s"], [A], [["x"]]), "nan"),
        (([A], [1.0], ["s"], [A], [["x"], ["y"]]), "1 truth_boxes for 2"),
        (([A], [1.0], ["s"], [A], [[]]), "1 truth_boxes for 1"),
        (([A], [1.0], ["s"], [A, [5, 5, 1, 1]], [["x"], ["y"]]), r"truth_boxes\[1\]"),
        (([[0, 0, 1]], [1.0], ["s"], [A], [["x"]]), r"\(1, 3\)"),
        (([[0, 0, math.nan, 1]], [1.0], ["s"], [A], [["x"]]), r"boxes\[0\]"),
    ],
)
def test_bad_photos(photo: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DensePhoto(*photo)


def _alike(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """A number of caption and references alone, on a coarse grid so that thresholds are hit exactly."""
    return [
        (7 * len(text) + 3 * len("".join(group))) % 9 * 0.05
        for text, group in zip(said, due, strict=True)
    ]


def _random_photos(count: int, seed: int) -> list[DensePhoto]:
    """Few different corners and scores, so that overlaps, duplicates and ties are common."""
    draw = np.random.default_rng(seed)

    def boxes(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        corners = draw.integers(0, 6, (number, 2))
        return np.hstack([corners, corners + draw.integers(3, 7, (number, 2))])

    def texts(number: int) -> list[str]:
        return ["x" * int(size) for size in draw.integers(1, 9, number)]

    photos = []
    for _ in range(count):
        found, true = int(draw.integers(0, 9)), int(draw.integers(1, 7))
        scores = draw.integers(0, 4, found).astype(float)
        due = [[text] for text in texts(true)]
        photos.append(DensePhoto(boxes(found), scores.tolist(), texts(found), boxes(true), due))
    return photos


@pytest.mark.parametrize("seed", range(8))
def test_plain_twin(seed: int) -> None:
    """The definition, detection by detection, in plain numbers."""
    photos = _random_photos(7, seed)
    records: list[tuple[float, float, float]] = []
    truths = 0
    for photo in photos:
        due = [list(group) for group in photo.truth_captions]
        merged, groups = merge_boxes(np.asarray(photo.truth_boxes), due)
        truths += len(merged)
        free = [True] * len(merged)
        boxes, scores = np.asarray(photo.boxes), np.asarray(photo.scores)
        answers = {}
        for d in sorted(range(len(boxes)), key=lambda d: -scores[d]):
            best, winner = 0.0, -1
            for t, other in enumerate(merged):
                overlap = _iou(boxes[d].tolist(), other.tolist())
                if overlap > best:
                    best, winner = overlap, t
            if winner >= 0 and free[winner]:
                free[winner] = False
                answers[d] = (best, _alike([photo.captions[d]], [groups[winner]])[0])
        records += [(float(scores[d]), *answers.get(d, (0.0, -1.0))) for d in range(len(boxes))]
    records.sort(key=lambda record: -record[0])
    table = [
        _plain_ap([i >= iou and t > text for _, i, t in records], truths)
        for iou in IOU_THRESHOLDS
        for text in TEXT_THRESHOLDS
    ]
    boxed = [_plain_ap([i >= iou for _, i, _ in records], truths) for iou in IOU_THRESHOLDS]
    result = dense_map(photos, _alike, name="x")
    assert result.value == pytest.approx(100 * sum(table) / 30)
    assert result.detection == pytest.approx(100 * sum(boxed) / 5)


def _plain_ap(right: list[bool], truths: int) -> float:
    total = 0.0
    for step in range(100):
        best = 0.0
        for end in range(1, len(right) + 1):
            hits = sum(right[:end])
            if 100 * hits >= step * truths:
                best = max(best, hits / end)
        total += best
    return total / 100


def _iou(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return wide * high / (sum(areas) - wide * high)
