"""Backbones on disk: what is saved comes back, what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from patchioner.backbones import load_backbone
from patchioner.base.errors import CheckpointError
from tests.support.tiny import noise_photo, tiny_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_backbone().save(tmp_path / "backbone", storage="fp32")
    return tmp_path / "backbone"


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_backbone_comes_back_as_it_was(folder: Path) -> None:
    torch.manual_seed(99)  # loading must not depend on how the network was initialised
    loaded, original = load_backbone(folder), tiny_backbone()
    assert loaded.config == original.config
    assert not loaded.training
    first, second = (model.encode([noise_photo()])[0] for model in (loaded, original))
    assert torch.equal(first.tokens, second.tokens)
    assert first.geometry == second.geometry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "tim"}, "must name its \"type\".*'timm'"),
        ({"type": None}, 'must name its "type"'),
        ({"type": ["timm"]}, 'must name its "type"'),
        ({"name": "test_vitt"}, "test_vitt.*test_vit"),
        ({"name": 3}, "wrong setting"),
        ({"name": "resnet18"}, "not a vision transformer"),
        ({"head": "standardise"}, "wrong setting"),
        ({"head": {"type": "wig"}}, "wig"),
        ({"head": {"type": "linear"}}, "'dim'"),
        ({"head": {"type": "linear", "dim": "wide"}}, "wide"),
        ({"preprocessing": []}, "wrong setting"),
        ({"preprocessing": {"mode": "squeeze"}}, "squeeze"),
        ({"preprocessing": {"sise": 64}}, "sise"),
        ({"preprocessing": {"size": "64", "patch_size": 16}}, "wrong setting"),
        ({"preprocessing": {"size": 64, "patch_size": 16, "std": [1, 1, 0]}}, "std"),
        ({"preprocessing": {"size": 64, "patch_size": 16, "mean": [1, 1]}}, "mean"),
        ({"preprocessing": {"size": 56, "patch_size": 14}}, "16"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(folder)
    assert "config.json" in str(caught.value)


def test_a_config_that_is_a_list_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_backbone(folder)


def test_another_shape_is_refused_with_both_shapes(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    weights["vit.norm.weight"] = torch.ones(65)
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"vit\.norm\.weight is \(65,\).*\(64,\)"):
        load_backbone(folder)
