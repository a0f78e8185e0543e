"""Our BLEU, ROUGE-L and CIDEr are the official ones: the same numbers on the same words, to 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.metrics import Meteor, bleu, cider, java_available, rouge_l
from benchmarks.metrics.official import (
    official_bleu,
    official_cider,
    official_meteor,
    official_rouge_l,
    ptb_pairs,
)
from patchioner.base.errors import OptionError

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")

TOLERANCE = 1e-9 * 100
"""1e-9 on the scale of the formulas; scores are times 100."""

words = st.lists(
    st.sampled_from(["a", "red", "bus", "dog", "on", "the", "'s", "-lrb-", "t-shirt"]), max_size=8
)
captions = words.map(" ".join)
# Both sides empty is the one case in which the official ROUGE-L differs: see its docstring.
references = st.lists(words.filter(bool).map(" ".join), min_size=1, max_size=4)
corpora = st.lists(st.tuples(captions, references), min_size=1, max_size=6)


def check_equal(said: list[str], due: list[list[str]]) -> None:
    ours, theirs = (
        bleu(said, due, tokenizer=str.split),
        official_bleu(said, due, tokenized=True),
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=TOLERANCE)
    for metric, official in ((rouge_l, official_rouge_l), (cider, official_cider)):
        mean, scores = metric(said, due, tokenizer=str.split)
        official_mean, official_scores = official(said, due, tokenized=True)
        np.testing.assert_allclose(scores, official_scores, rtol=0, atol=TOLERANCE)
        assert mean == pytest.approx(official_mean, rel=0, abs=TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(corpora)
def test_equal_on_any_words(pairs: list[tuple[str, list[str]]]) -> None:
    check_equal([said for said, _ in pairs], [due for _, due in pairs])


@needs_java
def test_equal_on_real_captions(dev_captions: list[list[str]]) -> None:
    """Own references held out, and those of the next photo: near and far captions."""
    for said in ([g[0] for g in dev_captions], [g[0] for g in dev_captions[1:] + dev_captions[:1]]):
        check_equal(*ptb_pairs(said, [group[1:] for group in dev_captions]))


@needs_java
def test_whole_chain_without_java_gives_the_official_figures(dev_captions: list[list[str]]) -> None:
    """Tokenizers included: the stated bound is 0.05 of a point on the scale of papers; measured, 0."""
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    assert bleu(said, due)[0] == pytest.approx(official_bleu(said, due)[0], abs=0.05)
    assert rouge_l(said, due)[0] == pytest.approx(official_rouge_l(said, due)[0], abs=0.05)
    assert cider(said, due)[0] == pytest.approx(official_cider(said, due)[0], abs=0.05)


def test_the_one_known_difference() -> None:
    """Nothing said where nothing is due: the official ROUGE-L gives full marks."""
    assert official_rouge_l([""], [[""]], tokenized=True)[0] == 100.0
    assert rouge_l([""], [[""]])[0] == 0.0


def test_no_word_in_any_reference() -> None:
    """The published CIDEr code fails there; ours says 0 on both sides."""
    assert official_cider(["a", ""], [[""], [""]], tokenized=True)[1].tolist() == [0.0, 0.0]
    assert cider(["a", ""], [[""], [""]])[1].tolist() == [0.0, 0.0]


@needs_java
def test_meteor_after_the_tokenizer(meteor: Meteor) -> None:
    corpus, samples = official_meteor(["A red bus!"], [["a red bus"]], meteor=meteor)
    assert corpus == samples[0] == 100.0


@needs_java
def test_pairs_come_back_in_order() -> None:
    said, due = ptb_pairs(["A dog.", ""], [["The dog!", ""], ["a cat", "b", "c"]])
    assert said == ["a dog", ""]
    assert due == [["the dog", ""], ["a cat", "b", "c"]]


@pytest.mark.parametrize("metric", [official_bleu, official_cider, official_rouge_l])
def test_without_java(metric: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain captions need it, and the error says what else there is; words do not."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert callable(metric)
    with pytest.raises(OptionError, match="Java-free"):
        metric(["a"], [["a"]])
    metric(["a"], [["a"]], tokenized=True)
