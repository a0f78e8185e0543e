import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.metrics import cider, regions, stem_f
from benchmarks.metrics.regions import SYNONYMS, DensePhoto, distinctness, grounding, named_classes
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import cases


def alike(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """A number of caption and references alone, on a coarse grid so that thresholds are hit exactly."""
    return [(7 * len(text) + 3 * len("".join(group))) % 9 * 0.05 for text, group in zip(said, due, strict=True)]


def test_dense_map() -> None:
    """Of boxes with overlaps, duplicates and ties, as a plain loop over detections and thresholds found it."""
    for given in cases("dense"):
        photos = [DensePhoto(*photo) for photo in given["photos"]]
        matches = regions.match(photos, alike)
        assert regions.dense_map(matches) == pytest.approx(given["mAP"])
    often = np.array([2, 0, 1, 3, 1, 0])  # a photo that is weighted counts like its copies
    copied = [photo for photo, count in zip(photos, often, strict=True) for _ in range(count)]
    plain = regions.dense_map(regions.match(copied, alike))
    assert regions.dense_map(matches, often) == pytest.approx(plain)
    with pytest.raises(OptionError, match="no ground truth"):
        regions.dense_map(matches, 0 * often)


def test_boxes_are_merged_by_hand() -> None:
    """Squares: the one that overlaps most of those left takes them, of equals the first; they are averaged."""
    corners = np.array([[0, 3], [2, 1], [0, 2], [1, 3], [1, 2]])
    squares = np.hstack([corners, corners + 9.0])
    merged, texts = regions.merge_boxes(squares, [[name] for name in "abcde"])
    assert texts == [["a", "c", "d"], ["b"], ["e"]]
    assert merged[:, :2] == pytest.approx(np.array([[1 / 3, 8 / 3], [2, 1], [1, 2]]))


def test_distinct_by_hand() -> None:
    """Photo x: one pair of 3 alike. Photo y: two regions, another caption each. Photo z: one."""
    captions = ["a dog", "A dog!", "a cat", "p", "q", "alone"]
    assert distinctness(captions, list("xxxyyz"), range(6)) == {"x": (1, 3), "y": (0, 1)}
    twice = distinctness(["A dog.", "a dog", "a cat"], ["p"] * 3, [0, 0, 1])
    assert twice == {"p": (0, 1)}, "a region that comes twice counts once"
    with pytest.raises(OptionError, match="region 0 of 'p'"):
        distinctness(["a dog", "a cat"], ["p"] * 2, [0, 0])


def shared(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
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
