from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.metrics import cider, regions, stem_f
from benchmarks.metrics.regions import SYNONYMS, DensePhoto, distinctness, grounding, named_classes
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import cases


def test_weights_are_copies_of_photos() -> None:
    photos = _random_photos(6, seed=3)
    often = np.array([2, 0, 1, 3, 1, 0])
    copied = [photo for photo, count in zip(photos, often, strict=True) for _ in range(count)]
    matches = regions.match(photos, _alike)
    plain = regions.dense_map(regions.match(copied, _alike))
    assert regions.dense_map(matches, often) == pytest.approx(plain)
    with pytest.raises(OptionError, match="no ground truth"):
        regions.dense_map(matches, 0 * often)


def _alike(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """A number of caption and references alone, on a coarse grid so that thresholds are hit exactly."""
    return [
        (7 * len(text) + 3 * len("".join(group))) % 9 * 0.05
        for text, group in zip(said, due, strict=True)
    ]


def _random_photos(count: int, seed: int) -> list[DensePhoto]:
    """Few different corners and scores, so that overlaps, duplicates and ties are common."""
    draw = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        sides: list[tuple[Any, list[str]]] = []
        for number in (int(draw.integers(0, 9)), int(draw.integers(1, 7))):
            corners = draw.integers(0, 6, (number, 2))
            boxes = np.hstack([corners, corners + draw.integers(3, 7, (number, 2))])
            sides.append((boxes, ["x" * int(size) for size in draw.integers(1, 9, number)]))
        (found, said), (true, due) = sides
        scores = draw.integers(0, 4, len(said)).tolist()
        photos.append(DensePhoto(found, scores, said, true, [[text] for text in due]))
    return photos


def _plain_merged(boxes: Any) -> list[list[int]]:
    """Places of the boxes that are merged: the one with most neighbours first."""
    left, groups = list(range(len(boxes))), []
    while left:
        near = {i: [j for j in left if _iou(boxes[i], boxes[j]) >= 0.7] for i in left}
        seed = max(left, key=lambda i: (len(near[i]), -i))
        groups.append(near[seed])
        left = [j for j in left if j not in near[seed]]
    return groups


@pytest.mark.parametrize("seed", range(6))
def test_plain_twin(seed: int) -> None:
    """The definition, detection by detection, in plain numbers."""
    photos = _random_photos(7, seed)
    records: list[tuple[float, float, float]] = []
    truths = 0
    for photo in photos:
        boxes, scores, true = map(np.asarray, (photo.boxes, photo.scores, photo.truth_boxes))
        groups = _plain_merged(true)
        merged = [true[group].mean(axis=0) for group in groups]
        due = [[text for at in group for text in photo.truth_captions[at]] for group in groups]
        truths += len(merged)
        free, answers = [True] * len(merged), {}
        for d in sorted(range(len(boxes)), key=lambda d: -scores[d]):
            overlaps = [_iou(boxes[d], other) for other in merged]
            winner = int(np.argmax(overlaps))
            if overlaps[winner] > 0 and free[winner]:
                free[winner] = False
                answers[d] = (overlaps[winner], _alike([photo.captions[d]], [due[winner]])[0])
        records += [(float(scores[d]), *answers.get(d, (0.0, -1.0))) for d in range(len(boxes))]
    records.sort(key=lambda record: -record[0])
    table = [
        _plain_ap([i >= iou and t > text for _, i, t in records], truths)
        for iou in regions.IOU_THRESHOLDS
        for text in regions.TEXT_THRESHOLDS
    ]
    found = regions.dense_map(regions.match(photos, _alike))
    assert found == pytest.approx(100 * sum(table) / 30)


def _plain_ap(right: list[bool], truths: int) -> float:
    total = 0.0
    for step in range(100):
        ends = [(sum(right[:end]), end) for end in range(1, len(right) + 1)]
        total += max((hits / end for hits, end in ends if 100 * hits >= step * truths), default=0)
    return total / 100


def _iou(one: Any, other: Any) -> float:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(wide * high / (sum(areas) - wide * high))


def test_distinct_by_hand() -> None:
    """Photo x: one pair of 3 alike. Photo y: two regions, another caption each. Photo z: one."""
    for captions, photos, pairs in (
        (["a dog", "A dog!", "a cat", "p", "q", "alone"], "xxxyyz", {"x": (1, 3), "y": (0, 1)}),
        (["a"] * 4, "xxxx", {"x": (6, 6)}), (["a", "b"], "xy", {}),
    ):  # fmt: skip
        assert distinctness(captions, list(photos), range(len(captions))) == pairs
    twice = distinctness(["A dog.", "a dog", "a cat"], ["p"] * 3, [0, 0, 1])
    assert twice == {"p": (0, 1)}, "a region that comes twice counts once"
    with pytest.raises(OptionError, match="region 0 of 'p'"):
        distinctness(["a dog", "a cat"], ["p"] * 2, [0, 0])


def shared(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """Most letters shared with a reference."""
    pairs = zip(said, due, strict=True)
    return [max(len(set(text) & set(other)) for other in group) for text, group in pairs]


def test_grounding_by_hand() -> None:
    """Photo x: "ab" due "ab" (2), against "bc" 1 and "cd" 0: margin 1.5, both beaten.

    "b" due "bc" (1): against "ab" 1 (a draw), "cd" 0: margin 0.5, wins 3/4. "z" due "cd": all 0: margin 0, wins 1/2.
    Photo y has one region and cannot be compared.
    """
    due = [["ab"], ["bc"], ["cd"], ["q"]]
    found = grounding(["ab", "b", "z", "q"], due, list("xxxy"), shared)
    assert found.samples == (0, 1, 2)
    assert found.margins == pytest.approx((1.5, 0.5, 0.0))
    assert found.wins == pytest.approx((1.0, 0.75, 0.5))
    twice = grounding(["a", "a", "b"], [["a"], ["ab"], ["b"]], ["x"] * 3, shared, [1, 1, 2])
    assert twice.margins.tolist() == [1.0, 1.0, 0.5], "samples of one region are not compared"
    with pytest.raises(OptionError, match="no photo has two regions"):
        grounding(["a"], [["a"]], ["x"], shared)


def test_saying_the_same_of_every_region_is_worth_exactly_nothing() -> None:
    draw = random.Random(1)
    words = ["red", "bus", "dog", "cat", "street", "man"]
    due = [[" ".join(draw.choices(words, k=4)) for _ in range(2)] for _ in range(12)]
    photos = [i // 4 for i in range(12)]
    said = [f"a {words[photo]} and a {words[photo + 1]}" for photo in photos]
    found = grounding(said, due, photos, lambda s, d: stem_f(s, d)[1])
    assert found.margins.mean() == pytest.approx(0.0, abs=1e-9)
    assert found.wins.mean() == pytest.approx(0.5)
    own = regions.fixed_cider(due)(said[:3], due[:3])
    assert own == pytest.approx(cider(said, due)[1][:3]), "the idf is that of the whole set"


def test_every_name_and_synonym_names_its_class(development: Path) -> None:
    for name, phrases in SYNONYMS.items():
        for phrase in phrases:
            assert name in named_classes(f"two {regions.plural(phrase)}"), phrase
            assert name in named_classes(f"the {phrase}"), phrase
    content = json.loads((development / "instances_dev.json").read_text(encoding="utf-8"))
    entries = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    assert [entry["name"] for entry in entries] == list(SYNONYMS)


def test_class_captions() -> None:
    due = cases("words")["classes"]
    assert {caption: sorted(named_classes(caption)) for caption in due} == due
