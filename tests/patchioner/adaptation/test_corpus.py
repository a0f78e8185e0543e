"""From lines to sentences: what is kept, merged, left out, held out, and that the log says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from patchioner.adaptation import read_texts
from patchioner.adaptation.corpus import FEWEST, Corpus, clean, gather
from patchioner.adaptation.options import MOST_HELD_OUT
from patchioner.base.errors import TextError


def everything(texts: Sequence[str]) -> list[bool]:
    return [True] * len(texts)


def short(texts: Sequence[str]) -> list[bool]:
    return [len(text.split()) <= 3 for text in texts]


def numbered(count: int, word: str = "mug") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def test_lines_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes("\ufeffa mug\r\n\na\x0cb\u2028c\nan épée".encode())
    assert read_texts(path) == ["a mug", "", "a\x0cb\u2028c", "an épée"]


def test_a_final_newline_is_no_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("a\nb\n", encoding="utf-8")
    assert read_texts(path) == ["a", "b"]


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(TextError, match=path.name):
            read_texts(path)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(TextError, match="latin.txt.*UTF-8"):
        read_texts(path)


def test_cleaning_lowers_merges_and_drops(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "patchioner.adaptation"):
        corpus = clean(["A Mug .", "  ", "a  mug", "", "a bowl", "a mug."], "corpus")
    assert corpus == Corpus(("a mug", "a bowl"), (3, 1))
    assert "2 blank lines" in caplog.text
    assert "2 distinct sentences, 2 repeats merged" in caplog.text


def test_what_is_no_string_is_refused_by_index() -> None:
    with pytest.raises(TextError, match="item 1 is None"):
        clean(["a mug", None], "corpus")  # type: ignore[list-item]


def test_sentences_too_long_are_left_out_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    corpus = clean([*numbered(30), "a very long mug indeed", *numbered(1)], "corpus")
    with caplog.at_level(logging.WARNING, "patchioner.adaptation"):
        found = gather(corpus, None, fits=short, share=0, seed=0)
    assert found == Corpus(tuple(numbered(30)), (2, *[1] * 29))
    assert "left out 1 sentences longer" in caplog.text and "a very long mug" in caplog.text


def test_a_share_is_held_out_by_seed() -> None:
    corpus = clean(numbered(100), "corpus")
    found = [gather(corpus, None, fits=everything, share=0.1, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] and found[0].held_out != found[2].held_out
    assert len(set(found[0].held_out)) == 10 and not found[0].foreign
    assert sorted([*found[0].held_out, *found[0].training]) == list(range(100))


def test_a_small_share_is_at_least_one_and_none_is_none() -> None:
    corpus = clean(numbered(30), "corpus")
    assert len(gather(corpus, None, fits=everything, share=0.001, seed=0).held_out) == 1
    assert gather(corpus, None, fits=everything, share=0, seed=0).held_out == ()


def test_never_more_than_enough_are_held_out() -> None:
    corpus = clean(numbered(3000), "corpus")
    found = gather(corpus, None, fits=everything, share=0.9, seed=0)
    assert len(found.held_out) == MOST_HELD_OUT


def test_a_validation_file_is_held_out_without_what_the_corpus_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus = clean(numbered(30), "corpus")
    validation = clean(["mug 3", *numbered(5, "bowl"), "one two three four"], "validation")
    with caplog.at_level(logging.WARNING, "patchioner.adaptation"):
        found = gather(corpus, validation, fits=short, share=0.5, seed=0)
    assert found.training == list(range(30)) and found.foreign
    assert sorted(found.texts[row] for row in found.held_out) == numbered(5, "bowl")
    assert "left out 1 sentences of the corpus itself" in caplog.text
    assert "validation: left out 1 sentences longer" in caplog.text


def test_too_few_sentences_are_refused() -> None:
    texts = numbered(FEWEST - 1)
    with pytest.raises(TextError, match=f"{FEWEST - 1} distinct usable sentences"):
        gather(clean(texts * 2, "corpus"), None, fits=everything, share=0.1, seed=0)
    gather(clean(numbered(FEWEST), "corpus"), None, fits=everything, share=0.1, seed=0)


def test_a_validation_file_that_adds_nothing_is_refused() -> None:
    corpus = clean(numbered(30), "corpus")
    with pytest.raises(TextError, match="no validation sentence"):
        gather(corpus, clean(["MUG 3."], "validation"), fits=everything, share=0.1, seed=0)
