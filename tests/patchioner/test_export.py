"""Export: graphs give the networks' own numbers, and an export is a checkpoint that says the same."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patchioner import Patchioner
from patchioner.backbones import SingleViT, TimmViT, load_backbone
from patchioner.backbones.clip import OpenClipViT, ProxyClip, clip_preprocessing
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.exported import NETWORK_FILES, resample_positions
from patchioner.backbones.vit import SiglipViT
from patchioner.base.errors import CheckpointError, ExportError, OptionError, UnknownNameError
from patchioner.base.files import file_sha256
from patchioner.export import (
    Graph,
    compare_backbones,
    count_changed_captions,
    export_backbone,
    export_model,
    exportable,
    trace_backbone,
    trial_pictures,
)
from patchioner.geometry import Fit, Preprocessing
from tests.support import MonkeyPatch
from tests.support.tiny import change_config, clip_architecture, noise_photo, shaken, tiny_parts


def shallow(mode: str = "aspect") -> TimmViT:
    """A block of timm's test model, with a standardising head and no weight near zero."""
    torch.manual_seed(0)
    settings, head = Preprocessing(mode, 64, 16), {"type": "standardise"}  # type: ignore[arg-type]
    backbone = shaken(TimmViT("test_vit", settings, head=head, overrides={"depth": 1}))
    with torch.no_grad():
        for name, tensor in backbone.head.named_buffers():
            tensor.copy_(torch.rand(64) + 0.5 if "std" in name else torch.randn(64) * 0.1)
    return backbone


@pytest.fixture(scope="module")
def backbone() -> TimmViT:
    """A backbone that takes photos of any shape."""
    return shallow()


SMALL: dict[str, Any] = {"depth": 1, "embed_dim": 48, "num_heads": 3}
ROTARY = "vit_base_patch16_dinov3"


def check(backbone: SingleViT, graph: Graph, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    patch = backbone.preprocessing.patch_size
    inputs = [torch.randn(1, 3, grid[0] * patch, grid[1] * patch)]
    if graph.positions is not None and graph.native_grid is not None:
        inputs.append(resample_positions(graph.positions, graph.native_grid, grid))
    with torch.inference_mode():
        expected = backbone.outputs(inputs[0], grid)._asdict()
    found = dict(zip(graph.outputs, graph.program.module()(*inputs), strict=True))
    assert set(found) == {name for name, part in expected.items() if part is not None}
    for name, part in found.items():
        torch.testing.assert_close(part, expected[name], rtol=1e-4, atol=1e-4)


def test_a_graph_of_several_sizes(backbone: TimmViT) -> None:
    graph = trace_backbone(backbone)
    for grid in ((2, 3), (4, 4), (5, 2), (3, 7)):
        check(backbone, graph, grid)
    assert backbone.vit.pos_embed is not None  # it is left as it is


DINOV2 = "vit_small_patch14_reg4_dinov2"
KINDS: dict[str, Any] = {
    "registers": lambda: TimmViT(DINOV2, Preprocessing("stretch", 56, 14), overrides=SMALL),
    "rotary": lambda: TimmViT(ROTARY, Preprocessing("crop", 64, 16), overrides=SMALL),
    "dinotxt": lambda: DinoTxtViT(
        DINOV2, Preprocessing("pad", 56, 14), overrides=SMALL, space="both"
    ),
    "siglip": lambda: SiglipViT(
        "vit_base_patch16_siglip_512", Preprocessing("stretch", 64, 16), overrides=SMALL
    ),
    "clip": lambda: tiny_clip("aspect"),
}


def tiny_clip(mode: Fit) -> OpenClipViT:
    pytest.importorskip("open_clip")
    return OpenClipViT("tiny", clip_preprocessing(32, 8, mode), architecture=clip_architecture())


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_each_kind(kind: str) -> None:
    backbone = shaken(KINDS[kind](), 0.05)
    graph, fit = trace_backbone(backbone), backbone.preprocessing
    assert (graph.positions is None) == (fit.mode != "aspect")
    side = fit.size // fit.patch_size
    check(backbone, graph, (2, 5) if fit.mode == "aspect" else (side, side))


PHOTOS = [noise_photo(96, 64), noise_photo(50, 130, seed=1), noise_photo(80, 80, seed=2)]
STRIP = noise_photo(320, 10, seed=3)  # a grid of one row
FORMATS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def model(backbone: TimmViT) -> Patchioner:
    return Patchioner(replace(tiny_parts(), backbone=backbone), device="cpu")


@pytest.fixture(scope="module")
def folders(
    model: Patchioner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    root = tmp_path_factory.mktemp("exports")
    for kind in FORMATS:
        export_model(model, root / kind, format=kind)  # type: ignore[arg-type]
    yield {kind: root / kind for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_says_the_same(
    model: Patchioner, folders: dict[str, Path], kind: str, monkeypatch: MonkeyPatch
) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    backbone: Any = loaded.parts.backbone
    found = compare_backbones(model.parts.backbone, backbone, [*PHOTOS, STRIP])
    assert max(found.tokens, found.cls, found.attention) < 1e-4
    assert count_changed_captions(model, loaded, PHOTOS) == (0, 18)
    mine, theirs = (one.encode(PHOTOS[0]) for one in (model, loaded))
    assert mine.geometry == theirs.geometry
    torch.testing.assert_close(theirs.reference_attention, mine.reference_attention)
    # Threads share it, and torch's number of threads counts.
    alone = [loaded.encode(photo).tokens for photo in PHOTOS]
    with ThreadPoolExecutor(len(PHOTOS)) as pool:
        shared = list(pool.map(lambda photo: loaded.encode(photo).tokens, PHOTOS))
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)
    asked = torch.get_num_threads() + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked)
    loaded.encode(PHOTOS[0])
    assert list(backbone._open) == [asked]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_saved_and_copied(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    tokens = loaded.encode(PHOTOS[0]).tokens
    for _ in range(2):  # the second time over one of the same kind
        loaded.save_pretrained(tmp_path / "copy", storage="int8")
        again = Patchioner.from_pretrained(tmp_path / "copy", device="cpu")
        assert torch.equal(again.encode(PHOTOS[0]).tokens, tokens)
    twin = copy.deepcopy(loaded.parts).backbone
    assert torch.equal(twin.encode(PHOTOS[:1])[0].tokens, tokens)


@pytest.mark.parametrize("kind", FORMATS)
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
    network = folder / NETWORK_FILES[kind]  # type: ignore[index]
    network.write_text("not a network, though its checksum is right")
    files = json.loads((folder / "config.json").read_text())["files"]
    change_config(folder, files={**files, network.name: file_sha256(network)})
    with pytest.raises(ExportError, match=f"cannot run .*{network.name}"):
        load_backbone(folder).encode([PHOTOS[0]])


def test_a_config_that_is_wrong(folders: dict[str, Path], tmp_path: Path) -> None:
    outside = {"network.onnx": "0", "../../config.json": "0"}
    for number, (name, value, message) in enumerate(
        (
            ("precision", "fp8", "fp8"),
            ("files", {}, "network.onnx"),
            ("files", outside, "network.onnx|no such file"),
            ("outputs", 3, "wrong setting"),
            ("dim", "wide", "wide"),
        )
    ):
        folder = shutil.copytree(folders["onnx"] / "backbone", tmp_path / str(number))
        change_config(folder, **{name: value})
        with pytest.raises(CheckpointError, match=message):
            load_backbone(folder)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_lower_precisions_stay_close(backbone: TimmViT, precision: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    settings: Any = {"format": "openvino", "precision": precision, "fit": "stretch"}
    exported, source = export_backbone(backbone, tmp_path, **settings)
    found = compare_backbones(source, exported, trial_pictures())
    assert 0.995 < found.mean_cosine < 1.0
    if precision == "int8":
        assert found.tokens > 1e-4, "weights are not quantised at all"


def test_what_cannot_be_done(model: Patchioner, folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = Patchioner.from_pretrained(folders["onnx"], device="cpu")
    for source, options, error, message in (
        (loaded, {}, ExportError, "an export already"),
        (model, {"format": "onxx"}, UnknownNameError, "onxx.*did you mean 'onnx'"),
        (model, {"precision": "bf16"}, OptionError, "no precision 'bf16'"),
        (model, {"size": 50}, OptionError, "multiple of the patch size"),
    ):
        with pytest.raises(error, match=message):
            export_model(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="exists already"):
        export_model(model, folders["onnx"])
    assert not any(tmp_path.iterdir())
    rotary = TimmViT(ROTARY, Preprocessing("aspect", 64, 16), overrides=SMALL)
    with pytest.raises(ExportError, match=rf"{ROTARY} .*--fit stretch"):
        trace_backbone(rotary)
    with pytest.raises(ExportError, match="ProxyClip"):
        exportable(ProxyClip(tiny_clip("stretch"), shallow("stretch")))


def test_an_export_that_computes_something_else_is_refused(
    model: Patchioner, folders: dict[str, Path], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    exported: Any = Patchioner.from_pretrained(folders["onnx"], device="cpu").parts.backbone
    exported.native_positions.mul_(1.2)
    answer = exported, model.parts.backbone
    monkeypatch.setattr("patchioner.export.export_backbone", lambda *_, **__: answer)
    with pytest.raises(ExportError, match="does not compute this network right"):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
