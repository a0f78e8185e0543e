"""Tokenizers of language models: words keep their tokens, ends and specials write nothing, ids beyond are banned."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as text_decoders

from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, OptionError
from tests.support.language import END, SENTENCES, language_tokenizer, raw_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> LanguageTokenizer:
    return language_tokenizer()


def metaspace_tokenizer() -> Tokenizer:
    """A tokenizer of Llama's form: the blank is put before the first word by itself."""
    words = ["<s>", "</s>", "<unk>", "▁a", "▁red", "▁bus", "▁x", "bus", "."]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = text_decoders.Metaspace(prepend_scheme="first")
    made.add_special_tokens(["<s>", "</s>", "<unk>"])
    return made


def test_text_comes_back(tokenizer: LanguageTokenizer) -> None:
    for text in (*SENTENCES[:4], "Ünïcode, 24 cm!", "a  b", END):
        assert tokenizer.decode(tokenizer.encode([text])[0]) == " ".join(text.split())


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: LanguageTokenizer) -> None:
    first, inside = tokenizer.encode(["cat", "red cat"])
    assert inside[-len(first) :] == first
    assert tokenizer.encode(["There"], lead=False)[0] != tokenizer.encode(["There"])[0]


def test_ends_and_specials_write_nothing(tokenizer: LanguageTokenizer) -> None:
    ids = tokenizer.encode(["a red cat"])[0]
    assert tokenizer.decode([*ids, tokenizer.end_id]) == "a red cat"
    stop = tokenizer.full_stops()
    assert stop and tokenizer.token_texts()[stop[0]] == "."
    ending = tokenizer.ending_with(stop)
    assert ending.decode([*ids, ending.end_id]) == "a red cat"
    assert ending.unwritable_ids == (0,)  # the end of text is now no more than a special token
    assert tokenizer.unwritable_ids == ()


def test_token_texts_join_to_the_text(tokenizer: LanguageTokenizer) -> None:
    texts = tokenizer.token_texts()
    ids = tokenizer.encode(["a red cat near a boat"])[0]
    assert "".join(texts[i] for i in ids) == " a red cat near a boat"
    assert len(texts) == tokenizer.vocab_size and texts[0] == ""


def test_blanks_of_metaspace_tokenizers_are_seen() -> None:
    tokenizer = LanguageTokenizer(metaspace_tokenizer())
    assert tokenizer.end_id == 1 and tokenizer.unwritable_ids == (0, 2)
    assert tokenizer.encode(["a red bus"]) == [[3, 4, 5]]
    assert tokenizer.token_texts() == ["", "", "", " a", " red", " bus", " x", "bus", "."]
    assert tokenizer.decode([3, 4, 5, 1]) == "a red bus"


def test_ids_that_only_the_network_has_are_never_written() -> None:
    raw = raw_tokenizer()
    size = raw.get_vocab_size()
    tokenizer = LanguageTokenizer(raw, vocab_size=size + 3)
    assert tokenizer.unwritable_ids == (size, size + 1, size + 2)
    assert tokenizer.token_texts()[-3:] == ["", "", ""]
    with pytest.raises(CheckpointError, match="different models"):
        LanguageTokenizer(raw, vocab_size=size - 1)
    with pytest.raises(CheckpointError, match="end_ids"):
        LanguageTokenizer(raw, end_ids=[size])


def test_save_and_load(tokenizer: LanguageTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = LanguageTokenizer.load(path, end_ids=(5, 0))
    assert loaded.end_ids == (5, 0) and loaded.encode(SENTENCES) == tokenizer.encode(SENTENCES)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        LanguageTokenizer.load(path)
    with pytest.raises(CheckpointError, match="missing"):
        LanguageTokenizer.load(tmp_path / "none.json")


def test_the_callers_tokenizer_is_left_as_it_is() -> None:
    raw = raw_tokenizer()
    raw.enable_padding(length=9)
    assert len(LanguageTokenizer(raw).encode(["a"])[0]) == 1
    assert len(raw.encode("a").ids) == 9


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(OptionError, match="fast tokenizer"):
        LanguageTokenizer.of_transformers(object())
