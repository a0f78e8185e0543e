"""Whole published folders, and the backbones and text towers that their configs name."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.published import read_published, reading
from patchioner.checkpoints.published.config import PublishedConfig, PublishedFiles
from patchioner.checkpoints.published.reading import read_backbone, read_text_tower, vit_of
from patchioner.geometry import Preprocessing
from patchioner.model import project
from patchioner.regions import Weighting
from patchioner.text import TextTower
from tests.patchioner.checkpoints.published.test_decoders import naive_greedy, until_end
from tests.support import published
from tests.support.published import official_dinov2, talk2dino_state, write_config
from tests.support.tiny import TEXTS, noise_photo, tiny_backbone, tiny_tower

REGIONS = [
    Box(5, 5, 60, 40),
    Box(40, 20, 90, 60),
    WholeImage(),
    Trace([(10, 10), (50, 30), (80, 60)]),
]


WRITERS: dict[str, Callable[[Path], Path]] = {
    "decap": published.write_decap,
    "capdec": published.write_capdec,
    "viecap": published.write_viecap,
    "meacap": published.write_meacap,
}


def _project(model: Patchioner, embeddings: torch.Tensor) -> torch.Tensor:
    return project(embeddings, model.settings, model.parts.bank)


def read(folder: Path, **options: Any) -> Parts:
    """With a tiny backbone instead of a ViT-B."""
    return read_published(folder, backbone=tiny_backbone(mode="stretch", size=64), **options)


def embeddings_of(model: Patchioner) -> Tensor:
    return model.embed_regions(model.encode(noise_photo()), REGIONS)


def test_decap_with_memory_equals_the_plain_twin(tmp_path: Path) -> None:
    state = published.decap_state()
    model = Patchioner(read(published.write_decap(tmp_path, state)), device="cpu")
    pooled, (rows, _) = embeddings_of(model), published.memory()
    similarities = F.normalize(pooled, dim=1) @ F.normalize(rows, dim=1).T
    projected = F.normalize((similarities / 0.01).softmax(1) @ rows, dim=1)
    captions = model.parts.decoder.generate(_project(model, pooled), model.settings.decode)
    assert [list(one.token_ids) for one in captions] == [
        until_end(naive_greedy(state, row)) for row in projected
    ]
    assert [one.text for one in captions] == [
        one.text for one in model.caption(noise_photo(), REGIONS)
    ]
    assert model.settings.decode == DecodeOptions(max_tokens=30)
    assert model.settings.weighting == Weighting("uniform", rounding="reference")
    assert (
        model.explain(model.encode(noise_photo()), REGIONS[0], k=2).texts[0]
        in published.memory()[1]
    )


def test_normalize_false_keeps_the_length_of_the_projection(tmp_path: Path) -> None:
    state = published.decap_state()
    parts = read(published.write_decap(tmp_path, state, normalize=False))
    model = Patchioner(parts, device="cpu")
    pooled, (rows, _) = embeddings_of(model), published.memory()
    similarities = F.normalize(pooled, dim=1) @ F.normalize(rows, dim=1).T
    expected = (similarities / 0.01).softmax(1) @ rows
    torch.testing.assert_close(_project(model, pooled), expected, rtol=1e-4, atol=1e-5)


def test_capdec_gets_raw_embeddings_as_published(tmp_path: Path) -> None:
    state = published.decap_state()
    model = Patchioner(read(published.write_capdec(tmp_path, state)), device="cpu")
    pooled = embeddings_of(model)
    assert (model.settings.projection, model.parts.bank) == ("raw", None)
    assert pooled.norm(dim=1).std() > 0  # so the length tells
    captions = model.parts.decoder.generate(_project(model, pooled), model.settings.decode)
    assert [list(one.token_ids) for one in captions] == [
        until_end(naive_greedy(state, row)) for row in pooled
    ]


@pytest.mark.parametrize("kind", WRITERS)
def test_converted_models_write_the_same_tokens(tmp_path: Path, kind: str) -> None:
    model = Patchioner(read(WRITERS[kind](tmp_path / "theirs")), device="cpu")
    model.save_pretrained(tmp_path / "ours", storage="fp32")
    again = Patchioner.from_pretrained(tmp_path / "ours", device="cpu")
    pooled = embeddings_of(model)
    first, second = (
        [
            one.token_ids
            for one in m.parts.decoder.generate(
                _project(m, pooled), m.settings.decode, memory=m.parts.bank
            )
        ]
        for m in (model, again)
    )
    assert first == second
    assert len(set(first)) > 1
    assert again.settings == model.settings
    assert [one.text for one in again.caption(noise_photo(), REGIONS)] == [
        one.text for one in model.caption(noise_photo(), REGIONS)
    ]


def test_retrieval_instead_of_decoding(tmp_path: Path) -> None:
    folder = published.write_decap(tmp_path, calculate_argmax_text=True, decap_weights=None)
    model = Patchioner(read(folder), device="cpu")
    rows, texts = published.memory()
    nearest = (F.normalize(embeddings_of(model), dim=1) @ F.normalize(rows, dim=1).T).argmax(1)
    assert [one.text for one in model.caption(noise_photo(), REGIONS)] == [
        texts[i] for i in nearest.tolist()
    ]


def test_an_authors_yaml_with_files_beside_it(tmp_path: Path) -> None:
    folder = published.write_decap(tmp_path / "files")
    (folder / "config.yaml").rename(folder / "mlp.karpathy.yaml")
    parts = read(folder / "mlp.karpathy.yaml")
    assert parts.settings.name == "mlp.karpathy"
    assert parts.bank is not None and len(parts.bank) == 10


def test_what_the_text_tower_needs_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(published.write_capdec(tmp_path)).text_tower is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Talk2DINO" in caplog.text and "beside" in caplog.text


@pytest.mark.parametrize(
    ("missing", "error", "said"),
    [
        (
            "decap_talk2dino-009.pt",
            CheckpointError,
            "decoder 'decap_talk2dino-009.pt' is not beside",
        ),
        (published.BANK_FILE, CheckpointError, "memory bank 'coco_captions.*-12.h5' is not beside"),
        ("config.yaml", CheckpointError, "config.yaml: no such file"),
    ],
)
def test_missing_files(tmp_path: Path, missing: str, error: type[Exception], said: str) -> None:
    (published.write_decap(tmp_path) / missing).unlink()
    with pytest.raises(error, match=said):
        read(tmp_path)


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        (
            {"prefix_size": 32},
            MemoryBankError,
            "rows have width 64, the config says prefix_size 32",
        ),
        ({"decap_weights": None}, CheckpointError, "no decoder"),
        (
            {"support_memory_size": 0, "prefix_size": 32},
            CheckpointError,
            "width 64, the config says",
        ),
        (
            {"support_memory_size": 0, "calculate_argmax_text": True},
            CheckpointError,
            "needs a bank",
        ),
        ({"suport_memory_size": 4}, CheckpointError, "did you mean support_memory_size"),
    ],
)
def test_configs_that_do_not_fit_the_files(
    tmp_path: Path, config: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read(published.write_decap(tmp_path, **config))


CAPTION = """
import sys
from patchioner import Patchioner
from tests.support.tiny import noise_photo
model = Patchioner.from_pretrained(sys.argv[1], device="cpu")
sys.stdout.write(model.settings.name + chr(10))
sys.stdout.write(str([one.text for one in model.caption(noise_photo())]))
"""


def write_small_dino(folder: Path, **config: Any) -> Path:
    """A CapDec folder with a whole ViT-S in its authors' file, at a small input size."""
    torch.manual_seed(0)
    vit = TimmViT("vit_small_patch14_reg4_dinov2", Preprocessing("stretch", 56, 14)).vit
    published.write_capdec(
        folder,
        published.decap_state(prefix=384),
        prefix_size=384,
        dino_model="dinov2_vits14_reg",
        resize_dim=56,
        crop_dim=56,
        **config,
    )
    torch.save(published.official_dinov2(vit), folder / "dinov2_vits14_reg4_pretrain.pth")
    return folder


def test_a_hub_id_offline_out_of_the_cache(tmp_path: Path) -> None:
    """The real client, a cache made by hand, no connection: everything from the snapshot."""
    hub_id = "Ruggero1912/Patch-ioner_talk2dino_capdec_COCO_Captions"
    folder = write_small_dino(tmp_path / "theirs")
    expected = Patchioner.from_pretrained(folder, device="cpu").caption(noise_photo())
    published.as_hub_snapshot(folder, tmp_path / "cache", hub_id)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", CAPTION, hub_id]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [hub_id, str([one.text for one in expected])]


@pytest.mark.slow
def test_published_shapes(tmp_path: Path) -> None:
    """768 wide, 50,257 tokens, 4 layers, 518 pixels: load, caption, convert, reload, the same tokens."""
    state = published.decap_state(prefix=768, width=768, layers=4, positions=1024)
    published.write_decap(tmp_path / "theirs", state, prefix_size=768, support_memory_size=4000)
    (tmp_path / "theirs" / published.BANK_FILE).unlink()
    rows, texts = published.memory(3000, dim=768)
    name = "coco_captions_text_embeddings-B16-ViT-B.16-4000.h5"
    published.write_bank(tmp_path / "theirs" / name, rows, texts, size=4000)
    torch.manual_seed(0)
    vit = TimmViT("vit_base_patch14_reg4_dinov2", Preprocessing("stretch", 518, 14)).vit
    torch.save(
        published.official_dinov2(vit), tmp_path / "theirs" / "dinov2_vitb14_reg4_pretrain.pth"
    )
    del vit

    model = Patchioner.from_pretrained(tmp_path / "theirs", device="cpu")
    features = model.encode(noise_photo())
    assert tuple(features.tokens.shape) == (37, 37, 768)
    bridged = _project(model, model.embed_regions(features, REGIONS))
    found = [one.token_ids for one in model.parts.decoder.generate(bridged, model.settings.decode)]
    assert list(found[0]) == until_end(naive_greedy(state, bridged[0]))
    model.save_pretrained(tmp_path / "ours")
    del model
    again = Patchioner.from_pretrained(tmp_path / "ours", device="cpu")
    bridged = _project(again, again.embed_regions(again.encode(noise_photo()), REGIONS))
    assert [
        one.token_ids for one in again.parts.decoder.generate(bridged, again.settings.decode)
    ] == found


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


def backbone_of(folder: Path, mode: Any = "stretch", **values: Any) -> Any:
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
    found = backbone_of(tmp_path, dino_model=name)
    image = noise_photo()
    torch.testing.assert_close(found.encode([image])[0].tokens, expected.encode([image])[0].tokens)
    assert found.preprocessing == expected.preprocessing


def test_the_crop_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, tmp_path)
    found = backbone_of(tmp_path, mode="crop", dino_model="tiny", resize_dim=64, crop_dim=64)
    assert found.preprocessing == Preprocessing("crop", 64, 16, CLIP_MEAN, CLIP_STD)
    with pytest.raises(CheckpointError, match="resize_dim 64 and crop_dim 32 differ"):
        backbone_of(tmp_path, mode="crop", dino_model="tiny", resize_dim=64, crop_dim=32)


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
    found = backbone_of(tmp_path, dino_model="tiny", resize_dim=64, crop_dim=64)
    assert (found.dim, found.preprocessing.mean) == (24, CLIP_MEAN)
    torch.testing.assert_close(found.vit.state_dict(), expected.vit.state_dict())
    torch.testing.assert_close(found.head.state_dict(), expected.head.state_dict())


def test_a_projection_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, tmp_path, **{"head.weight": torch.zeros(8, 64)})
    with pytest.raises(CheckpointError, match=r"tiny.pth.*\(8, 64\).*\(24, 64\)"):
        backbone_of(tmp_path, dino_model="tiny", resize_dim=64, crop_dim=64)


def test_weights_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(
        CheckpointError, match="no weights.*dinov2_vits14_pretrain.*beside.*lvd142m.*give a file"
    ):
        backbone_of(tmp_path, dino_model="dinov2_vits14")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dino_model": "resnet50"}, "'resnet50' is not supported.*dinov2_vit"),
        ({"dino_model": "dinov2_vitl14_reg4_dinotxt_tet1280d20h24l"}, "DINO.txt"),
        ({"dino_model": None}, "ProxyCLIP"),
        (
            {"dino_model": "dinov2_vits14", "resize_dim": 500},
            "config.yaml.*500 is not.*490 or 504",
        ),
    ],
)
def test_what_is_not_supported_says_why(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        backbone_of(tmp_path, **values)


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
        backbone_of(tmp_path, **values)
    with pytest.raises(CheckpointError, match="'RN50' does not tell its patch size"):
        backbone_of(tmp_path, **{**values, "clip_model_name": "RN50"})


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
