from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.text import split_sentences


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
