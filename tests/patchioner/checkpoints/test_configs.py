"""Readable configs: each that we ship builds its backbone at true shapes; parts, paths and wrong keys."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.backbones import BACKBONES, Backbone, TimmViT
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints import folder as folders
from patchioner.checkpoints import hub
from patchioner.checkpoints.folder import build_model, names_parts, read_checkpoint
from patchioner.checkpoints.stored import make_part
from patchioner.geometry import Preprocessing
from patchioner.text import TEXT_TOWERS, TextTower
from tests.support import MonkeyPatch
from tests.support.published import talk2dino_state
from tests.support.tiny import TEXTS, noise_photo, tiny_backbone, tiny_decoder, tiny_tower

yaml = pytest.importorskip("yaml")
pytest.importorskip("open_clip")


def build_backbone(given: Any, folder: Path) -> Backbone:
    return make_part(BACKBONES, given, folder, "config")


def build_text_tower(given: Any, folder: Path) -> TextTower:
    return make_part(TEXT_TOWERS, given, folder, "config")


FOLDER = Path(__file__).parents[3] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if names_parts(path))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# config: side of the input, patches a side, width, heads of the attention (None: none), channel statistics
EXPECTED: dict[str, tuple[int, int, int, int | None, Any]] = {
    **{
        f"dinov2-vit{size}14{registers}": (518, 37, width, heads, IMAGENET)
        for size, width, heads in (("s", 384, 6), ("b", 768, 12), ("l", 1024, 16), ("g", 1536, 24))
        for registers in ("", "-reg")
    },
    **{f"clip-vitb16-{kind}": (224, 14, 512, 12, CLIP) for kind in ("cls", "crop")},
    **{f"clip-vitb16-{kind}": (448, 28, 512, 12, CLIP) for kind in ("value", "self-self")},
    "clip-vitb32-crop": (224, 7, 512, 12, CLIP), "clip-vitb16-patch": (592, 37, 512, 12, CLIP),
    "clip-timm-vitb16-224": (224, 14, 512, 12, CLIP), "clip-timm-vitb16-592": (592, 37, 512, 12, CLIP),
    "dinov3-vits16": (512, 32, 384, None, IMAGENET), "dinov3-vitb16": (512, 32, 768, None, IMAGENET),
    "talk2dino-dinov2-vitb14-reg": (518, 37, 768, 12, IMAGENET), "siglip2-vitb16-512": (512, 32, 768, 12, HALF),
    "talk2dino-dinov3-vitb16": (512, 32, 768, None, IMAGENET), "dinotxt-dinov3-vitl16": (512, 32, 1024, 16, IMAGENET),
    "proxyclip-vitb16-dinob8": (336, 42, 512, 12, IMAGENET),
    "dinotxt-dinov2-vitl14-reg": (518, 37, 1024, 16, IMAGENET),
}  # fmt: skip


def without_weights(settings: Any) -> Any:
    """The same part with random weights, so that nothing is fetched."""
    if not isinstance(settings, Mapping):
        return settings
    changed = {key: without_weights(value) for key, value in settings.items() if key != "weights"}
    return {**changed, "weights": "random"} if "weights" in settings else changed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_at_true_shapes(path: Path, tmp_path: Path) -> None:
    config = folders.read_model_config(path)
    size, side, width, heads, (mean, std) = EXPECTED[path.stem]
    with torch.device("meta"):  # true shapes without their weights; ViT-g has 1.1 billion
        backbone = build_backbone(without_weights(config.backbone), FOLDER)
    seen: Any = getattr(backbone, "proxy", backbone)
    fit = seen.preprocessing
    assert (fit.mode, fit.size, fit.mean, fit.std) == ("stretch", size, mean, std)
    features = backbone.encode([Image.new("RGB", (640, 480), (10, 20, 30))])[0]
    assert features.tokens.shape == (side, side, width)
    assert backbone.dim == width
    assert features.cls is not None and features.cls.shape == (width,)
    shape = None if features.attention is None else features.attention.shape
    assert shape == (None if heads is None else (heads, side, side))
    assert features.geometry == backbone.geometry((640, 480))
    assert features.geometry.model_size == (size, size)
    assert config.model_settings().licence != "unknown"
    assert config.name == path.stem
    for settings in (config.backbone, config.backbone.get("proxy")):
        name = (settings or {}).get("name", "")
        if name.startswith("vit_"):
            published = timm.get_pretrained_cfg(name)
            assert published is not None, f"{name} is no name of weights"
            assert tuple(settings["preprocessing"]["mean"]) == tuple(published.mean)
            assert tuple(settings["preprocessing"]["std"]) == tuple(published.std)
    assert (config.text_tower is None) is path.stem.startswith(("dinov2", "dinov3"))
    if config.text_tower is not None:
        settings = without_weights(config.text_tower)
        if "tokenizer" in settings:
            settings["tokenizer"] = str(letters(tmp_path))
        with torch.device("meta"):
            assert build_text_tower(settings, FOLDER).dim == width


def letters(folder: Path) -> Path:
    """A tokenizer of the letters from a to z."""
    words = {character: index for index, character in enumerate(string.ascii_lowercase)}
    Tokenizer(models.WordLevel(words, unk_token="a")).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


PREPROCESSING = {"mode": "aspect", "size": 64, "patch_size": 16}
TIMM = {"type": "timm", "name": "test_vit", "weights": "random", "preprocessing": PREPROCESSING}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Parts in our own format and a config that names them."""
    tower = tiny_tower()
    tiny_backbone().save(tmp_path / "eye")
    tower.save(tmp_path / "reader")
    tiny_decoder().save(tmp_path / "writer")
    MemoryBank(F.normalize(tower.encode(TEXTS), dim=1), texts=TEXTS).save(tmp_path / "memory")
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    config = {
        "name": "tiny", "about": "a test", "backbone": "eye", "text_tower": "reader", "memory_bank": "memory",
        "decoder": "writer", "settings": {"context": 0.5, "weighting": {"kind": "attention"}}, **changes,
    }  # fmt: skip
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v != "absent"}))
    return path


def test_a_model_of_folders(folder: Path) -> None:
    parts = read_checkpoint(folder / "model.yaml")
    assert parts.settings.name == "tiny"
    assert (parts.settings.context, parts.settings.weighting.kind) == (0.5, "attention")
    assert parts.bank is not None and len(parts.bank) == len(TEXTS)
    assert Patchioner(parts, device="cpu").caption(noise_photo())[0].text
    bare = write(folder, memory_bank=None, text_tower="absent", settings={"projection": "none"})
    parts = build_model(bare)
    assert (parts.bank, parts.text_tower) == (None, None)
    parts = build_model(write(folder, decoder={"type": "retrieval"}))
    assert Patchioner(parts, device="cpu").caption(noise_photo())[0].text in TEXTS


def test_weights_from_a_file_or_a_folder(folder: Path) -> None:
    torch.manual_seed(3)
    original = TimmViT("test_vit", Preprocessing("aspect", 64, 16))
    torch.save({"model": original.vit.state_dict()}, folder / "vit.pth")
    parts = build_model(write(folder, backbone={**TIMM, "weights": "vit.pth"}))
    first, second = (b.encode([noise_photo()])[0] for b in (original, parts.backbone))
    assert torch.equal(first.tokens, second.tokens)
    settings = {**TIMM, "weights": "eye", "head": {"type": "standardise"}}
    larger = {**settings, "preprocessing": {**PREPROCESSING, "size": 96}}
    assert build_model(write(folder, backbone=larger)).backbone.geometry((9, 9)).grid == (6, 6)


def test_which_yaml_is_one_of_ours(folder: Path) -> None:
    assert names_parts(folder / "model.yaml")
    assert not names_parts(FOLDER / "patchioner-mini.yaml")  # a recipe
    assert {path.stem for path in CONFIGS} == set(EXPECTED), "every config of a model is checked"
    other = folder / "other.yaml"
    for text in ("prefix_size: 768\nsupport_memory_size: 0\n", "a: ["):
        other.write_text(text)
        assert not names_parts(other)
    for text, message in (("a: [", "not a plain YAML file"), ("[1]", "found .1.")):
        other.write_text(text)
        with pytest.raises(CheckpointError, match=rf"other\.yaml.*{message}"):
            build_model(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_bnk": "memory"}, "unknown key 'memory_bnk'.*'memory_bank'"),
        ({"name": "absent"}, "missing name"),
        ({"backbone": "absent"}, "missing backbone"),
        ({"decoder": "absent"}, "decoder is None"),
        ({"decoder": {"type": "retrieve"}}, "retrieval"),
        ({"decoder": 3}, "decoder is 3"),
        ({"backbone": "eyes"}, "backbone 'eyes': there is no"),
        ({"memory_bank": "memories"}, "memory_bank 'memories': there is no"),
        ({"text_tower": {"type": "bert"}}, "vocabulary"),
        ({"text_tower": {"type": "openclip"}}, "'openclip'.*'open_clip'"),
        ({"settings": {"contxt": 1}}, "'contxt'.*context"),
        ({"settings": {"name": "x"}}, "stands outside of"),
        ({"settings": [1]}, "settings is .1.; it must be Mapping"),
        ({"backbone": ["timm"]}, "give a folder or a mapping"),
        ({"backbone": {**TIMM, "type": "tim"}}, "'tim'.*'timm'"),
        ({"backbone": {**TIMM, "type": ["timm"]}}, "timm"), ({"backbone": {**TIMM, "name": 3}}, "wrong setting"),
        ({"backbone": {**TIMM, "head": "standardise"}}, "wrong setting"),
        ({"backbone": {**TIMM, "head": {"type": "wig"}}}, "wig"),
        ({"backbone": {**TIMM, "head": {"type": "linear"}}}, "'dim'"),
        ({"backbone": {**TIMM, "hed": {}}}, "unknown key of timm 'hed'.*'head'"),
        ({"backbone": {**TIMM, "name": "test_vitt"}}, "test_vitt.*test_vit"),
        ({"backbone": {**TIMM, "weights": "eye.pth"}}, "there is no"),
        ({"backbone": {**TIMM, "weights": None}}, "needs 'weights'"),
        ({"backbone": {k: v for k, v in TIMM.items() if k != "name"}}, "name"),
        ({"backbone": {**TIMM, "preprocessing": None}}, "preprocessing: expected keys.*None"),
        ({"backbone": {**TIMM, "preprocessing": {**PREPROCESSING, "sise": 3}}}, "unknown key 'sise'.*'size'"),
        ({"backbone": {**TIMM, "preprocessing": {**PREPROCESSING, "mode": "squeeze"}}}, "squeeze"),
        ({"backbone": {**TIMM, "preprocessing": {**PREPROCESSING, "size": "65"}}}, "size is '65'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        assert build_model(write(folder, **changes)).text_tower is None
    assert "model.yaml" in str(caught.value)


DINOTXT = {
    "type": "dinotxt", "name": "vit_small_patch14_reg4_dinov2",
    "overrides": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "preprocessing": {"mode": "stretch", "size": 56, "patch_size": 14},
}  # fmt: skip


def test_dinotxt_takes_two_files(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original: Any = build_backbone({**DINOTXT, "weights": "random"}, tmp_path)
    torch.save(original.vit.state_dict(), tmp_path / "vision.pth")
    torch.save(original.head.state_dict(), tmp_path / "head.pth")
    files = {"vision": "vision.pth", "head": "head.pth"}
    read = build_backbone({**DINOTXT, "weights": files}, tmp_path)
    first, second = (b.encode([noise_photo()])[0] for b in (original, read))
    assert torch.equal(first.tokens, second.tokens)
    for wrong, message in (
        ("head.pth", "two files"),
        ({"vision": "vision.pth"}, "head of dino.txt is None"),
        ({"vision": "vision.pth", "had": "x"}, "'had'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_backbone({**DINOTXT, "weights": wrong}, tmp_path)


def test_talk2dino_takes_a_tower_and_a_file(tmp_path: Path) -> None:
    tiny_tower(dim=12).save(tmp_path / "reader")
    torch.save(talk2dino_state(20, 12), tmp_path / "projection.pth")
    settings = {"type": "talk2dino", "tower": "reader", "weights": "projection.pth"}
    assert build_text_tower(settings, tmp_path).dim == 20
    assert build_text_tower({**settings, "weights": "random", "dim": 7}, tmp_path).dim == 7
    with pytest.raises(CheckpointError, match="'towr'"):
        build_text_tower({**settings, "towr": "reader"}, tmp_path)


def test_siglips_text_is_fetched_from_a_repository(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    shape = {"vocabulary": 26, "dim": 8, "width": 8, "layers": 1, "heads": 1, "max_tokens": 4}
    settings = {"type": "siglip", "tokenizer": letters(tmp_path).name, "weights": "random", **shape}
    original: Any = build_text_tower(settings, tmp_path)
    state = {f"text.{name}": t for name, t in original.network.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    fetch = Mock(side_effect=lambda hub_id, name: tmp_path / name)
    monkeypatch.setattr(hub, "fetch", fetch)
    place = "pretrained:owner/name"
    fetched = build_text_tower({**settings, "tokenizer": place, "weights": place}, tmp_path)
    names = ("tokenizer.json", "open_clip_model.safetensors")
    assert [one.args for one in fetch.call_args_list] == [("owner/name", name) for name in names]
    assert torch.equal(fetched.encode(["a b", "c"]), original.encode(["a b", "c"]))
    with pytest.raises(CheckpointError, match="pretrained:OWNER/NAME"):
        build_text_tower({**settings, "weights": "pretrained"}, tmp_path)


def test_open_clip_weights_go_by_a_tag(tmp_path: Path) -> None:
    settings = {"type": "open_clip", "name": "ViT-B-16", "weights": "pretrained"}
    vision = {**settings, "preprocessing": PREPROCESSING}
    for build, given in ((build_text_tower, settings), (build_backbone, vision)):
        with pytest.raises(CheckpointError, match="pretrained:openai"):
            build(given, tmp_path)
