"""Words and stems: hand-made cases, Porter's examples, the official tokenizer where Java is there."""

from __future__ import annotations

import pytest

from benchmarks.metrics import java_available, tokenize
from benchmarks.metrics.caption import stem

CASES = {
    "A man riding a wave.": "a man riding a wave",
    "It's a dog's life; don't!": "it 's a dog 's life do n't",
    "a t-shirt, black-and-white": "a t-shirt black-and-white",
    'a "stop" sign': "a stop sign",
    "they've, he'll, I'm, I'd": "they 've he 'll i 'm i 'd",
    "cannot": "can not",
    "1,000 at 10:30, 3/4 of 2.5": "1,000 at 10:30 3/4 of 2.5",
    "St. Peter in the U.S. with Mr. Smith": "st. peter in the u.s. with mr. smith",
    "50% off $5": "50 % off $ 5",
    "two (2) cats": "two -lrb- 2 -rrb- cats",
    "the dogs' toys": "the dogs toys",
    "five o'clock -- now...": "five o'clock now",
    "a caf\u00e9 \u2014 it\u2019s": "a caf\u00e9 \u2014 it 's",
    "salt &amp; pepper": "salt & pepper",
    "": "",
    " .,!? ": "!?",  # runs of marks are one token, which the official list does not drop
}


@pytest.mark.parametrize(("caption", "words"), CASES.items())
def test_words(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


@pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")
def test_same_words_as_the_official_tokenizer() -> None:
    """Case by case, but for the long dash, which has many official spellings."""
    official = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    cases = [case for case in CASES if case.strip(" .,!?") and "\u2014" not in case]
    answers = official.tokenize({i: [{"caption": case}] for i, case in enumerate(cases)})
    assert [answers[i][0] for i in range(len(cases))] == [" ".join(tokenize(c)) for c in cases]


# Porter (1980): words given for steps 1a, 1b and 1c, and what those steps make of them.
PAPER = """
caresses caress, ponies poni, ties ti, caress caress, cats cat, feed feed, agreed agree, plastered plaster, bled bled,
motoring motor, sing sing, conflated conflate, troubled trouble, sized size, hopping hop, tanned tan, falling fall,
hissing hiss, fizzed fizz, failing fail, filing file, happy happi, sky sky
"""
FORMS = "dog dogs, ride rides riding, stop stops stopped stopping, puppy puppies, surf surfs surfing surfed, sit sits sitting"  # noqa: E501


def test_stems() -> None:
    for line in PAPER.split(","):
        word, expected = line.split()
        assert stem(word) == expected
    for forms in FORMS.split(","):
        assert len(set(map(stem, forms.split()))) == 1, forms
    for word in ("", "a", "is", "n't", "t-shirt", "1920s", "-lrb-", "caf\u00e9s"):
        assert stem(word) == word, "no plain word"
    assert len(set(map(stem, ["bus", "busy", "buses", "red", "read", "wave", "water"]))) == 7
