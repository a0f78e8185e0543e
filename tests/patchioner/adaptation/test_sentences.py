"""Choosing and cleaning sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.adaptation.sentences import caption_like, clean_corpus, normalise
from patchioner.base.errors import TextError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Man riding a wave .", "a man riding a wave"),
        ("  two\tdogs ,\n one cat!  ", "two dogs, one cat!"),
        ("It 's a dog. A cat.", "it's a dog. a cat"),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalising(text: str, expected: str) -> None:
    assert normalise(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1 .,;:!?'\t\n-É"), max_size=30))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_cleaning_keeps_order_drops_repeats_and_odd_lengths() -> None:
    texts = ["A red bus here.", "a cat", "a red  bus here", "one two three four five", "a b c d"]
    assert clean_corpus(texts, shortest=4, longest=4) == ["a red bus here", "a b c d"]


STYLE = ["a dog on a beach", "a cat on a sofa", "a dog near a cat"]
MIXED = [
    "call this method before the deadline",
    "a dog on a sofa",
    "the committee met in vienna",
    "a cat near a beach",
]


def test_sentences_of_the_wanted_style_are_kept_in_order() -> None:
    assert caption_like(MIXED, STYLE, 2) == ["a dog on a sofa", "a cat near a beach"]
    assert caption_like(MIXED, STYLE, 99) == MIXED


def test_the_choice_equals_a_plain_twin() -> None:
    """Moore-Lewis scores with counts taken by hand."""

    def grams(text: str) -> list[str]:
        words = text.split()
        pairs = list(zip(["<", *words], [*words, ">"], strict=True))
        return words + [f"{a} {b}" for a, b in pairs]

    inside = [gram for text in STYLE for gram in grams(text)]
    outside = [gram for text in MIXED for gram in grams(text)]

    def score(text: str) -> float:
        ratios = [
            math.log(
                (inside.count(g) + 0.1) / len(inside) / ((outside.count(g) + 1) / len(outside))
            )
            for g in grams(text)
        ]
        return sum(ratios) / len(ratios)

    for keep in range(1, 4):
        best = sorted(MIXED, key=score, reverse=True)[:keep]
        assert set(caption_like(MIXED, STYLE, keep)) == set(best)


@pytest.mark.parametrize(("texts", "examples"), [([], STYLE), (MIXED, [])])
def test_a_corpus_without_words_is_refused(texts: list[str], examples: list[str]) -> None:
    with pytest.raises(TextError, match="hold no word"):
        caption_like(texts, examples, 2)
