"""Text towers on disk: what is saved comes back, what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from patchioner.base.errors import CheckpointError
from patchioner.text import load_tower
from tests.support.tiny import TEXTS, tiny_tower


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tower().save(tmp_path / "tower", storage="fp32")
    return tmp_path / "tower"


def test_a_tower_comes_back_as_it_was(folder: Path) -> None:
    torch.manual_seed(99)
    loaded, original = load_tower(folder), tiny_tower()
    assert loaded.settings == original.settings
    assert not loaded.training
    assert torch.equal(loaded.encode(TEXTS), original.encode(TEXTS))


def test_half_precision_on_disk_moves_vectors_little(tmp_path: Path) -> None:
    tiny_tower().save(tmp_path / "tower")
    loaded = load_tower(tmp_path / "tower").encode(TEXTS)
    assert loaded.dtype == torch.float32
    assert torch.cosine_similarity(loaded, tiny_tower().encode(TEXTS)).min() > 0.9999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "bart"}, "'bert'"),
        ({"type": {}}, "'bert'"),
        ({"wdth": 32}, "wdth"),
        ({"width": "wide"}, "wide"),
        ({"heads": 7}, "7 heads"),
        ({"vocabulary": 5}, "pieces.*5"),
        ({"projection": 47}, r"project_in\.weight is \(48, 32\).*\(47, 32\)"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        load_tower(folder)


@pytest.mark.parametrize("content", [None, "", "{}", "{"])
def test_a_missing_or_corrupt_tokenizer_is_refused(folder: Path, content: str | None) -> None:
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tower"):
        load_tower(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    path = folder / "weights.safetensors"
    weights = load_file(path)
    del weights["norm.weight"]
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"missing norm\.weight"):
        load_tower(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_tower(folder)
