from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.text import (
    content_words,
    noun_phrases,
    similarity_matrix,
    split_sentences,
    word_weights,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ... \n", []),
        ("a man riding a horse", ["a man riding a horse"]),
        ("A dog. A cat!  Is it? Yes.", ["A dog.", "A cat!", "Is it?", "Yes."]),
        ("a dog runs. it is brown.", ["a dog runs.", "it is brown."]),
        ("It weighs 4.5 kg. It is red.", ["It weighs 4.5 kg.", "It is red."]),
        ("Mr. Smith sits, e.g. on a bench.", ["Mr. Smith sits, e.g. on a bench."]),
        ("Pots, pans, etc. A sink.", ["Pots, pans, etc.", "A sink."]),
        ("J. Smith waves.", ["J. Smith waves."]),
        ("It is 4 p.m. on a clock.", ["It is 4 p.m. on a clock."]),
        ("Well ... a dog.", ["Well ... a dog."]),
        ('The sign reads "STOP. GO." It is red.', ['The sign reads "STOP. GO."', "It is red."]),
        ("It says \u201cHi. You.\u201d It is red.", ["It says \u201cHi. You.\u201d", "It is red."]),
        ('A 5" screen. A desk.', ['A 5" screen.', "A desk."]),
    ],
)
def test_prose(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "You can observe the following key elements: 1. A cat: It is black. 2. Two dogs\n3. A bed;",
            [
                "You can observe the following key elements:",
                "A cat.",
                "It is black.",
                "Two dogs.",
                "A bed.",
            ],
        ),
        ("1) A cat 2) A dog", ["A cat.", "A dog."]),
        ("1. A cat.\n2. A dog.\nIt is day.", ["A cat.", "A dog.", "It is day."]),
        ("- A cat\n- A dog", ["A cat.", "A dog."]),
        ("I see: - A cat.\n- A dog.", ["I see:", "A cat.", "A dog."]),
        (
            "1. **Rug**: There is a rug. 2. **Bed**: It is white.",
            ["Rug.", "There is a rug.", "Bed.", "It is white."],
        ),
        ("### Scene\nA cat sits.", ["Scene", "A cat sits."]),
        ("There are 2. It is a pair.", ["There are 2.", "It is a pair."]),
        ("A well-lit room - with a bed.", ["A well-lit room - with a bed."]),
    ],
)
def test_lists(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.text(alphabet="aB1. \n\"!?-*:,'", max_size=60))
def test_no_letter_is_lost_and_no_sentence_is_empty(text: str) -> None:
    found = split_sentences(text)
    assert all(
        sentence.strip() == sentence and any(map(str.isalnum, sentence)) for sentence in found
    )
    letters = [letter for letter in text if letter.isalpha()]
    assert [letter for sentence in found for letter in sentence if letter.isalpha()] == letters


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
    assert similarity_matrix(SENTENCES[:2], [], embed=embed).shape == (2, 0)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("", set()),
        ("It is in the image.", set()),
        ("Two women sit on the sofas.", {"two", "woman", "sit", "couch"}),
        ("The photo shows 2 grey buses.", {"two", "grey", "bus"}),
        ("The sky suggests rain.", {"sky", "rain"}),
    ],
)
def test_content_words(sentence: str, expected: set[str]) -> None:
    assert content_words(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "A man in a red and white shirt holds two tennis rackets.",
            [
                ("man", "man", (), "A man"),
                ("shirt", "shirt", ("red", "white"), "a red and white shirt"),
                ("racket", "tennis racket", ("two",), "two tennis rackets"),
            ],
        ),
        ("The bus is red.", [("bus", "bus", ("red",), "The bus")]),
        (
            "Red buses pass a bus.",
            [("bus", "bus", ("red",), "Red buses"), ("bus", "bus", (), "a bus")],
        ),
        ("It is there.", []),
    ],
)
def test_noun_phrases(sentence: str, expected: list[tuple[str, str, tuple[str, ...], str]]) -> None:
    found = noun_phrases(sentence)
    assert [(one.head, one.name, one.attributes, one.text) for one in found] == expected


@given(st.text(alphabet="aeinrst -',.AR29", max_size=60))
def test_phrases_lie_in_their_sentence_one_after_the_other(sentence: str) -> None:
    end = 0
    for phrase in noun_phrases(sentence):
        assert sentence[phrase.start : phrase.end] == phrase.text
        assert end <= phrase.start < phrase.end
        end = phrase.end
