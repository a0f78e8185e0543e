import math
import random
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks.metrics import Meteor, bleu, cider, rouge_l, stem_f, tokenize
from benchmarks.metrics.caption import stem
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import cases

WORDS = cases("words")


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


def test_stem_f_by_hand() -> None:
    for said, due, expected in (
        # Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1, two chunks of two matches: penalty 0.6.
        ("a red bus stops here", ["a bus"], 40 * (4 / 13) / (0.85 * 4 / 13 + 0.15)),
        ("dogs", ["dog"], 60.0),  # a stem weighs 0.6; one chunk and nothing left over: no penalty
        ("bus red", ["red bus"], 40.0), ("a dog", ["cat", "a dog"], 100.0), ("", ["a"], 0.0), ("x", ["y", ""], 0.0),
    ):  # fmt: skip
        assert stem_f([said], [due])[0] == pytest.approx(expected)


def test_stem_f_and_meteor(meteor: Meteor, dev_captions: list[list[str]]) -> None:
    """Equal for made-up words, which have no synonyms; near on real captions (correlation 0.95)."""
    draw = random.Random(0)
    words = ["zorp", "blick", "vamta", "drupo", "kelm", "the", "of", "wugk", "tofna", "plirk"]
    said, made = ([" ".join(draw.sample(words, k=draw.randint(1, 10))) for _ in range(200)] for _ in range(2))
    due = [[text] for text in made]
    np.testing.assert_allclose(stem_f(said, due)[1], meteor.score(said, due)[1], atol=1e-9)
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    ours, official = stem_f(said, due)[1], meteor.score(said, due)[1]
    assert np.corrcoef(ours, official)[0, 1] > 0.93
    assert abs(ours.mean() - official.mean()) < 3


def test_words() -> None:
    found = {caption: " ".join(tokenize(caption)) for caption in WORDS["tokens"]}
    assert found == WORDS["tokens"]


def test_stems() -> None:
    assert {word: stem(word) for word in WORDS["porter"]} == WORDS["porter"]
    for forms in WORDS["one_stem"]:
        assert len(set(map(stem, forms))) == 1, forms
    for word in ("", "a", "is", "n't", "t-shirt", "1920s", "-lrb-", "caf\u00e9s"):
        assert stem(word) == word, "no plain word"
    assert len(set(map(stem, ["bus", "busy", "buses", "red", "read", "wave", "water"]))) == 7
