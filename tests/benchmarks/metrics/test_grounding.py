"""Distinctness, grounding, one reference at a time, and class names: by hand, with their exact properties."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.metrics import cider, stem_f
from benchmarks.metrics.regions import (
    SYNONYMS,
    class_named,
    distinctness,
    fixed_cider,
    grounding,
    named_classes,
    one_reference_each,
    plural,
)
from patchioner.base.errors import OptionError


@pytest.mark.parametrize(
    ("captions", "photos", "regions", "repeated", "unique"),
    [
        # Photo x: one pair of 3 alike, 2 of 3 captions differ. Photo y: 2 regions, all differ. Photo z: one.
        (["a dog", "A dog!", "a cat", "p", "q", "alone"], "xxxyyz", None, 1 / 4, (2 / 3 + 1) / 2),
        (["a"] * 4, "xxxx", None, 1.0, 1 / 4),
        (list("abab"), "xxyy", None, 0.0, 1.0),
        (["a", "a", "b"], "xxx", [1, 1, 2], 0.0, 1.0),  # a region that comes twice counts once
        (["a", "b"], "xy", None, 0.0, 1.0),
    ],
)
def test_distinct_by_hand(
    captions: list[str], photos: str, regions: Any, repeated: float, unique: float
) -> None:
    pairs, share = distinctness(captions, list(photos), regions or range(len(captions)))
    same, every = (sum(counts) for counts in zip(*pairs.values(), strict=True)) if pairs else (0, 1)
    assert same / every == pytest.approx(repeated) and share == pytest.approx(unique)
    assert list(pairs) == [p for p in dict.fromkeys(photos) if photos.count(p) > 1]


def shared(said: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
    """Most letters shared with a reference."""
    return [
        float(max(len(set(text) & set(other)) for other in group))
        for text, group in zip(said, due, strict=True)
    ]


def test_grounding_by_hand() -> None:
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
    twice = grounding(["a", "a", "b"], [["a"], ["ab"], ["b"]], ["x"] * 3, shared, [1, 1, 2])
    assert twice.other.tolist() == [0.0, 0.0, 0.5], "samples of one region are not compared"


def test_saying_the_same_of_every_region_is_worth_exactly_nothing() -> None:
    draw = random.Random(1)
    words = ["red", "bus", "dog", "cat", "street", "man"]
    due = [[" ".join(draw.choices(words, k=4)) for _ in range(2)] for _ in range(12)]
    photos = [i // 4 for i in range(12)]
    said = [f"a {words[photo]} and a {words[photo + 1]}" for photo in photos]
    found = grounding(said, due, photos, lambda s, d: stem_f(s, d)[1])
    assert found.margins.mean() == pytest.approx(0.0, abs=1e-9)
    assert found.wins.mean() == pytest.approx(0.5)
    own = grounding(said, due, photos, fixed_cider(due)).own
    assert own == pytest.approx(cider(said, due)[1]), "the idf is that of the whole set"


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="two different captions"):
        distinctness(["a", "b"], ["x", "x"], [1, 1])
    with pytest.raises(OptionError, match="no photo has two regions"):
        grounding(["a"], [["a"]], ["x"], shared)
    with pytest.raises(OptionError, match="1 captions, 2 photos"):
        grounding(["a"], [["a"]], ["x", "y"], shared)
    for scores in ([1.0], [math.nan] * 4):
        with pytest.raises(OptionError, match="one finite score per pair"):
            grounding(["a", "b"], [["a"], ["b"]], ["x", "x"], lambda s, d, found=scores: found)  # type: ignore[misc]


def test_every_name_and_synonym_names_its_class(annotations: Path) -> None:
    for name, phrases in SYNONYMS.items():
        for phrase in (name, *phrases):
            assert name in named_classes(f"two {plural(phrase)}"), phrase
            assert name in named_classes(f"the {phrase}"), phrase
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


def test_references_one_by_one_and_classes_named() -> None:
    texts, due, origin = one_reference_each(["p", "q"], [["a", "b"], ["c"]])
    assert (texts, due, origin.tolist()) == (["p", "p", "q"], [["a"], ["b"], ["c"]], [0, 0, 1])
    said, classes = ["a puppy", "a tree", "two men", "a hot dog"], ["dog", "cat", "person", "dog"]
    assert class_named(said, [(name,) for name in classes]).tolist() == [100.0, 0.0, 100.0, 0.0]
