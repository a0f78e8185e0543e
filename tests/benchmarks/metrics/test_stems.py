"""Stems: the examples of Porter's paper for step 1, and forms that captions use."""

from __future__ import annotations

import pytest

from benchmarks.metrics.stems import stem

# Porter (1980): the words given for steps 1a, 1b and 1c, and what those steps make of them.
PAPER = {
    "caresses": "caress", "ponies": "poni", "ties": "ti", "caress": "caress", "cats": "cat", "feed": "feed",
    "agreed": "agree", "plastered": "plaster", "bled": "bled", "motoring": "motor", "sing": "sing",
    "conflated": "conflate", "troubled": "trouble", "sized": "size", "hopping": "hop", "tanned": "tan",
    "falling": "fall", "hissing": "hiss", "fizzed": "fizz", "failing": "fail", "filing": "file", "happy": "happi",
    "sky": "sky",
}  # fmt: skip


@pytest.mark.parametrize(("word", "expected"), PAPER.items())
def test_paper(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(
    "forms",
    [
        ("dog", "dogs"), ("ride", "rides", "riding"), ("stop", "stops", "stopped", "stopping"),
        ("puppy", "puppies"), ("surf", "surfs", "surfing", "surfed"), ("sit", "sits", "sitting"),
        ("play", "plays", "playing", "played"),
    ],
)  # fmt: skip
def test_forms_of_one_word_share_a_stem(forms: tuple[str, ...]) -> None:
    assert len({stem(form) for form in forms}) == 1


@pytest.mark.parametrize("word", ["", "a", "is", "n't", "t-shirt", "1920s", "-lrb-", "caf\u00e9s"])
def test_what_is_no_plain_word_stays(word: str) -> None:
    assert stem(word) == word


def test_different_words_stay_different() -> None:
    assert (
        len({stem(word) for word in ("bus", "busy", "buses", "red", "read", "wave", "water")}) == 7
    )
