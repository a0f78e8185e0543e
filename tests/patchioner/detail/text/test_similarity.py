from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.detail.text import similarity_matrix, similarity_to, word_weights

SENTENCES = [
    "A red bus.",
    "The bus is red.",
    "A bus on a road.",
    "Two cats sleep.",
    "It is.",
    "It is!",
]


def slow(one: str, other: str) -> float:
    """The definition, word by word."""
    left, right = word_weights(one), word_weights(other)
    if one.casefold().strip(" .") == other.casefold().strip(" ."):
        return 1.0
    shared = sum(min(left[word], right[word]) for word in set(left) & set(right))
    if not shared:
        return 0.0
    either = sum(max(left.get(word, 0.0), right.get(word, 0.0)) for word in set(left) | set(right))
    return 0.5 * shared / either + 0.5 * shared / min(sum(left.values()), sum(right.values()))


@given(st.lists(st.sampled_from(SENTENCES), max_size=6))
def test_equals_the_slow_twin(sentences: list[str]) -> None:
    found = similarity_matrix(sentences)
    assert found.shape == (len(sentences), len(sentences)) and found.dtype == np.float64
    expected = [[slow(one, other) for other in sentences] for one in sentences]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), atol=1e-12)
    assert np.array_equal(found, found.T)


def test_same_words_are_the_same_and_none_in_common_is_nothing() -> None:
    found = similarity_matrix(SENTENCES)
    assert found[0, 1] == pytest.approx(1.0)
    assert 0 < found[0, 2] < 0.6
    assert found[0, 3] == 0.0 and found[4, 5] == 0.0


def test_embeddings_are_blended_in() -> None:
    def embed(sentences: object) -> np.ndarray:
        return np.array([[1.0, 0.0], [0.0, 2.0]])

    plain = similarity_matrix(SENTENCES[:2])
    blended = similarity_matrix(SENTENCES[:2], embed=embed, share=0.25)
    assert blended[0, 1] == pytest.approx(0.75 * plain[0, 1])
    assert blended[0, 0] == 1.0
    assert similarity_to(SENTENCES[:2], [], embed=embed).shape == (2, 0)


def test_a_share_outside_of_its_range_is_refused() -> None:
    with pytest.raises(OptionError, match=r"share .* 1.5"):
        similarity_matrix(["a cat"], share=1.5)
