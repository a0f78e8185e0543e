"""Dense mAP and its boxes: worked out by hand, ties and duplicates, and a plain loop over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.metrics import DensePhoto, dense_map, text_measure
from benchmarks.metrics.dense_map import (
    IOU_THRESHOLDS,
    TEXT_THRESHOLDS,
    as_boxes,
    average_precision,
    match,
    merge_boxes,
    pairwise_iou,
    summarize,
)
from patchioner.base.errors import OptionError


def test_box_iou_by_hand() -> None:
    left = as_boxes([[0, 0, 4, 4], [5, 5, 5, 5]])
    right = as_boxes([[0, 0, 4, 4], [2, 0, 6, 4], [4, 4, 8, 8], [1, 1, 2, 2], [5, 5, 5, 5]])
    expected = [[1, 8 / 24, 0, 1 / 16, 0], [0, 0, 0, 0, 0]]
    assert pairwise_iou(left, right) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1]], r"shape \(1, 3\)"),
        ([0, 0, 1, 1], "shape"),
        ([[0, 0, 1, 1], [0, 0, math.nan, 1]], r"boxes\[1\]"),
        ([[2, 0, 1, 1]], "x1 <= x2"),
    ],
)
def test_box_bad_boxes(boxes: list[object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        as_boxes(boxes)


def test_box_the_box_with_most_neighbours_goes_first() -> None:
    """B overlaps A and C (IoU 0.8 each), A and C overlap less (8/12 < 0.7): all three become one, seeded by B."""
    boxes = as_boxes([[0, 0, 10, 1], [1, 0, 11, 1], [2, 0, 12, 1], [50, 0, 60, 1]])
    merged, texts = merge_boxes(boxes, [["a"], ["b"], ["c"], ["d"]])
    assert merged.tolist() == [[1, 0, 11, 1], [50, 0, 60, 1]]
    assert texts == [["a", "b", "c"], ["d"]]


def test_box_equal_counts_take_the_first_and_duplicates_merge() -> None:
    boxes = as_boxes([[0, 0, 2, 2], [9, 9, 11, 11], [0, 0, 2, 2], [9, 9, 11, 11]])
    merged, texts = merge_boxes(boxes, [["a"], ["b"], ["c", "d"], ["e"]])
    assert merged.tolist() == [[0, 0, 2, 2], [9, 9, 11, 11]]
    assert texts == [["a", "c", "d"], ["b", "e"]]


def test_box_empty_boxes_end_too() -> None:
    merged, texts = merge_boxes(as_boxes([[1, 1, 1, 1], [1, 1, 1, 1]]), [["a"], ["b"]])
    assert len(merged) == len(texts) == 2
    assert merge_boxes(as_boxes([]), [])[0].shape == (0, 4)


def test_box_plain_twin() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        corners = draw.integers(0, 3, (12, 2))
        boxes = as_boxes(np.hstack([corners, corners + draw.integers(8, 10, (12, 2))]))
        texts = [[str(i)] for i in range(12)]
        merged, groups = merge_boxes(boxes, texts)
        expected = _box_plain(boxes.tolist())
        assert groups == [[str(i) for i in group] for group in expected]
        assert merged == pytest.approx(np.array([boxes[group].mean(axis=0) for group in expected]))


def _box_plain(boxes: list[list[float]]) -> list[list[int]]:
    def iou(a: list[float], b: list[float]) -> float:
        wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return wide * high / (sum(areas) - wide * high)

    left = list(range(len(boxes)))
    groups = []
    while left:
        near = {i: [j for j in left if iou(boxes[i], boxes[j]) >= 0.7] for i in left}
        seed = left[0]
        for i in left:
            if len(near[i]) > len(near[seed]):
                seed = i
        groups.append(near[seed])
        left = [j for j in left if j not in near[seed]]
    return groups


A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]


def figures(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """A text measure that reads the score off the caption: "0.2" scores 0.2, whatever is due."""
    return [float(text) for text in said]


def test_everything_right() -> None:
    photo = DensePhoto([A, B], [0.9, 0.8], ["1", "1"], [A, B], ["x", "y"])
    result = dense_map([photo], figures, name="METEOR")
    assert (result.name, result.value, result.detection) == ("mAP", 100.0, 100.0)
    assert (result.detections, result.truths) == (2, 2)


def test_another_measure_has_another_name() -> None:
    photo = DensePhoto([A], [1.0], ["1"], [A], ["x"])
    assert dense_map([photo], figures, name="ROUGE-L").name == "mAP (ROUGE-L)"


def test_by_hand() -> None:
    """Two truths; detections by score: A hit, a miss, B hit. Precision 1, 1/2, 2/3; recall 1/2, 1/2, 1.

    AP: recall 0.00..0.50 has best precision 1 (51 steps), 0.51..0.99 has 2/3 (49 steps).
    """
    photo = DensePhoto([A, C, B], [0.9, 0.8, 0.7], ["1", "1", "1"], [A, B], ["x", "y"])
    expected = 51 + 49 * 2 / 3
    result = dense_map([photo], figures, name="METEOR")
    assert result.value == pytest.approx(expected)
    assert result.detection == pytest.approx(expected)


def test_text_must_be_strictly_above() -> None:
    """A score of 0.1 passes 0 and 0.05 only: 2 of 6 columns. Detection does not look at the text, not even at 0."""
    photo = DensePhoto([A], [1.0], ["0.1"], [A], ["x"])
    result = dense_map([photo], figures, name="METEOR")
    assert result.table[0] == (100.0, 100.0, 0.0, 0.0, 0.0, 0.0)
    assert result.value == pytest.approx(100 * 2 / 6)
    mute = dense_map([DensePhoto([A], [1.0], ["0"], [A], ["x"])], figures, name="METEOR")
    assert (mute.value, mute.detection) == (0.0, 100.0)


def test_iou_may_be_equal() -> None:
    """Half of the box: IoU exactly 0.5 counts at 0.3, 0.4 and 0.5."""
    photo = DensePhoto([[0, 0, 5, 10]], [1.0], ["1"], [A], ["x"])
    result = dense_map([photo], figures, name="METEOR")
    assert [row[0] for row in result.table] == [100, 100, 100, 0, 0]
    assert result.detection == pytest.approx(60.0)


def test_a_box_is_used_up_even_by_a_tiny_overlap() -> None:
    """The first detection touches A at IoU 0.01 and wins it; the perfect second one is wrong."""
    photo = DensePhoto([[0, 0, 1, 1], A], [0.9, 0.8], ["1", "1"], [A], ["x"])
    assert dense_map([photo], figures, name="METEOR").value == 0.0
    swapped = DensePhoto([[0, 0, 1, 1], A], [0.8, 0.9], ["1", "1"], [A], ["x"])
    assert dense_map([swapped], figures, name="METEOR").value == 100.0


def test_duplicates_of_a_merged_truth_are_wrong() -> None:
    """The shipped protocol feeds the truths themselves: of two equal boxes one is right, and precision falls to 1/2.

    With the right one first, recall 1 is reached at precision 1.
    """
    photo = DensePhoto([A, A], [1.0, 1.0], ["1", "1"], [A, A], [["x"], ["y"]])
    matches = match([photo], figures)
    assert matches.truths.tolist() == [1]
    assert matches.text.tolist() == [1.0, -1.0]
    assert summarize(matches, name="METEOR").value == 100.0


def test_ties_keep_the_order_given() -> None:
    """Equal scores: photos in order, detections in order; so the first of two candidates wins, and repeatably."""
    first = DensePhoto([A, C, B], [1, 1, 1], ["0.1", "0.2", "0.3"], [A, B], ["x", "y"])
    second = DensePhoto([C, A], [1, 1], ["0.4", "0.5"], [C], ["x"])
    matches = match([first, second], figures)
    assert matches.photo.tolist() == [0, 0, 0, 1, 1]
    assert matches.text.tolist() == [0.1, -1.0, 0.3, 0.4, -1.0]


def test_all_references_of_a_merged_box_are_due() -> None:
    asked: list[Sequence[str]] = []

    def watch(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
        asked.extend(due)
        return [1.0] * len(said)

    dense_map([DensePhoto([A], [1], ["s"], [A, B, A], [["x"], "y", ["z"]])], watch, name="METEOR")
    assert asked == [["x", "z"]]


def test_photos_without_detections_or_truths_count() -> None:
    """The one lowers recall, the other precision."""
    hit = DensePhoto([A], [0.5], ["1"], [A], ["x"])
    missed = DensePhoto([], [], [], [B], ["y"])
    invented = DensePhoto([C], [0.9], ["1"], [], [])
    assert dense_map([hit, missed], figures, name="METEOR").value == pytest.approx(51.0)
    assert dense_map([hit, invented], figures, name="METEOR").value == pytest.approx(50.0)


def test_average_precision_by_hand() -> None:
    """Nothing, nothing right, and a recall that stops at 1/3: steps 0.00..0.33."""
    assert average_precision(np.zeros(0, bool), 3) == 0.0
    assert average_precision(np.zeros(2, bool), 3) == 0.0
    assert average_precision(np.array([True]), 3) == pytest.approx(0.34)


def test_weights_are_copies_of_photos() -> None:
    photos = _random_photos(6, seed=3)
    often = np.array([2, 0, 1, 3, 1, 0])
    copied = [photo for photo, count in zip(photos, often, strict=True) for _ in range(count)]
    weighted = summarize(match(photos, _alike), name="x", weights=often)
    plain = summarize(match(copied, _alike), name="x")
    assert np.allclose(weighted.table, plain.table)
    assert (weighted.detections, weighted.truths) == (plain.detections, plain.truths)
    with pytest.raises(OptionError, match="leave no ground truth"):
        summarize(match(photos, _alike), name="x", weights=0 * often)


@pytest.mark.parametrize("seed", range(8))
def test_plain_twin(seed: int) -> None:
    photos = _random_photos(7, seed)
    result = dense_map(photos, _alike, name="x")
    value, detection = _plain(photos)
    assert result.value == pytest.approx(value)
    assert result.detection == pytest.approx(detection)


def test_with_a_real_text_measure() -> None:
    photo = DensePhoto([A, B], [1, 1], ["a red bus", "two dogs"], [A, B], ["the red bus", "a cat"])
    for name in ("stem-F", "ROUGE-L"):
        with text_measure(name) as measure:
            result = dense_map([photo], measure, name=name)
        assert result.name == f"mAP ({name})"
        assert result.value == pytest.approx(51.0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 0.5], r"shape \(2,\)"),
        ([math.nan], "within 0..1"),
        ([70.0], "not x 100"),
        ([-1.0], "-1.0"),
    ],
)
def test_bad_text_scores(scores: list[float], message: str) -> None:
    photo = DensePhoto([A], [1.0], ["s"], [A], ["x"])
    with pytest.raises(OptionError, match=message):
        dense_map([photo], lambda said, due: scores, name="x")


@pytest.mark.parametrize(
    ("detected", "true", "message"),
    [
        (([A], [1.0, 2.0], ["s"]), ([A], ["x"]), "1 boxes, 2 scores and 1 captions"),
        (([A], [math.nan], ["s"]), ([A], ["x"]), "finite"),
        (([A], [1.0], ["s"]), ([A], ["x", "y"]), "1 truth_boxes for 2"),
        (([A], [1.0], ["s"]), ([A], [[]]), "no caption"),
        (([A], [1.0], ["s"]), ([[5, 5, 1, 1]], ["x"]), r"truth_boxes\[0\]"),
    ],
)
def test_bad_photos(
    detected: tuple[list[object], ...], true: tuple[list[object], ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        DensePhoto(*detected, *true)  # type: ignore[arg-type]


def test_nothing_to_recall() -> None:
    with pytest.raises(OptionError, match="no ground truth"):
        dense_map([], figures, name="x")


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
        photos.append(DensePhoto(boxes(found), scores, texts(found), boxes(true), texts(true)))
    return photos


def _plain(photos: Sequence[DensePhoto]) -> tuple[float, float]:
    """The definition, detection by detection, in plain numbers."""
    records: list[tuple[float, float, float]] = []
    truths = 0
    for photo in photos:
        merged, groups = merge_boxes(
            np.asarray(photo.truth_boxes), [list(g) for g in photo.truth_captions]
        )
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
    return 100 * sum(table) / 30, 100 * sum(boxed) / 5


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
