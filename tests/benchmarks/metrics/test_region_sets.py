"""Several references together, or one at a time."""

from __future__ import annotations

import pytest

from benchmarks.metrics import one_reference_each, score_both_ways
from patchioner_base.errors import OptionError


def test_taking_apart() -> None:
    rows = one_reference_each(["p", "q"], [["a", "b"], ["c"]])
    assert rows.predictions == ("p", "p", "q")
    assert rows.references == (("a",), ("b",), ("c",))
    assert rows.back([1.0, 3.0, 5.0]).tolist() == [2.0, 5.0]
    with pytest.raises(OptionError, match="for 3 rows"):
        rows.back([1.0])


def test_both_ways() -> None:
    """ "a dog" against "a dog" and "a cat": ROUGE-L 100 with both, 100 and 50 one at a time."""
    scores = score_both_ways(["a dog", "x"], [["a dog", "a cat"], ["x"]], ["rouge_l"], java="no")
    assert scores["several"]["rouge_l"].samples == (100.0, 100.0)
    assert scores["one"]["rouge_l"].samples == (100.0, 50.0, 100.0)


def test_the_same_where_every_sample_has_one() -> None:
    scores = score_both_ways(["a dog", "a cat"], [["the dog"], ["a cat"]], java="no")
    assert scores["several"] == scores["one"]
