"""Whole published folders, their backbones and towers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from patchioner import Box, Patchioner, Trace, WholeImage
from patchioner.backbones import TimmViT
from patchioner.backbones.clip import CLIP_MEAN, CLIP_STD
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.checkpoints import published as reading
from patchioner.checkpoints.folder import Parts
from patchioner.checkpoints.published import read_backbone, read_published, read_text_tower, vit_of
from patchioner.checkpoints.published.files import PublishedConfig, PublishedFiles
from patchioner.embedding import project
from patchioner.geometry import Preprocessing
from patchioner.regions import Weighting
from patchioner.text import TextTower
from patchioner.text.clip import OpenClipText
from tests.patchioner.checkpoints.published.test_decoders import naive_greedy, until_end
from tests.support import Log, MonkeyPatch, published
from tests.support.published import official_dinov2, talk2dino_state, write_config
from tests.support.tiny import TEXTS, noise_photo, tiny_backbone, tiny_tower

REGIONS = [Box(5, 5, 60, 40), Box(40, 20, 90, 60), WholeImage(), Trace([(10, 10), (50, 30)])]


def read(folder: Path) -> Parts:
    """With a tiny backbone instead of a ViT-B."""
    return read_published(folder, backbone=tiny_backbone(mode="stretch", size=64))


def decoded(model: Patchioner) -> tuple[Tensor, Tensor, list[list[int]]]:
    """What is pooled, what goes into the decoder, and what comes out."""
    pooled = model.embed_regions(model.encode(noise_photo()), REGIONS)
    given = project(pooled, model.settings, model.parts.bank)
    found = model.parts.decoder.generate(given, model.settings.decode, model.parts.bank)
    return pooled, given, [list(one.token_ids) for one in found]


def test_decap_with_memory_equals_the_plain_twin(tmp_path: Path) -> None:
    state, (rows, texts) = published.decap_state(), published.memory()
    for normalize in (True, False):
        parts = read(published.write_decap(tmp_path, state, normalize=normalize))
        model = Patchioner(parts, device="cpu")
        pooled, found, ids = decoded(model)
        similarities = F.normalize(pooled, dim=1) @ F.normalize(rows, dim=1).T
        projected = (similarities / 0.01).softmax(1) @ rows
        projected = F.normalize(projected, dim=1) if normalize else projected
        torch.testing.assert_close(found, projected, rtol=1e-4, atol=1e-5)
    assert ids == [until_end(naive_greedy(state, row)) for row in projected]
    assert model.settings.decode == DecodeOptions(max_tokens=30)
    assert model.settings.weighting == Weighting("uniform", rounding="reference")
    retrieving = published.write_decap(tmp_path, calculate_argmax_text=True, decap_weights=None)
    captions = Patchioner(read(retrieving), device="cpu").caption(noise_photo(), REGIONS)
    assert [one.text for one in captions] == [texts[row] for row in similarities.argmax(1)]
    # An author's YAML with the files beside it.
    parts = read((tmp_path / "config.yaml").rename(tmp_path / "mlp.karpathy.yaml"))
    assert parts.settings.name == "mlp.karpathy"
    assert parts.bank is not None and len(parts.bank) == 10


def test_capdec_gets_raw_embeddings(tmp_path: Path, caplog: Log) -> None:
    state = published.decap_state()
    model = Patchioner(read(published.write_capdec(tmp_path, state)), device="cpu")
    pooled, _, ids = decoded(model)
    assert (model.settings.projection, model.parts.bank) == ("raw", None)
    assert pooled.norm(dim=1).std() > 0  # so the length tells
    assert ids == [until_end(naive_greedy(state, row)) for row in pooled]
    assert caplog.records == [] and model.parts.text_tower is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Talk2DINO" in caplog.text and "beside" in caplog.text


CASES = json.loads((Path(__file__).parent / "cases" / "wrong_folders.json").read_text())


@pytest.mark.parametrize(("missing", "config", "said"), CASES)
def test_what_is_missing_wrong_or_not_supported(
    tmp_path: Path, monkeypatch: MonkeyPatch, missing: str | None, config: Any, said: str
) -> None:
    offline(monkeypatch, tmp_path)
    if isinstance(viecap := config.get("viecap"), dict):
        published.write_viecap(tmp_path, changes=viecap)
    else:
        published.write_decap(tmp_path, **config)
    if missing is not None:
        (tmp_path / missing).unlink()
    with pytest.raises((CheckpointError, MemoryBankError), match=said):
        read_published(tmp_path)


def offline(monkeypatch: MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def test_a_hub_id_offline_out_of_the_cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The real client, a cache made by hand, no connection: everything from the snapshot."""
    hub_id = "Ruggero1912/Patch-ioner_talk2dino_capdec_COCO_Captions"
    config = {"dino_model": "dinov2_vits14_reg", "resize_dim": 56, "crop_dim": 56}
    state = published.decap_state(prefix=384)
    folder = published.write_capdec(tmp_path / "theirs", state, prefix_size=384, **config)
    torch.manual_seed(0)
    backbone = TimmViT("vit_small_patch14_reg4_dinov2", Preprocessing("stretch", 56, 14))
    torch.save(official_dinov2(backbone.vit), folder / "dinov2_vits14_reg4_pretrain.pth")
    whole = Patchioner.from_pretrained(folder, device="cpu")
    found, image = whole.parts.backbone, noise_photo()
    torch.testing.assert_close(found.encode([image])[0].tokens, backbone.encode([image])[0].tokens)
    assert found.preprocessing == backbone.preprocessing
    expected = whole.caption(image)
    published.as_hub_snapshot(folder, tmp_path / "cache", hub_id)
    offline(monkeypatch, tmp_path / "cache")
    model = Patchioner.from_pretrained(hub_id, device="cpu")
    assert model.settings.name == hub_id
    assert [one.text for one in model.caption(noise_photo())] == [one.text for one in expected]


def test_names_lead_to_weights_that_timm_has() -> None:
    for name, expected in {
        "dinov2_vits14": "vit_small_patch14_dinov2", "dinov2_vitg14": "vit_giant_patch14_dinov2",
        "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2", "dinov3_vitb16": "vit_base_patch16_dinov3",
        "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224.openai": "vit_base_patch16_clip_quickgelu_224",
        "vit_large_patch14_clip_224.openai": "vit_large_patch14_clip_quickgelu_224",
    }.items():  # fmt: skip
        vit = vit_of(name)
        assert vit is not None and vit.name == expected
        assert f"{vit.name}.{vit.tag}" in timm.list_pretrained(f"{vit.name}*")
    for name in ("dinov2_vitb16", "resnet50", "dinov2", ""):
        assert vit_of(name) is None


def test_a_vit_of_the_clip_family(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """A tiny one, with its weights in the folder; timm's classifier is the projection."""
    tiny = reading._Vit("test_vit", "none", 16, ("tiny.pth",), projection=24)
    monkeypatch.setattr(reading, "vit_of", lambda name: tiny)
    head, settings = {"type": "linear", "dim": 24}, Preprocessing("stretch", 64, 16)
    expected = TimmViT("test_vit", settings, head=head)
    linear = {name.replace("linear", "head"): t for name, t in expected.head.state_dict().items()}
    state = {**expected.vit.state_dict(), **linear}
    files = PublishedFiles.of(write_config(tmp_path))
    config = PublishedConfig(384, 0, dino_model="tiny", resize_dim=64, crop_dim=64)
    torch.save(state, tmp_path / "tiny.pth")
    found: Any = read_backbone(files, config, mode="crop")
    assert found.dim == 24
    assert found.preprocessing == Preprocessing("crop", 64, 16, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
    with pytest.raises(CheckpointError, match="resize_dim 64 and crop_dim 32 differ"):
        read_backbone(files, replace(config, crop_dim=32), mode="crop")
    torch.save({**state, "head.weight": torch.zeros(8, 64)}, tmp_path / "tiny.pth")
    with pytest.raises(CheckpointError, match=r"tiny.pth.*\(8, 64\).*\(24, 64\)"):
        read_backbone(files, config)


CONFIG = PublishedConfig(64, 0, dino_model="dinov2_vitb14_reg")


def tower_of(folder: Path, config: PublishedConfig = CONFIG) -> TextTower | None:
    return read_text_tower(PublishedFiles.of(write_config(folder)), config)


@pytest.fixture
def clip(monkeypatch: MonkeyPatch) -> TextTower:
    """Stands for CLIP's text half: 48 wide."""
    tower = tiny_tower(dim=48)
    monkeypatch.setattr(OpenClipText, "from_config", lambda config, folder: tower)
    return tower


def test_a_projection_beside_or_by_name(tmp_path: Path, clip: TextTower, monkeypatch: MonkeyPatch) -> None:
    state = talk2dino_state(64, 48)
    hidden = clip.encode(TEXTS[:3]) @ state["linear_layer.weight"].T + state["linear_layer.bias"]
    expected = hidden.tanh() @ state["hidden_layers.0.weight"].T + state["hidden_layers.0.bias"]
    for name in ("talk2dino_reg.pth", "vitb_mlp_infonce.pth"):
        torch.save(state, tmp_path / name)
        tower = tower_of(tmp_path)
        assert tower is not None and tower.dim == 64
        torch.testing.assert_close(tower.encode(TEXTS[:3]), expected, rtol=1e-4, atol=1e-5)
        (tmp_path / name).unlink()
    mine = tmp_path / "mine.pth"
    torch.save(state, mine)
    fetch = Mock(return_value=mine)
    monkeypatch.setattr(reading, "fetch", fetch)
    for named in ("mine.pth", "mine", str(mine), "owner/name/weights/mine.pth"):
        fetch.assert_not_called()
        tower = tower_of(tmp_path, replace(CONFIG, use_talk2dino_project=named))
        assert tower is not None and tower.dim == 64
    fetch.assert_called_once_with("owner/name", "weights/mine.pth")


def test_towers_that_do_not_fit(tmp_path: Path, clip: TextTower) -> None:
    name = "vit_base_patch16_clip_224.openai"
    plain = replace(CONFIG, dino_model=name, use_talk2dino_project=False)
    assert tower_of(tmp_path, replace(plain, prefix_size=48)) is clip  # in CLIP's own space alone
    assert tower_of(tmp_path, plain) is None
    for sizes, message in (
        ((32, 48), "projects into width 32, .* prefix_size 64"),
        ((64, 40), "40 wide, the text tower gives 48"),
    ):
        torch.save(talk2dino_state(*sizes), tmp_path / "talk2dino.pth")
        with pytest.raises(CheckpointError, match=message):
            tower_of(tmp_path)


def test_no_clip(tmp_path: Path, monkeypatch: MonkeyPatch, caplog: Log) -> None:
    torch.save(talk2dino_state(64), tmp_path / "talk2dino.pth")
    offline(monkeypatch, tmp_path)
    assert tower_of(tmp_path) is None
    (ours,) = (record for record in caplog.records if record.name.startswith("patchioner"))
    assert ours.levelname == "WARNING" and "CLIP ViT-B-16 cannot be had" in ours.getMessage()
