"""Published backbones: which network of timm they are, their authors' files, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from patchioner.backbones import TimmViT
from patchioner.backbones.clip import CLIP_MEAN, CLIP_STD
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.published import reading
from patchioner.checkpoints.published.config import PublishedConfig, PublishedFiles
from patchioner.checkpoints.published.reading import read_backbone, vit_of
from patchioner.geometry import Preprocessing
from tests.support.published import official_dinov2, write_config
from tests.support.tiny import noise_photo

NAMES = {
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vitb14": "vit_base_patch14_dinov2",
    "dinov2_vitl14": "vit_large_patch14_dinov2",
    "dinov2_vitg14": "vit_giant_patch14_dinov2",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2",
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "vit_base_patch16_clip_224.openai": "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch32_clip_224.openai": "vit_base_patch32_clip_quickgelu_224",
    "vit_large_patch14_clip_224.openai": "vit_large_patch14_clip_quickgelu_224",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names_lead_to_weights_that_timm_has(name: str, expected: str) -> None:
    vit = vit_of(name)
    assert vit is not None and vit.name == expected
    assert f"{vit.name}.{vit.tag}" in timm.list_pretrained(f"{vit.name}*")


@pytest.mark.parametrize("name", ["dinov2_vitb16", "resnet50", "dinov2", ""])
def test_other_names_are_none(name: str) -> None:
    assert vit_of(name) is None


def read(folder: Path, mode: Any = "stretch", **values: Any) -> Any:
    config = PublishedConfig(384, 0, **{"resize_dim": 56, "crop_dim": 56, **values})
    return read_backbone(PublishedFiles.of(write_config(folder)), config, mode=mode)


def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_the_authors_file_gives_the_same_tokens(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    expected = TimmViT(NAMES[name], Preprocessing("stretch", 56, 14))
    file = name.replace("_reg", "_reg4") + "_pretrain.pth"
    torch.save(official_dinov2(expected.vit), tmp_path / file)
    found = read(tmp_path, dino_model=name)
    image = noise_photo()
    torch.testing.assert_close(found.encode([image])[0].tokens, expected.encode([image])[0].tokens)
    assert found.preprocessing == expected.preprocessing


def test_the_crop_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, tmp_path)
    found = read(tmp_path, mode="crop", dino_model="tiny", resize_dim=64, crop_dim=64)
    assert found.preprocessing == Preprocessing("crop", 64, 16, CLIP_MEAN, CLIP_STD)
    with pytest.raises(CheckpointError, match="resize_dim 64 and crop_dim 32 differ"):
        read(tmp_path, mode="crop", dino_model="tiny", resize_dim=64, crop_dim=32)


def use_tiny(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: torch.Tensor) -> TimmViT:
    """Make "tiny" a backbone of the CLIP family, with its weights in the folder."""
    tiny = reading._Vit("test_vit", "none", 16, ("tiny.pth",), projection=24)
    monkeypatch.setattr(reading, "vit_of", lambda name: tiny)
    torch.manual_seed(0)
    model = TimmViT(
        "test_vit", Preprocessing("stretch", 64, 16), head={"type": "linear", "dim": 24}
    )
    linear: Any = model.head.get_submodule("linear")
    state = {**model.vit.state_dict(), "head.weight": linear.weight, "head.bias": linear.bias}
    torch.save(
        {**{name: tensor.detach() for name, tensor in state.items()}, **changes},
        folder / "tiny.pth",
    )
    return model


def test_clip_projects_every_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = use_tiny(monkeypatch, tmp_path)
    found = read(tmp_path, dino_model="tiny", resize_dim=64, crop_dim=64)
    assert (found.dim, found.preprocessing.mean) == (24, CLIP_MEAN)
    torch.testing.assert_close(found.vit.state_dict(), expected.vit.state_dict())
    torch.testing.assert_close(found.head.state_dict(), expected.head.state_dict())


def test_a_projection_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, tmp_path, **{"head.weight": torch.zeros(8, 64)})
    with pytest.raises(
        CheckpointError, match=r"tiny.pth: no visual projection of shape \(24, 64\)"
    ):
        read(tmp_path, dino_model="tiny", resize_dim=64, crop_dim=64)


def test_a_file_with_an_extra_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, tmp_path, surprise=torch.zeros(1))
    with pytest.raises(CheckpointError, match="tiny.pth.*unexpected.*surprise"):
        read(tmp_path, dino_model="tiny", resize_dim=64, crop_dim=64)


def test_weights_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(
        CheckpointError, match="no weights.*dinov2_vits14_pretrain.*beside.*lvd142m.*give a file"
    ):
        read(tmp_path, dino_model="dinov2_vits14")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dino_model": "resnet50"}, "'resnet50' is not supported.*dinov2_vit"),
        ({"dino_model": "dinov2_vitl14_reg4_dinotxt_tet1280d20h24l"}, "DINO.txt"),
        ({"dino_model": None}, "ProxyCLIP"),
        (
            {"dino_model": "dinov2_vits14", "resize_dim": 500},
            "config.yaml: .*500 is not.*490 or 504",
        ),
    ],
)
def test_what_is_not_supported_says_why(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, **values)


def test_open_clip_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    values = {
        "use_open_clip": True,
        "clip_model_name": "ViT-B/32",
        "resize_dim": 224,
        "crop_dim": 224,
    }
    with pytest.raises(
        CheckpointError, match="config.yaml: no weights of the backbone: .*ViT-B-32"
    ):
        read(tmp_path, **values)
    with pytest.raises(CheckpointError, match="'RN50' does not tell its patch size"):
        read(tmp_path, **{**values, "clip_model_name": "RN50"})
