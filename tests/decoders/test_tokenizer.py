"""The tokenizer: round trips, special tokens, damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoders import CaptionTokenizer
from patchioner.base.errors import CheckpointError, OptionError

TOKENIZER = CaptionTokenizer.train(["a red bus", "a red car", "the bus"] * 3, vocab_size=280)


@given(st.text(alphabet="abc é猫!'<>\n", max_size=20))
def test_round_trip_is_lower_case_with_single_blanks(text: str) -> None:
    tidy = " ".join(text.split())
    assert TOKENIZER.decode(TOKENIZER.encode([text])[0]) == tidy


def test_case_does_not_matter() -> None:
    assert TOKENIZER.encode(["A Red BUS"]) == TOKENIZER.encode(["a red bus"])


def test_a_word_has_the_same_tokens_at_the_start_and_inside() -> None:
    bus, a_bus = TOKENIZER.encode(["bus", "the bus"])
    assert a_bus[-len(bus) :] == bus


def test_special_tokens_are_neither_read_nor_written() -> None:
    ids = TOKENIZER.encode(["a <end> b"])[0]
    assert not set(ids) & set(TOKENIZER.special_ids)
    assert TOKENIZER.decode([TOKENIZER.start_id, *ids, TOKENIZER.end_id]) == "a <end> b"
    assert {TOKENIZER.token_texts()[i] for i in TOKENIZER.special_ids} == {""}


def test_token_texts_join_to_the_text() -> None:
    texts = TOKENIZER.token_texts()
    assert "".join(texts[i] for i in TOKENIZER.encode(["the red bus"])[0]) == " the red bus"


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(["a <end> bus"]) == TOKENIZER.encode(["a <end> bus"])
    assert loaded.vocab_size == TOKENIZER.vocab_size


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(OptionError, match="vocab_size is 100"):
        CaptionTokenizer.train(["a"], vocab_size=100)


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}'])
def test_missing_or_damaged_file_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        CaptionTokenizer.load(path)


def test_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    path.write_text(path.read_text().replace("<start>", "<begin>"))
    with pytest.raises(CheckpointError, match="<start>"):
        CaptionTokenizer.load(path)
