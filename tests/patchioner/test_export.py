"""Export: graphs give the networks' own numbers, and an export is a checkpoint that says the same."""

import copy
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patchioner import Patchioner, export
from patchioner.backbones import SingleViT, load_backbone
from patchioner.backbones.clip import ProxyClip
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.exported import NETWORK_FILES
from patchioner.backbones.vit import SiglipViT, resample_positions
from patchioner.base.errors import CheckpointError, ExportError, OptionError, UnknownNameError
from patchioner.base.files import file_sha256
from tests.support import MonkeyPatch, tiny
from tests.support.tiny import noise_photo

DINOV2, ROTARY = "vit_small_patch14_reg4_dinov2", "vit_base_patch16_dinov3"
PHOTOS = [noise_photo(96, 64), noise_photo(50, 130, seed=1), noise_photo(80, 80, seed=2)]
FORMATS = pytest.mark.parametrize("kind", ["onnx", "openvino"])
KINDS: dict[str, Any] = {
    "plain": lambda: tiny.tiny_backbone(overrides={"depth": 2}),
    "registers": lambda: tiny.small_vit(DINOV2, mode="stretch"),
    "rotary": lambda: tiny.small_vit(ROTARY, mode="crop"),
    "dinotxt": lambda: tiny.small_vit(DINOV2, DinoTxtViT, "pad", space="both"),
    "siglip": lambda: tiny.small_vit("vit_base_patch16_siglip_512", SiglipViT, "stretch"),
    "clip": lambda: tiny.tiny_clip(mode="aspect"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_networks_own_numbers_at_every_size(kind: str) -> None:
    backbone: SingleViT = KINDS[kind]()
    graph, fit = export.trace_backbone(backbone), backbone.preprocessing
    assert (graph.positions is None) == (fit.mode != "aspect")
    side = fit.size // fit.patch_size
    for grid in [(2, 3), (4, 4), (5, 2), (3, 7)] if fit.mode == "aspect" else [(side, side)]:
        inputs = [torch.randn(1, 3, grid[0] * fit.patch_size, grid[1] * fit.patch_size)]
        if graph.positions is not None and graph.native_grid is not None:
            inputs.append(resample_positions(graph.positions, graph.native_grid, grid))
        with torch.inference_mode():
            expected = backbone.outputs(inputs[0], grid)._asdict()  # it is left as it is
        found = dict(zip(graph.outputs, graph.program.module()(*inputs), strict=True))
        assert set(found) == {name for name, part in expected.items() if part is not None}
        for name, part in found.items():
            torch.testing.assert_close(part, expected[name], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model() -> Patchioner:
    parts = replace(tiny.tiny_parts(), backbone=KINDS["plain"]())
    return Patchioner(parts, device="cpu")


@pytest.fixture(scope="module")
def folders(model: Patchioner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    kinds: tuple[Any, ...] = ("onnx", "openvino")
    return {kind: export.export_model(model, root / kind, format=kind).folder for kind in kinds}


@FORMATS
def test_an_export_says_the_same(
    model: Patchioner, folders: dict[str, Path], kind: str, monkeypatch: MonkeyPatch, tmp_path: Path
) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    backbone: Any = loaded.parts.backbone
    strip = noise_photo(320, 10, seed=3)  # a grid of one row
    assert export.compare_backbones(model.parts.backbone, backbone, [*PHOTOS, strip])[0] < 1e-4
    assert export.count_changed_captions(model, loaded, PHOTOS) == (0, 18)
    mine, theirs = (one.encode(PHOTOS[0]) for one in (model, loaded))
    assert mine.geometry == theirs.geometry
    for name in ("reference_attention", "attention", "cls"):
        torch.testing.assert_close(getattr(theirs, name), getattr(mine, name))
    for _ in range(2):  # the second time over one of the same kind
        loaded.save_pretrained(tmp_path / "copy", storage="int8")
        again = Patchioner.from_pretrained(tmp_path / "copy", device="cpu")
        assert torch.equal(again.encode(PHOTOS[0]).tokens, theirs.tokens)
    twin = copy.deepcopy(loaded.parts).backbone
    assert torch.equal(twin.encode(PHOTOS[:1])[0].tokens, theirs.tokens)
    # Threads share it, and torch's number of threads counts.
    alone = [loaded.encode(photo).tokens for photo in PHOTOS]
    with ThreadPoolExecutor(len(PHOTOS)) as pool:
        shared = list(pool.map(lambda photo: loaded.encode(photo).tokens, PHOTOS))
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)
    asked = torch.get_num_threads() + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked)
    loaded.encode(PHOTOS[0])
    assert list(backbone._open) == [asked]


@FORMATS
def test_a_damaged_network_is_refused(folders: dict[str, Path], kind: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(folders[kind] / "backbone", tmp_path / "copy")
    file = folder / ("network.onnx" if kind == "onnx" else "network.bin")
    content = file.read_bytes()
    middle = len(content) // 2
    for damage in (content[:middle], content[:middle] + b"?" * (len(content) - middle), None):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(CheckpointError, match=file.name):
            load_backbone(folder)
    file.write_bytes(content)
    network = folder / NETWORK_FILES[kind]
    network.write_text("not a network, though its checksum is right")
    files = json.loads((folder / "config.json").read_text())["files"]
    tiny.change_config(folder, files={**files, network.name: file_sha256(network)})
    with pytest.raises(ExportError, match=f"cannot run .*{network.name}"):
        load_backbone(folder).encode([PHOTOS[0]])


def test_a_config_that_is_wrong(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["onnx"] / "backbone", tmp_path / "copy")
    good: dict[str, Any] = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"precision": "fp8"}, "fp8"),
        ({"files": {}}, "network.onnx"),
        ({"files": {**good["files"], "../../config.json": "0"}}, "config.json: no such file"),
        ({"outputs": 3}, "wrong setting"),
        ({"dim": "wide"}, "wide"),
    ):
        tiny.change_config(folder, **{**good, **changes})
        with pytest.raises(CheckpointError, match=message):
            load_backbone(folder)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_lower_precisions_stay_close(precision: Any, tmp_path: Path) -> None:
    settings: Any = {"format": "openvino", "precision": precision, "fit": "stretch"}
    backbone = tiny.tiny_backbone(overrides={"depth": 1})
    exported, source = export.export_backbone(backbone, tmp_path, **settings)
    off, cosine = export.compare_backbones(source, exported, export.trial_pictures())
    assert 0.995 < cosine <= 1.0 + 1e-6  # processors without bfloat16 compute in float32
    if precision == "int8":
        assert off > 1e-4, "weights are not quantised at all"


def test_what_cannot_be_done(model: Patchioner, folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = Patchioner.from_pretrained(folders["onnx"], device="cpu")
    for source, options, error, message in (
        (loaded, {}, ExportError, "an export already"),
        (model, {"format": "onxx"}, UnknownNameError, "onxx.*did you mean 'onnx'"),
        (model, {"precision": "bf16"}, OptionError, "no precision 'bf16'"),
        (model, {"size": 50}, OptionError, "multiple of patch size"),
    ):
        with pytest.raises(error, match=message):
            export.export_model(source, tmp_path / "out", **options)
    with pytest.raises(OptionError, match="exists already"):
        export.export_model(model, folders["onnx"])
    assert not any(tmp_path.iterdir())
    with pytest.raises(ExportError, match=rf"{ROTARY} .*--fit stretch"):
        export.trace_backbone(tiny.small_vit(ROTARY))
    with pytest.raises(ExportError, match="ProxyClip"):
        export.exportable(ProxyClip(tiny.tiny_clip(), tiny.tiny_backbone(mode="stretch")))


def test_an_export_that_computes_something_else_is_refused(
    model: Patchioner, folders: dict[str, Path], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    exported: Any = Patchioner.from_pretrained(folders["onnx"], device="cpu").parts.backbone
    exported.native_positions.mul_(1.2)
    answer = exported, model.parts.backbone
    monkeypatch.setattr("patchioner.export.export_backbone", lambda *_, **__: answer)
    with pytest.raises(ExportError, match="does not compute this network right"):
        export.export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
