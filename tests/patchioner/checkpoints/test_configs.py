"""Readable configs: each that we ship builds its backbone at true shapes; parts, paths and wrong keys."""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.backbones import BACKBONES, TimmViT, load_backbone
from patchioner.backbones.clip import ProxyClip
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints import folder as folders
from patchioner.checkpoints import make_part
from patchioner.checkpoints.folder import build_model, names_parts, read_checkpoint
from patchioner.geometry import Preprocessing
from patchioner.text import TEXT_TOWERS, Talk2DinoTower, load_tower
from tests.patchioner.text import test_clip as towers
from tests.support import MonkeyPatch, tiny
from tests.support.published import talk2dino_state
from tests.support.tiny import TEXTS, noise_photo, tiny_backbone, tiny_tokenizer, tiny_tower

build_backbone: Any = partial(make_part, BACKBONES, source="config")
build_text_tower: Any = partial(make_part, TEXT_TOWERS, source="config")
FOLDER = Path(__file__).parents[3] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if names_parts(path))
EXPECTED, WRONG = (
    json.loads((Path(__file__).parent / "cases" / f"{name}_configs.json").read_text()) for name in ("shipped", "wrong")
)


def without_weights(settings: Any) -> Any:
    """The same part with random weights, so that nothing is fetched."""
    if not isinstance(settings, Mapping):
        return settings
    changed = {key: without_weights(value) for key, value in settings.items() if key != "weights"}
    return {**changed, "weights": "random"} if "weights" in settings else changed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_at_true_shapes(path: Path, tmp_path: Path) -> None:
    config = folders.read_model_config(path)
    size, side, width, heads, statistics = EXPECTED["configs"][path.stem]
    with torch.device("meta"):  # true shapes without their weights; ViT-g has 1.1 billion
        backbone = build_backbone(without_weights(config.backbone), FOLDER)
    seen: Any = getattr(backbone, "proxy", backbone)
    fit = seen.preprocessing
    assert (fit.mode, fit.size) == ("stretch", size)
    assert [list(fit.mean), list(fit.std)] == EXPECTED[statistics]
    features = backbone.encode([Image.new("RGB", (640, 480), (10, 20, 30))])[0]
    assert (features.tokens.shape, features.cls.shape) == ((side, side, width), (width,))
    assert backbone.dim == width
    shape = None if features.attention is None else features.attention.shape
    assert shape == (None if heads is None else (heads, side, side))
    assert features.geometry == backbone.geometry((640, 480))
    assert config.model_settings().licence != "unknown" and config.name == path.stem
    for settings in (config.backbone, config.backbone.get("proxy")):
        name = (settings or {}).get("name", "")
        if name.startswith("vit_"):
            published = timm.get_pretrained_cfg(name)
            assert published is not None, f"{name} is no name of weights"
            given = settings["preprocessing"]
            assert (given["mean"], given["std"]) == (list(published.mean), list(published.std))
    assert (config.text_tower is None) is path.stem.startswith(("dinov2", "dinov3"))
    if config.text_tower is not None:
        settings = without_weights(config.text_tower)
        if "tokenizer" in settings:
            settings["tokenizer"] = str(tmp_path / "tokenizer.json")
            tiny_tokenizer().save(settings["tokenizer"])
        with torch.device("meta"):
            assert build_text_tower(settings, FOLDER).dim == width


PREPROCESSING = {"mode": "aspect", "size": 64, "patch_size": 16}
TIMM = {"type": "timm", "name": "test_vit", "weights": "random", "preprocessing": PREPROCESSING}


MAKERS: dict[str, Any] = {
    "timm": tiny_backbone,
    "dinotxt": lambda: tiny.small_vit("vit_small_patch14_reg4_dinov2", DinoTxtViT),
    "open_clip": tiny.tiny_clip,
    "proxy_clip": lambda: ProxyClip(tiny.tiny_clip(), tiny_backbone(mode="stretch")),
    "bert": tiny_tower,
    "talk2dino": lambda: Talk2DinoTower(tiny_tower(), 12, width=14),
    "open_clip_text": towers.tiny,
    "siglip_text": towers.tiny_tower,
    "dinotxt_text": towers.dinotxt_tower,
    "decoder": tiny.tiny_decoder,
    "memory_bank": lambda: MemoryBank(F.normalize(tiny_tower().encode(TEXTS), dim=1), TEXTS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of each kind in our own format, for configs that name them."""
    root = tmp_path_factory.mktemp("parts")
    for name, make in MAKERS.items():
        make().save(root / name)
    folders.write_checkpoint(tiny.tiny_parts(), root / "checkpoint")
    return root


def write(folder: Path, **changes: Any) -> Path:
    config = {
        "name": "tiny", "about": "a test", "backbone": "timm", "text_tower": "bert", "memory_bank": "memory_bank",
        "decoder": "decoder", "settings": {"context": 0.5, "weighting": {"kind": "attention"}}, **changes,
    }  # fmt: skip
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v != "absent"}))
    return path


def test_a_model_of_folders(folder: Path) -> None:
    parts = read_checkpoint(write(folder))
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
    settings = {**TIMM, "weights": "timm", "head": {"type": "standardise"}}
    larger = {**settings, "preprocessing": {**PREPROCESSING, "size": 96}}
    assert build_model(write(folder, backbone=larger)).backbone.geometry((9, 9)).grid == (6, 6)


def test_which_yaml_is_one_of_ours(folder: Path) -> None:
    assert names_parts(write(folder))
    assert not names_parts(FOLDER / "patchioner-mini.yaml")  # a recipe
    assert {path.stem for path in CONFIGS} == set(EXPECTED["configs"])  # every one is checked
    other = folder / "other.yaml"
    for text in ("prefix_size: 768\nsupport_memory_size: 0\n", "a: ["):
        other.write_text(text)
        assert not names_parts(other)
    for text, message in (("a: [", "not a plain YAML file"), ("[1]", "found .1.")):
        other.write_text(text)
        with pytest.raises(CheckpointError, match=rf"other\.yaml.*{message}"):
            build_model(other)


def merged(config: Any, changes: Any) -> Any:
    """The config with other values inside of it; "absent" takes one away."""
    if not (isinstance(config, dict) and isinstance(changes, dict)):
        return changes
    found = {**config, **{key: merged(config.get(key), one) for key, one in changes.items()}}
    return {key: one for key, one in found.items() if one != "absent"}


@pytest.mark.parametrize(
    ("part", "changes", "message"), [(part, *case) for part, cases in WRONG.items() for case in cases]
)
def test_a_wrong_config_is_refused(folder: Path, tmp_path: Path, part: str, changes: Any, message: str) -> None:
    if part == "model":
        with pytest.raises(CheckpointError, match=message) as caught:
            assert build_model(write(folder, **changes)).text_tower is None
        assert "model.yaml" in str(caught.value)
        return
    copy = shutil.copytree(folder / part, tmp_path / part)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(merged(config, changes)))
    texts = ("bert", "talk2dino", "open_clip_text", "siglip_text", "dinotxt_text")
    readers = {"checkpoint": read_checkpoint, **dict.fromkeys(texts, load_tower)}
    with pytest.raises(CheckpointError, match=message) as caught:
        readers.get(part, load_backbone)(copy)
    assert str(copy) in str(caught.value)


def test_dinotxt_takes_two_files(tmp_path: Path) -> None:
    original = MAKERS["dinotxt"]()
    config = original.config
    torch.save(original.vit.state_dict(), tmp_path / "vision.pth")
    torch.save(original.head.state_dict(), tmp_path / "head.pth")
    files = {"vision": "vision.pth", "head": "head.pth"}
    read = build_backbone({**config, "weights": files}, tmp_path)
    first, second = (b.encode([noise_photo()])[0] for b in (original, read))
    assert torch.equal(first.tokens, second.tokens)
    for wrong, message in (
        ("head.pth", "two files"),
        ({"vision": "vision.pth"}, "head of dino.txt is None"),
        ({"vision": "vision.pth", "had": "x"}, "'had'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_backbone({**config, "weights": wrong}, tmp_path)


def test_talk2dino_takes_a_tower_and_a_file(tmp_path: Path) -> None:
    tiny_tower(dim=12).save(tmp_path / "reader")
    torch.save(talk2dino_state(20, 12), tmp_path / "projection.pth")
    settings = {"type": "talk2dino", "tower": "reader", "weights": "projection.pth"}
    assert build_text_tower(settings, tmp_path).dim == 20
    assert build_text_tower({**settings, "weights": "random", "dim": 7}, tmp_path).dim == 7


def test_siglips_text_is_fetched(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    shape = {"dim": 8, "width": 8, "layers": 1, "heads": 1, "max_tokens": 4}
    shape |= {"vocabulary": tiny_tokenizer().get_vocab_size()}
    settings = {"type": "siglip", "tokenizer": "tokenizer.json", "weights": "random", **shape}
    original: Any = build_text_tower(settings, tmp_path)
    state = {f"text.{name}": t for name, t in original.network.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    fetch = Mock(side_effect=lambda hub_id, name: tmp_path / name)
    monkeypatch.setattr("patchioner.text.clip.fetch", fetch)
    place = "pretrained:owner/name"
    fetched = build_text_tower({**settings, "tokenizer": place, "weights": place}, tmp_path)
    names = ("tokenizer.json", "open_clip_model.safetensors")
    assert [one.args for one in fetch.call_args_list] == [("owner/name", name) for name in names]
    assert torch.equal(fetched.encode(["a b", "c"]), original.encode(["a b", "c"]))
