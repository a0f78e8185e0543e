"""CLIP's BPE: the ids and the text of open_clip's own tokenizer, and a file that needs no open_clip."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoders.tokenizers import END, START, ClipTokenizer
from patchioner.base.errors import CheckpointError, MissingExtraError

open_clip = pytest.importorskip("open_clip")

TEXTS = [
    "A RED  Bus.",
    "don't it's we're I'VE they'll he'd I'm",
    "I’m “quoting” ‘this’ — and that…",
    "café naïve e\u0301 ﬁsh",
    "a &amp; b &lt;tag&gt; &amp;lt;",
    "12 345 6th 3.14 x² ½ Ⅷ",
    "😀 smile 👩‍👩‍👧",
    "日本語 の テスト",
    "مرحبا",
    "İstanbul STRASSE ß",
    "hello\tworld\nfoo\u00a0bar",
    "under_score a-b a/b #tag @you $5 100%",
    "supercalifragilisticexpialidocious",
    "a</w>b <end_of_text_x>",
    "!!! ... ?",
    "  ",
    "",
]


@cache
def _pair() -> tuple[ClipTokenizer, Any]:
    return ClipTokenizer.from_open_clip(), open_clip.tokenizer.SimpleTokenizer()


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    return _pair()[0]


@pytest.fixture(scope="module")
def theirs() -> Any:
    return _pair()[1]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_open_clips(ours: ClipTokenizer, theirs: Any, text: str) -> None:
    ids = theirs.encode(text)
    assert ours.encode([text]) == [ids]
    assert ours.decode(ids) == theirs.decode(ids).strip(" .")


WORDS = "abcdefgh ABC éàç0123456789.,!?'\"-_&;<>()\t\nßñ中文🙂"


@settings(deadline=None)  # the first call makes the tokenizers
@given(st.text(alphabet=WORDS, max_size=60))
def test_ids_of_any_ordinary_text_are_open_clips(text: str) -> None:
    ours, theirs = _pair()
    assert ours.encode([text]) == [theirs.encode(text)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 49405), max_size=30))
def test_any_ids_decode_as_open_clip_decodes_them(ids: list[int]) -> None:
    ours, theirs = _pair()
    assert ours.decode(ids) == theirs.decode(ids).strip(" .")


def test_special_tokens(ours: ClipTokenizer) -> None:
    assert (ours.vocab_size, ours.start_id, ours.end_id, ours.pad_id) == (49408, 49406, 49407, 0)
    assert (ours.special_ids, ours.unwritable_ids) == ((49406, 49407), ())


def test_decoding_cuts_at_the_end_and_strips_as_the_published_evaluation(
    ours: ClipTokenizer,
) -> None:
    words = ours.encode(["a red bus ."])[0]
    assert ours.decode([49406, *words, 49407, *words]) == "a red bus"
    assert ours.decode([49406, 49408, *words, 50256, -1]) == "a red bus"
    assert ours.decode([49407, *words]) == ours.decode([]) == ""


def test_a_text_that_spells_a_special_token_is_text(ours: ClipTokenizer) -> None:
    ids = ours.encode([f"a {START} b {END}"])[0]
    assert not set(ids) & set(ours.special_ids)
    assert ours.decode(ids).replace(" ", "") == f"a{START}b{END}"


def test_token_texts_join_to_the_decoded_text(ours: ClipTokenizer) -> None:
    texts = ours.token_texts()
    assert len(texts) == ours.vocab_size
    ids = ours.encode(["two dogs, playing in the snow"])[0]
    assert "".join(texts[i] for i in ids).strip(" .") == ours.decode(ids)
    assert texts[49406:] == ["", ""]


def test_the_saved_file_needs_no_open_clip(
    ours: ClipTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.save(tmp_path / "tokenizer.json")
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    again = ClipTokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode(TEXTS) == ours.encode(TEXTS)
    assert again.token_texts() == ours.token_texts()
    with pytest.raises((MissingExtraError, ImportError)):
        ClipTokenizer.from_open_clip()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="missing"):
        ClipTokenizer.load(path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        ClipTokenizer.load(path)
    with pytest.raises(CheckpointError, match="no <.startoftext.> token"):
        ClipTokenizer.from_merges({"a": 0, END: 1}, [])
    ClipTokenizer.from_merges({"a": 0, START: 1, END: 2}, []).save(path)
    path.write_text(path.read_text().replace(START, "<x>"))
    with pytest.raises(CheckpointError, match="tokenizer.json: .*startoftext"):
        ClipTokenizer.load(path)
