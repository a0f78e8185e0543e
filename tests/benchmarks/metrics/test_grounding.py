"""Grounding: by hand, its two exact properties, class hits."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from benchmarks.metrics import cider, fixed_cider, grounding, object_hits, stem_f
from patchioner.base.errors import OptionError, UnknownNameError


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
    assert found.own == (2.0, 1.0, 0.0)
    assert found.other == pytest.approx((0.5, 0.5, 0.0))
    assert found.wins == pytest.approx((1.0, 0.75, 0.5))
    assert found.margin.value == pytest.approx(2 / 3)
    assert found.win_rate.value == pytest.approx(75.0)


def test_saying_the_same_of_every_region_is_worth_exactly_nothing() -> None:
    draw = random.Random(1)
    words = ["red", "bus", "dog", "cat", "street", "man"]
    due = [[" ".join(draw.choices(words, k=4)) for _ in range(2)] for _ in range(12)]
    photos = [i // 4 for i in range(12)]
    said = [f"a {words[photo]} and a {words[photo + 1]}" for photo in photos]
    found = grounding(said, due, photos, lambda s, d: stem_f(s, d)[1])
    assert found.margin.value == pytest.approx(0.0, abs=1e-9)
    assert found.win_rate.value == pytest.approx(50.0)


def test_samples_of_one_region_are_not_compared() -> None:
    photos, regions = ["x"] * 3, ["left", "left", "right"]
    found = grounding(["a", "a", "b"], [["a"], ["ab"], ["b"]], photos, shared, regions=regions)
    assert found.other == (0.0, 0.0, 0.5)


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


def test_object_hits() -> None:
    found = object_hits(
        ["a puppy", "a tree", "two men", "a hot dog"], ["dog", "cat", "person", "dog"], list("xxyz")
    )
    assert found.hits == (True, False, True, False)
    assert found.rate.value == 50.0
    assert found.by_class == (("cat", 0, 1), ("dog", 1, 2), ("person", 1, 1))
    with pytest.raises(OptionError, match="1 captions, 2 classes"):
        object_hits(["a"], ["dog", "cat"], ["x"])
    with pytest.raises(UnknownNameError, match="COCO class"):
        object_hits(["a"], ["unicorn"], ["x"])
