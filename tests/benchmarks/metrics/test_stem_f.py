"""stem-F: by hand, against METEOR where both match the same, alignment against a plain search."""

from __future__ import annotations

import random
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metrics import Meteor, stem_f
from benchmarks.metrics.stem_f import align
from patchioner.base.errors import OptionError


def test_by_hand() -> None:
    """Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1, two chunks of two matches: penalty 0.6."""
    precision = 4 / 13
    mean = precision / (0.85 * precision + 0.15)
    assert stem_f(["a red bus stops here"], [["a bus"]])[0] == pytest.approx(100 * 0.4 * mean)


def test_stem_match_weighs_less() -> None:
    """ "dogs" for "dog": both shares 0.6, so the mean is 0.6; one chunk and nothing left over: no penalty."""
    assert stem_f(["dogs"], [["dog"]])[0] == pytest.approx(60.0)


def test_order_costs() -> None:
    """Two chunks of two matches: 1 - 0.6."""
    assert stem_f(["bus red"], [["red bus"]])[0] == pytest.approx(40.0)


def test_best_reference_and_bounds() -> None:
    mean, scores = stem_f(["a dog", "", "x"], [["cat", "a dog"], ["a"], ["y", ""]])
    assert scores.tolist() == [100.0, 0.0, 0.0]
    assert mean == pytest.approx(100 / 3)


def test_lists_that_do_not_pair() -> None:
    with pytest.raises(OptionError, match="1 predictions"):
        stem_f(["a"], [])


def test_meteor_where_only_equal_words_match(meteor: Meteor) -> None:
    """Made-up words have no synonyms, stems or paraphrases: the same number as the official program's."""
    draw = random.Random(0)
    words = ["zorp", "blick", "vamta", "drupo", "kelm", "the", "of", "wugk", "tofna", "plirk"]
    said = [" ".join(draw.sample(words, k=draw.randint(1, 10))) for _ in range(200)]
    due = [[" ".join(draw.sample(words, k=draw.randint(1, 10)))] for _ in said]
    np.testing.assert_allclose(stem_f(said, due)[1], meteor.score(said, due)[1], atol=1e-9)


def test_near_meteor_on_real_captions(meteor: Meteor, dev_captions: list[list[str]]) -> None:
    """Measured: means 25.2 and 26.9, correlation 0.95."""
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    ours, official = stem_f(said, due)[1], meteor.score(said, due)[1]
    assert np.corrcoef(ours, official)[0, 1] > 0.93
    assert abs(ours.mean() - official.mean()) < 3


letters = st.lists(st.sampled_from("abc"), max_size=5)


@given(letters, letters)
def test_alignment_matches_as_many_as_can_be(left: list[str], right: list[str]) -> None:
    pairs = align(left, right)
    assert all(left[i] == right[j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert pairs == sorted(pairs)
    most = sum(min(left.count(x), right.count(x)) for x in set(left))
    assert len(pairs) == most


def test_equal_lists_align_in_one_run() -> None:
    for order in set(permutations("aabc")):
        assert align(order, order) == [(i, i) for i in range(4)]


def test_longest_run_first_and_ties_from_the_left() -> None:
    assert align(list("xab"), list("abxab")) == [(0, 2), (1, 3), (2, 4)]
    assert align(["a"], ["a", "a"]) == [(0, 0)]
