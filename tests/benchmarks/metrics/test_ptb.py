"""The Stanford tokenizer: the package's words, and none of the package's slips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.metrics import java_available, tokenize
from benchmarks.metrics.java import JavaError
from benchmarks.metrics.ptb import ptb_tokenize

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")


@needs_java
def test_same_words_as_the_package(dev_captions: list[list[str]]) -> None:
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    captions = [text for group in dev_captions for text in group]
    theirs = module.PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    assert [" ".join(words) for words in ptb_tokenize(captions)] == [
        theirs[i][0] for i in range(len(captions))
    ]


@needs_java
def test_difference_to_our_tokenizer_on_real_captions(dev_captions: list[list[str]]) -> None:
    """Measured: none of 605 differ here, 28 of 72,349 training captions; the bound leaves room for new data."""
    captions = [text for group in dev_captions for text in group]
    official = ptb_tokenize(captions)
    differ = sum(words != tokenize(text) for words, text in zip(official, captions, strict=True))
    assert differ <= 0.002 * len(captions)


@needs_java
def test_line_ends_and_empty_captions_shift_nothing() -> None:
    captions = ["a\u2028red\rbus", "", "caf\u00e9 \u2603 \ud83d", "x\x0by\x85z", "", ""]
    words = ptb_tokenize(captions)
    assert len(words) == len(captions)
    assert words[0] == ["a", "red", "bus"]
    assert words[2][0] == "caf\u00e9"
    assert words[3:] == [["x", "y", "z"], [], []]


def test_nothing_to_do_needs_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert ptb_tokenize(["", " \n"]) == [[], []]
    assert ptb_tokenize([]) == []


def test_too_few_lines(fake_java: Callable[[str], Path]) -> None:
    fake_java("print('a dog')")
    with pytest.raises(JavaError, match="1 lines for 2 captions"):
        ptb_tokenize(["a dog", "a cat"])
