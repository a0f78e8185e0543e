"""Words, stems, BLEU, CIDEr-D, ROUGE-L, stem-F: by hand, plain twins, the official programs where both are the same."""

from __future__ import annotations

import math
import random
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks.metrics import Meteor, bleu, cider, rouge_l, stem_f, tokenize
from benchmarks.metrics.caption import stem
from patchioner.base.errors import OptionError


def test_by_hand() -> None:
    """On any words these three equal the official programs (test_official.py); here is what the numbers mean."""
    # Two words against three (the closest) and six; pooled, 1 of 1 and 0 of 3 words is 1/4, not the mean of 1 and 0.
    for said, due, expected in (
        (["red bus"], [["red bus stops", "the red bus stops here now"]], 100 * math.exp(-0.5)),
        (["red", "x y z"], [["red"], ["a b c"]], 25.0),
    ):
        assert bleu(said, due)[0][0] == pytest.approx(expected, rel=1e-6)
    # Two words have no 3-grams, idf is log 2, the unigram cosine 1/2; nothing is rare in a set of one.
    assert cider(["red bus", "x"], [["red car"], ["blue sky"]])[1] == pytest.approx([125, 0])
    # Weights 3w and w: clipped product w * w over 3w * w; lengths in bigrams differ by 2: exp(-4 / 72).
    scores = cider(["red red red", "x"], [["red"], ["blue"]])[1]
    assert scores == pytest.approx([250 * math.exp(-4 / 72) / 3, 0])
    assert cider(["a dog"], [["a dog"]])[0] == 0
    # Each reference with what it is best at: precision 2/3 and recall 1.
    (score,) = rouge_l(["a red bus"], [["red bus stops here", "bus"]])[1]
    assert score == pytest.approx(100 * 2.44 * 2 / 3 / (1 + 1.44 * 2 / 3))


def test_cider_with_a_fixed_idf() -> None:
    """A subset scores what it scores in the full set, and each different text is counted once."""
    words = Mock(wraps=str.split)
    said = ["a red bus stops", "two dogs run", "a cat"]
    due = [["a red bus is here"], ["two dogs", "dogs run away"], ["the cat sleeps"]]
    _, full = cider(said, due)
    _, again = cider(said * 5, due * 5, tokenizer=words, idf_from=due)
    assert again == pytest.approx(np.tile(full, 5))
    seen = [call.args[0] for call in words.call_args_list]
    assert sorted(seen) == sorted([*said, *(text for group in due for text in group)])
    assert cider(said[:1], due[:1], idf_from=due)[1] == pytest.approx(full[:1])


def test_lists_that_do_not_pair() -> None:
    for said, due, message in (
        (["a"], [["a"], ["b"]], "1 predictions for 2"), ([], [], "nothing to score"),
        (["a"], [[]], r"references\[0\] is empty"), (["a"], ["a dog"], "a dog"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            cider(said, due)


@pytest.mark.parametrize(
    ("said", "due", "expected"),
    [
        # Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1, two chunks of two matches: penalty 0.6.
        ("a red bus stops here", ["a bus"], 40 * (4 / 13) / (0.85 * 4 / 13 + 0.15)),
        ("dogs", ["dog"], 60.0),  # a stem weighs 0.6; one chunk and nothing left over: no penalty
        ("bus red", ["red bus"], 40.0),
        ("a dog", ["cat", "a dog"], 100.0),
        ("", ["a"], 0.0), ("x", ["y", ""], 0.0),
    ],
)  # fmt: skip
def test_stem_f_by_hand(said: str, due: list[str], expected: float) -> None:
    assert stem_f([said], [due])[0] == pytest.approx(expected)


def test_stem_f_and_meteor(meteor: Meteor, dev_captions: list[list[str]]) -> None:
    """Equal for made-up words, which have no synonyms; near on real captions (correlation 0.95)."""
    draw = random.Random(0)
    words = ["zorp", "blick", "vamta", "drupo", "kelm", "the", "of", "wugk", "tofna", "plirk"]
    said = [" ".join(draw.sample(words, k=draw.randint(1, 10))) for _ in range(200)]
    due = [[" ".join(draw.sample(words, k=draw.randint(1, 10)))] for _ in said]
    np.testing.assert_allclose(stem_f(said, due)[1], meteor.score(said, due)[1], atol=1e-9)
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    ours, official = stem_f(said, due)[1], meteor.score(said, due)[1]
    assert np.corrcoef(ours, official)[0, 1] > 0.93
    assert abs(ours.mean() - official.mean()) < 3


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man riding a wave.", "a man riding a wave"),
        ("It's a dog's life; don't!", "it 's a dog 's life do n't"),
        ("a t-shirt, black-and-white", "a t-shirt black-and-white"), ('a "stop" sign', "a stop sign"),
        ("they've, he'll, I'm, I'd", "they 've he 'll i 'm i 'd"), ("cannot", "can not"),
        ("1,000 at 10:30, 3/4 of 2.5", "1,000 at 10:30 3/4 of 2.5"),
        ("St. Peter in the U.S. with Mr. Smith", "st. peter in the u.s. with mr. smith"),
        ("50% off $5", "50 % off $ 5"), ("two (2) cats", "two -lrb- 2 -rrb- cats"),
        ("the dogs' toys", "the dogs toys"), ("five o'clock -- now...", "five o'clock now"),
        ("a caf\u00e9 \u2014 it\u2019s", "a caf\u00e9 \u2014 it 's"), ("salt &amp; pepper", "salt & pepper"),
        ("", ""), (" .,!? ", "!?"),  # runs of marks are one token, which the official list does not drop
    ],
)  # fmt: skip
def test_words(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


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
