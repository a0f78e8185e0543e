from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.text import canonical, content_words, has_finite_verb, noun_phrases


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


def test_words_of_one_meaning_become_one() -> None:
    assert content_words("a sofa") == content_words("A couch.")
    assert canonical("bike") == canonical("bicycle")


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


def test_a_callers_change_reaches_nobody_else() -> None:
    noun_phrases("A red bus.").clear()
    assert len(noun_phrases("A red bus.")) == 1


@pytest.mark.parametrize(
    ("sentence", "finite"),
    [
        ("A man rides a horse.", True),
        ("A man riding a horse.", False),
        ("There is a cat.", True),
        ("A red bus on a street.", False),
    ],
)
def test_finite_verbs(sentence: str, finite: bool) -> None:
    assert has_finite_verb(sentence) is finite
