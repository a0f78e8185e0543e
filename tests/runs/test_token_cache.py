"""Cached tokens and the files of pairs and settings that training steps read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from patchioner.base.errors import OptionError
from runs.training.settings import RunSettings, read_lines, read_pairs
from runs.training.teacher import cache_tokens, photo_names, read_cache
from tests.support.tiny import noise_photo, tiny_backbone


def test_cached_tokens_are_the_backbones_and_shards_are_kept(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    for seed, name in enumerate(names):
        noise_photo(64 + 32 * seed, 64, seed).save(tmp_path / name)
    backbone = tiny_backbone()
    cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    (shard,) = (tmp_path / "cache").iterdir()
    written = shard.stat().st_mtime_ns
    cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    assert shard.stat().st_mtime_ns == written
    for name, photo in zip(names, read_cache(tmp_path / "cache", names), strict=True):
        assert photo.name == name
        features = backbone.encode(
            [noise_photo(64 + 32 * names.index(name), 64, names.index(name))]
        )[0]
        with torch.no_grad():
            patches, cls = backbone.head(photo.tokens.float(), photo.cls.float())
        cosine = torch.nn.functional.cosine_similarity(patches, features.tokens, dim=-1)
        assert cosine.min() > 0.97  # bfloat16 arithmetic, half precision on disk
        assert features.cls is not None
        assert torch.cosine_similarity(cls, features.cls, dim=0) > 0.97
        assert features.attention is not None
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
