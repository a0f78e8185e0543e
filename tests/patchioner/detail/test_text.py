from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.values import (
    content_words,
    similarity_matrix,
    split_sentences,
    word_weights,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ... \n", []),
        ("a man riding a horse", ["a man riding a horse"]),
        ("A dog. A cat!  Is it? it is.", ["A dog.", "A cat!", "Is it?", "it is."]),
        ("It weighs 4.5 kg. It is red.", ["It weighs 4.5 kg.", "It is red."]),
        ("Mr. Smith sits, e.g. on a bench.", ["Mr. Smith sits, e.g. on a bench."]),
        ("Pots, pans, etc. A sink.", ["Pots, pans, etc.", "A sink."]),
        ("J. Smith waves.", ["J. Smith waves."]),
        ("It is 4 p.m. on a clock.", ["It is 4 p.m. on a clock."]),
        ("Well ... a dog.", ["Well ... a dog."]),
        ('The sign reads "STOP. GO." It is red.', ['The sign reads "STOP. GO."', "It is red."]),
        ("It says \u201cHi. You.\u201d It is red.", ["It says \u201cHi. You.\u201d", "It is red."]),
        ('A 5" screen. A desk.', ['A 5" screen.', "A desk."]),
        ("Key elements: 1. A cat: It is black. 2. Two dogs\n3. A bed;",
         ["Key elements:", "A cat.", "It is black.", "Two dogs.", "A bed."]),
        ("1) A cat 2) A dog", ["A cat.", "A dog."]),
        ("1. A cat.\n2. A dog.\nIt is day.", ["A cat.", "A dog.", "It is day."]),
        ("I see: - A cat\n- A dog", ["I see:", "A cat.", "A dog."]),
        ("1. **Rug**: There is a rug. 2. **Bed**: It is white.",
         ["Rug.", "There is a rug.", "Bed.", "It is white."]),
        ("### Scene\nA cat sits.", ["Scene", "A cat sits."]),
        ("There are 2. It is a pair.", ["There are 2.", "It is a pair."]),
        ("A well-lit room - with a bed.", ["A well-lit room - with a bed."]),
    ],
)  # fmt: skip
def test_prose_and_lists_become_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.text(alphabet="aB1. \n\"!?-*:,'", max_size=60))
def test_no_letter_is_lost_and_no_sentence_is_empty(text: str) -> None:
    found = split_sentences(text)
    assert all(one.strip() == one and any(map(str.isalnum, one)) for one in found)
    letters = [letter for letter in text if letter.isalpha()]
    assert [letter for sentence in found for letter in sentence if letter.isalpha()] == letters


SENTENCES = [
    "A red bus.", "The bus is red.", "A bus on a road.", "Two cats sleep.", "It is.", "It is!"
]  # fmt: skip


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
def test_similarity_equals_the_slow_twin(sentences: list[str]) -> None:
    found = similarity_matrix(sentences)
    expected = [[slow(one, other) for other in sentences] for one in sentences]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), atol=1e-12)
    assert found.shape == (len(sentences), len(sentences))


def test_same_words_are_the_same_and_none_in_common_is_nothing() -> None:
    found = similarity_matrix(SENTENCES)
    assert found[0, 1] == pytest.approx(1.0)
    assert 0 < found[0, 2] < 0.6
    assert found[0, 3] == 0.0 and found[4, 5] == 0.0


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("It is in the image.", set()),
        ("Two women sit on the sofas.", {"two", "woman", "sit", "couch"}),
        ("The photo shows 2 grey buses.", {"two", "grey", "bus"}),
        ("The sky suggests rain.", {"sky", "rain"}),
    ],
)
def test_content_words(sentence: str, expected: set[str]) -> None:
    assert content_words(sentence) == expected
