"""The text tower of a published model: found, joined, or missing with one line that says what to fetch."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.published import reading
from patchioner.checkpoints.published.config import PublishedConfig, PublishedFiles
from patchioner.checkpoints.published.reading import read_text_tower
from patchioner.text import TextTower
from tests.support.published import talk2dino_state, write_config
from tests.support.tiny import TEXTS, tiny_tower

CONFIG = PublishedConfig(64, 0, dino_model="dinov2_vitb14_reg")


def files_of(folder: Path) -> PublishedFiles:
    return PublishedFiles.of(write_config(folder))


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> TextTower:
    """Stands for CLIP's text half: 48 wide."""
    tower = tiny_tower(dim=48)
    monkeypatch.setattr(reading, "_clip_text", lambda files, config: tower)
    return tower


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["talk2dino_reg.pth", "vitb_mlp_infonce.pth"])
def test_both_styles_of_names(tmp_path: Path, clip: TextTower, old: bool, name: str) -> None:
    files = files_of(tmp_path)
    torch.save(talk2dino_state(64, 48, old=old), tmp_path / name)
    tower = read_text_tower(files, CONFIG, 64)
    assert tower is not None and tower.dim == 64
    state = talk2dino_state(64, 48)
    hidden = clip.encode(TEXTS[:3]) @ state["linear_layer.weight"].T + state["linear_layer.bias"]
    expected = hidden.tanh() @ state["hidden_layers.0.weight"].T + state["hidden_layers.0.bias"]
    torch.testing.assert_close(tower.encode(TEXTS[:3]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "named", ["mine.pth", "mine", "{folder}/mine.pth", "owner/name/weights/mine.pth"]
)
def test_a_named_projection(
    tmp_path: Path, clip: TextTower, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    files = files_of(tmp_path)
    torch.save(talk2dino_state(64, 48), tmp_path / "mine.pth")
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, name: str) -> Path:
        asked.append((repository, name))
        return tmp_path / "mine.pth"

    monkeypatch.setattr(reading, "fetch", fetch)
    config = replace(CONFIG, use_talk2dino_project=named.format(folder=tmp_path))
    tower = read_text_tower(files, config, 64)
    assert tower is not None and tower.dim == 64
    assert asked == ([("owner/name", "weights/mine.pth")] if named.startswith("owner") else [])


def test_without_a_projection_texts_of_clip_are_right_only_in_clips_space(
    tmp_path: Path, clip: TextTower
) -> None:
    files = files_of(tmp_path)
    plain = PublishedConfig(
        48, 0, dino_model="vit_base_patch16_clip_224.openai", use_talk2dino_project=False
    )
    assert read_text_tower(files, plain, 48) is clip
    assert read_text_tower(files, plain, 64) is None


def test_a_projection_of_another_backbone_or_tower(tmp_path: Path, clip: TextTower) -> None:
    files = files_of(tmp_path)
    torch.save(talk2dino_state(32, 48), tmp_path / "talk2dino.pth")
    with pytest.raises(CheckpointError, match="projects into width 32, the backbone has 64"):
        read_text_tower(files, CONFIG, 64)
    torch.save(talk2dino_state(64, 40), tmp_path / "talk2dino.pth")
    with pytest.raises(CheckpointError, match="40 wide, the text tower gives 48"):
        read_text_tower(files, CONFIG, 64)


def test_a_damaged_projection(tmp_path: Path, clip: TextTower) -> None:
    files = files_of(tmp_path)
    state = talk2dino_state(64, 48)
    del state["linear_layer.bias"]
    torch.save(state, tmp_path / "talk2dino.pth")
    with pytest.raises(CheckpointError, match="talk2dino.pth.*missing linear_layer.bias"):
        read_text_tower(files, CONFIG, 64)


def test_clip_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(tmp_path)
    torch.save(talk2dino_state(64), tmp_path / "talk2dino.pth")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    with caplog.at_level(logging.WARNING, logger="patchioner"):
        assert read_text_tower(files, CONFIG, 64) is None
    assert [
        record.levelname for record in caplog.records if record.name.startswith("patchioner")
    ] == ["WARNING"]
    assert "CLIP ViT-B-16 cannot be had" in caplog.text
