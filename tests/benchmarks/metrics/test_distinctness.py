"""Distinctness by hand."""

from __future__ import annotations

import pytest

from benchmarks.bootstrap import bootstrap_ratio
from benchmarks.metrics import distinctness
from patchioner.base.errors import OptionError


def test_by_hand() -> None:
    """Photo x: 3 regions, one pair of 3 alike, 2 of 3 captions differ. Photo y: 2 regions, all differ. Photo z: one."""
    found = distinctness(["a dog", "A dog!", "a cat", "p", "q", "alone"], list("xxxyyz"))
    assert found.repeated_pairs == pytest.approx(1 / 4)
    assert found.unique_captions == pytest.approx((2 / 3 + 1) / 2)
    assert (found.photos, found.repeats, found.pairs) == (("x", "y"), (1, 0), (3, 1))
    assert bootstrap_ratio(found.repeats, found.pairs, found.photos).value == pytest.approx(1 / 4)


def test_one_caption_for_everything_and_one_each() -> None:
    assert distinctness(["a"] * 4, ["x"] * 4).repeated_pairs == 1.0
    assert distinctness(list("abcd"), ["x"] * 4).unique_captions == 1.0


def test_same_caption_in_different_photos_is_fine() -> None:
    assert distinctness(["a", "b", "a", "b"], list("xxyy")).repeated_pairs == 0.0


def test_a_region_that_comes_twice_counts_once() -> None:
    """As it does where every reference is a sample."""
    box = (0, 0, 1, 1)
    found = distinctness(["a", "a", "b"], ["x"] * 3, [box, box, (1, 1, 2, 2)])
    assert (found.repeats, found.pairs) == ((0,), (1,))


def test_no_pair() -> None:
    found = distinctness(["a", "b"], ["x", "y"])
    assert (found.repeated_pairs, found.unique_captions, found.photos) == (0.0, 1.0, ())


def test_bad_input() -> None:
    with pytest.raises(OptionError, match="2 captions, 1 photos"):
        distinctness(["a", "b"], ["x"])
    with pytest.raises(OptionError, match="two different captions"):
        distinctness(["a", "b"], ["x", "x"], [1, 1])
