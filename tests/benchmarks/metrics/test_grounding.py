"""Distinctness, grounding, one reference at a time, and class names: by hand, with their exact properties."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.metrics import cider, distinctness, grounding, stem_f
from benchmarks.metrics.class_names import SYNONYMS, named_classes, plural
from benchmarks.metrics.grounding import class_named, fixed_cider, one_reference_each
from patchioner.base.errors import OptionError


def test_distinct_by_hand() -> None:
    """Photo x: 3 regions, one pair of 3 alike, 2 of 3 captions differ. Photo y: 2 regions, all differ. Photo z: one."""
    found = distinctness(["a dog", "A dog!", "a cat", "p", "q", "alone"], list("xxxyyz"))
    assert found.repeated_pairs == pytest.approx(1 / 4)
    assert found.unique_captions == pytest.approx((2 / 3 + 1) / 2)
    assert (found.photos, found.repeats, found.pairs) == (("x", "y"), (1, 0), (3, 1))


def test_distinct_one_caption_for_everything_and_one_each() -> None:
    assert distinctness(["a"] * 4, ["x"] * 4).repeated_pairs == 1.0
    assert distinctness(list("abcd"), ["x"] * 4).unique_captions == 1.0


def test_distinct_same_caption_in_different_photos_is_fine() -> None:
    assert distinctness(["a", "b", "a", "b"], list("xxyy")).repeated_pairs == 0.0


def test_distinct_a_region_that_comes_twice_counts_once() -> None:
    """As it does where every reference is a sample."""
    box = (0, 0, 1, 1)
    found = distinctness(["a", "a", "b"], ["x"] * 3, [box, box, (1, 1, 2, 2)])
    assert (found.repeats, found.pairs) == ((0,), (1,))


def test_distinct_no_pair() -> None:
    found = distinctness(["a", "b"], ["x", "y"])
    assert (found.repeated_pairs, found.unique_captions, found.photos) == (0.0, 1.0, ())


def test_distinct_bad_input() -> None:
    with pytest.raises(OptionError, match="2 captions, 1 photos"):
        distinctness(["a", "b"], ["x"])
    with pytest.raises(OptionError, match="two different captions"):
        distinctness(["a", "b"], ["x", "x"], [1, 1])


def shared(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """Most letters shared with a reference."""
    return [
        float(max(len(set(text) & set(other)) for other in group))
        for text, group in zip(said, due, strict=True)
    ]


def test_by_hand() -> None:
    """Photo x: "ab" due "ab" (2), against "bc" 1 and "cd" 0: margin 1.5, both beaten.

    "b" due "bc" (1): against "ab" 1 (a draw), "cd" 0: margin 0.5, wins 3/4. "z" due "cd": all 0: margin 0, wins 1/2.
    Photo y has one region and cannot be compared.
    """
    found = grounding(
        ["ab", "b", "z", "q"], [["ab"], ["bc"], ["cd"], ["q"]], ["x", "x", "x", "y"], shared
    )
    assert found.samples == (0, 1, 2)
    assert found.own.tolist() == [2.0, 1.0, 0.0]
    assert found.other == pytest.approx((0.5, 0.5, 0.0))
    assert found.wins == pytest.approx((1.0, 0.75, 0.5))
    assert found.margins.mean() == pytest.approx(2 / 3)


def test_saying_the_same_of_every_region_is_worth_exactly_nothing() -> None:
    draw = random.Random(1)
    words = ["red", "bus", "dog", "cat", "street", "man"]
    due = [[" ".join(draw.choices(words, k=4)) for _ in range(2)] for _ in range(12)]
    photos = [i // 4 for i in range(12)]
    said = [f"a {words[photo]} and a {words[photo + 1]}" for photo in photos]
    found = grounding(said, due, photos, lambda s, d: stem_f(s, d)[1])
    assert found.margins.mean() == pytest.approx(0.0, abs=1e-9)
    assert found.wins.mean() == pytest.approx(0.5)


def test_samples_of_one_region_are_not_compared() -> None:
    photos, regions = ["x"] * 3, ["left", "left", "right"]
    found = grounding(["a", "a", "b"], [["a"], ["ab"], ["b"]], photos, shared, regions)
    assert found.other.tolist() == [0.0, 0.0, 0.5]


def test_cider_with_a_fixed_idf() -> None:
    """A pair's score does not depend on the other pairs; own scores are those of the whole set."""
    said = ["a red bus", "two dogs", "a cat sleeps"]
    due = [["the red bus"], ["two dogs run"], ["the cat"]]
    found = grounding(said, due, ["x", "x", "x"], fixed_cider(due))
    assert found.own == pytest.approx(tuple(cider(said, due)[1]))


@pytest.mark.parametrize("scores", [[1.0], [math.nan] * 4])
def test_bad_measures(scores: list[float]) -> None:
    with pytest.raises(OptionError, match="one finite score per pair"):
        grounding(["a", "b"], [["a"], ["b"]], ["x", "x"], lambda s, d: scores)


def test_bad_input() -> None:
    with pytest.raises(OptionError, match="no photo has two regions"):
        grounding(["a"], [["a"]], ["x"], shared)
    with pytest.raises(OptionError, match="1 captions, 2 photos"):
        grounding(["a"], [["a"]], ["x", "y"], shared)


def test_class_eighty_classes_each_naming_itself() -> None:
    assert len(SYNONYMS) == 80
    for name in SYNONYMS:
        for phrase in (name, plural(name)):
            assert name in named_classes(f"there is a {phrase} here"), phrase


def test_class_every_synonym_names_its_class() -> None:
    for name, phrases in SYNONYMS.items():
        for phrase in phrases:
            assert name in named_classes(f"two {plural(phrase)}"), phrase
            assert name in named_classes(f"the {phrase}"), phrase


def test_class_the_names_are_those_of_the_data(annotations: Path) -> None:
    content = json.loads((annotations / "instances_dev.json").read_text(encoding="utf-8"))
    entries = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    assert [entry["name"] for entry in entries] == list(SYNONYMS)


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A hot dog on a plate.", {"hot dog"}),
        ("two dogs and hot dogs", {"dog", "hot dog"}),
        ("a child's teddy bear", {"person", "teddy bear"}),
        ("men riding motorcycles", {"person", "motorcycle"}),
        ("an orange shirt", set()),
        ("an orange and an apple", {"orange", "apple"}),
        ("an orange near a cup", {"orange", "cup"}),
        ("oranges", {"orange"}),
        ("a glass", {"cup", "wine glass"}),
        ("a glass of wine", {"wine glass"}),
        ("a train station", set()),
        ("a fire truck at a stop sign", {"truck", "stop sign"}),
        ("Geese, mice, knives!", {"bird", "mouse", "knife"}),
        ("a baseball player with a bat", {"baseball bat"}),
        ("the catcher's mitt", {"baseball glove"}),
        ("a caterpillar on a doggedly carved cattail", set()),
        ("", set()),
    ],
)
def test_class_captions(caption: str, classes: set[str]) -> None:
    assert named_classes(caption) == classes


def test_one_reference_each() -> None:
    texts, due, origin = one_reference_each(["p", "q"], [["a", "b"], ["c"]])
    assert (texts, due, origin.tolist()) == (["p", "p", "q"], [["a"], ["b"], ["c"]], [0, 0, 1])


def test_class_named() -> None:
    said, classes = ["a puppy", "a tree", "two men", "a hot dog"], ["dog", "cat", "person", "dog"]
    assert class_named(said, [(name,) for name in classes]).tolist() == [100.0, 0.0, 100.0, 0.0]
