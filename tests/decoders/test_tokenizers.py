"""The tokenizers: round trips, special tokens, damaged files; CLIP's against open_clip's own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as text_decoders

from decoders import CaptionTokenizer
from decoders.tokenizers import CLIP_END, CLIP_START, ClipTokenizer, LanguageTokenizer
from patchioner.base.errors import CheckpointError
from tests.support.language import SENTENCES, language_tokenizer, raw_tokenizer

open_clip = pytest.importorskip("open_clip")

TOKENIZER = CaptionTokenizer.train(["a red bus", "a red car", "the bus"] * 3, vocab_size=280)


@given(st.text(alphabet="abc é猫!'<>\n", max_size=20))
def test_round_trip_is_lower_case_with_single_blanks(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode([text])[0]) == " ".join(text.split())


TEXTS = [
    "A RED  Bus.", "don't it's we're I'VE they'll he'd I'm", "I’m “quoting” ‘this’ — and that…",
    "café naïve e\u0301 ﬁsh", "a &amp; b &lt;tag&gt; &amp;lt;", "12 345 6th 3.14 x² ½ Ⅷ",
    "😀 smile 👩‍👩‍👧", "日本語 の テスト", "مرحبا", "İstanbul STRASSE ß", "hello\tworld\nfoo\u00a0bar",
    "under_score a-b a/b #tag @you $5 100%", "supercalifragilisticexpialidocious",
    "a</w>b <end_of_text_x>", "!!! ... ?", "  ", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    return ClipTokenizer.from_open_clip()


def test_ids_and_text_are_open_clips(ours: ClipTokenizer) -> None:
    theirs = open_clip.tokenizer.SimpleTokenizer()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode([text]) == [ids]
        assert ours.decode(ids) == theirs.decode(ids).strip(" .")


def test_the_saved_file_says_the_same(ours: ClipTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    ours.save(path)
    assert ClipTokenizer.load(path).encode(TEXTS) == ours.encode(TEXTS)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*of another kind"):
        CaptionTokenizer.load(path)
    TOKENIZER.save(path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*of another kind"):
        ClipTokenizer.load(path)


def test_texts_of_tokens_join_and_special_ones_spelt_out_are_text(ours: ClipTokenizer) -> None:
    for one, text in ((ours, f"a {CLIP_START} b {CLIP_END}"), (TOKENIZER, "a <end> b")):
        ids = one.encode([text])[0]
        assert not set(ids) & set(one.special_ids)
        assert one.decode([*ids, one.end_id]).replace(" ", "") == text.replace(" ", "")
        assert {one.token_texts()[i] for i in one.special_ids} == {""}
    texts = ours.token_texts()
    assert len(texts) == ours.vocab_size and texts[49406:] == ["", ""]
    ids = ours.encode(["two dogs, playing in the snow"])[0]
    assert "".join(texts[i] for i in ids).strip(" .") == ours.decode(ids)


def test_a_published_decoders_text_ends_where_its_evaluation_ends_it(ours: ClipTokenizer) -> None:
    words = ours.encode(["a red bus ."])[0]
    assert ours.decode([49406, *words, 49407, *words]) == "a red bus"
    assert ours.decode([49406, 49408, *words, 50256, -1]) == "a red bus"
    assert ours.decode([49407, *words]) == ours.decode([]) == ""


def test_words_keep_their_tokens_and_ends_and_specials_write_nothing(tmp_path: Path) -> None:
    tokenizer = language_tokenizer()
    first, inside = tokenizer.encode(["cat", "red cat"])
    assert inside[-len(first) :] == first
    assert tokenizer.encode(["There"], lead=False)[0] != tokenizer.encode(["There"])[0]
    ids = tokenizer.encode(["a red cat"])[0]
    assert tokenizer.decode([*ids, tokenizer.end_id]) == "a red cat"
    stop = tokenizer.full_stops()
    assert stop and tokenizer.token_texts()[stop[0]] == "."
    ending = tokenizer.ending_with(stop)
    assert ending.decode([*ids, ending.end_id]) == "a red cat"
    assert ending.unwritable_ids == (0,)  # the end of text is now no more than a special token
    assert tokenizer.unwritable_ids == ()
    tokenizer.save(tmp_path / "t.json")
    size = tokenizer.vocab_size
    loaded = LanguageTokenizer.load(tmp_path / "t.json", end_ids=(5, 0), vocab_size=size)
    assert loaded.end_ids == (5, 0) and loaded.encode(SENTENCES) == tokenizer.encode(SENTENCES)


def test_blanks_of_metaspace_tokenizers_are_seen() -> None:
    """Of Llama's form: the blank is put before the first word by itself."""
    words = ["<s>", "</s>", "<unk>", "▁a", "▁red", "▁bus", "▁x", "bus", "."]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = text_decoders.Metaspace(prepend_scheme="first")
    made.add_special_tokens(words[:3])
    tokenizer = LanguageTokenizer(made)
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
