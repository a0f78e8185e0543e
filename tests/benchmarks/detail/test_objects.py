"""Objects of texts against those of photos: counting by hand, intervals, differences."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detail.objects import METRICS, object_scores
from patchioner.base.errors import OptionError

TEXTS = ["A puppy on a sofa.", "Two men ride bikes past a hot dog stand.", ""]
THERE = [{"dog", "chair"}, {"person", "bicycle"}, {"cat"}]


def test_counts_by_hand() -> None:
    scores = object_scores(TEXTS, THERE)
    assert scores.named.tolist() == [2, 3, 0]
    assert scores.right.tolist() == [1, 2, 0]
    assert scores.there.tolist() == [2, 2, 1]
    assert scores.interval("precision").value == pytest.approx(3 / 5)
    assert scores.interval("recall").value == pytest.approx(3 / 5)
    assert scores.interval("clean").value == pytest.approx(
        1 / 3
    )  # the empty text says nothing false


def test_without_people_they_count_on_neither_side() -> None:
    scores = object_scores(TEXTS, THERE, people=False)
    assert scores.named.tolist() == [2, 2, 0]
    assert scores.there.tolist() == [2, 1, 1]


def test_a_word_of_two_classes_is_no_false_claim_where_one_is_there() -> None:
    there = object_scores(["A glass of milk."], [{"cup"}])
    absent = object_scores(["A glass of milk."], [{"dog"}])
    assert (there.named.tolist(), there.right.tolist()) == ([1], [1])
    assert (absent.named.tolist(), absent.right.tolist()) == ([2], [0])


@pytest.mark.parametrize("metric", METRICS)
def test_gain_is_the_difference_of_the_two_values(metric: str) -> None:
    better = object_scores(["A dog.", "A cat.", "A man."], THERE)
    worse = object_scores(["A bus.", "A cat.", "A man."], THERE)
    gain = better.gain_over(worse, metric)
    assert gain.value == pytest.approx(better.interval(metric).value - worse.interval(metric).value)
    assert gain.low <= gain.value <= gain.high
    assert better.gain_over(better, metric).high == 0


def test_texts_that_name_nothing_have_no_precision_but_a_difference() -> None:
    silent = object_scores(["", ""], [{"dog"}, {"cat"}])
    assert np.isnan(silent.interval("precision").value)
    assert silent.gain_over(silent, "precision").value == 0


def test_wrong_use_is_named() -> None:
    with pytest.raises(OptionError, match="2 texts for 1 photos"):
        object_scores(["a", "b"], [{"dog"}])
    with pytest.raises(OptionError, match="precision"):
        object_scores(["a"], [{"dog"}]).interval("f1")
