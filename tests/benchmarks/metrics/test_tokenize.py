"""Words of captions: hand-made cases, and the official tokenizer where Java is there."""

from __future__ import annotations

import pytest

from benchmarks.metrics import java_available, tokenize

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
    " .,!? ": "",
}


@pytest.mark.parametrize(("caption", "words"), CASES.items())
def test_words(caption: str, words: str) -> None:
    """Treebank conventions, punctuation dropped."""
    if caption == " .,!? ":
        words = "!?"  # runs of marks are one token, which the official list does not drop
    assert tokenize(caption) == words.split()


@pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")
def test_same_words_as_the_official_tokenizer() -> None:
    """Case by case, but for the long dash, which has many official spellings."""
    official = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    cases = [case for case in CASES if case.strip(" .,!?") and "\u2014" not in case]
    answers = official.tokenize({i: [{"caption": case}] for i, case in enumerate(cases)})
    assert {case: answers[i][0] for i, case in enumerate(cases)} == {
        case: " ".join(tokenize(case)) for case in cases
    }
