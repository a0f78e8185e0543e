"""BLEU: cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.metrics import bleu
from patchioner.base.errors import OptionError


def test_perfect() -> None:
    """Equal captions score 100 at every order they are long enough for."""
    corpus, samples = bleu(["a red bus stops"], [["a red bus stops"]])
    assert corpus == pytest.approx([100.0] * 4)
    assert samples.shape == (1, 4)


def test_clipping() -> None:
    """The classic: seven times "the" matches twice, 2/7."""
    corpus, _ = bleu(["the the the the the the the"],
                     [["the cat is on the mat", "there is a cat on the mat"]],
                     max_order=1)  # fmt: skip
    assert corpus == pytest.approx([100 * 2 / 7], rel=1e-6)


def test_brevity_penalty_uses_the_closest_reference() -> None:
    """2 words against 3 and 6: exp(1 - 3/2)."""
    corpus, _ = bleu(["red bus"], [["red bus stops", "the red bus stops here now"]], max_order=1)
    assert corpus[0] == pytest.approx(100 * math.exp(1 - 3 / 2), rel=1e-6)


def test_corpus_pools_counts() -> None:
    """1 of 1 and 0 of 3 words right is 1/4 for the set, not the mean of 1 and 0."""
    corpus, samples = bleu(["red", "x y z"], [["red"], ["a b c"]], max_order=1)
    assert corpus[0] == pytest.approx(25.0, rel=1e-6)
    assert samples[:, 0] == pytest.approx([100.0, 0.0], abs=1e-6)


def test_empty_caption() -> None:
    """Scores 0, stays finite."""
    corpus, samples = bleu(["", "a b"], [["a"], ["a b"]])
    assert np.isfinite(corpus).all()
    assert samples[0] == pytest.approx([0.0] * 4)


def test_error() -> None:
    """Lists that do not pair are refused."""
    with pytest.raises(OptionError, match="2 predictions"):
        bleu(["a", "b"], [["a"]])
