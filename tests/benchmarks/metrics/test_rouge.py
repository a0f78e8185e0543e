"""ROUGE-L: cases worked out by hand, and the subsequence against a plain twin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metrics import rouge_l
from benchmarks.metrics.rouge import longest_common_subsequence


def test_by_hand() -> None:
    """2 words shared of 3 said and of 4 due, beta 1.2."""
    precision, recall, beta2 = 2 / 3, 2 / 4, 1.44
    expected = 100 * (1 + beta2) * precision * recall / (recall + beta2 * precision)
    mean, scores = rouge_l(["a red bus"], [["the red old bus"]])
    assert abs(mean - expected) < 1e-9
    assert scores.shape == (1,)


def test_best_precision_and_best_recall_may_come_from_different_references() -> None:
    """Both references count with what they are best at: precision 2/3, recall 1."""
    expected = 100 * 2.44 * (2 / 3) / (1 + 1.44 * (2 / 3))
    mean, _ = rouge_l(["a red bus"], [["red bus stops here", "bus"]])
    assert abs(mean - expected) < 1e-9


def test_nothing_shared_and_nothing_said() -> None:
    """Both score 0."""
    assert rouge_l(["dog", ""], [["cat"], ["cat"]])[1].tolist() == [0.0, 0.0]


words = st.lists(st.sampled_from("abc"), max_size=7)


@given(words, words)
def test_subsequence_twin(left: list[str], right: list[str]) -> None:
    """The row-wise algorithm agrees with the recursive definition."""

    def plain(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + plain(a[1:], b[1:])
        return max(plain(a[1:], b), plain(a, b[1:]))

    assert longest_common_subsequence(left, right) == plain(left, right)
