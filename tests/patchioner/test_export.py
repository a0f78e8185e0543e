"""Export: graphs give the networks' own numbers, and an export is a checkpoint that says the same."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from patchioner import Box, Patchioner
from patchioner.backbones import TimmViT
from patchioner.backbones.base import SingleViT
from patchioner.backbones.clip import OpenClipViT, clip_preprocessing
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.exported import ExportedBackbone, resample_positions
from patchioner.backbones.proxy import ProxyClip
from patchioner.backbones.vit import SiglipViT
from patchioner.base.errors import (
    CheckpointError,
    ExportError,
    MissingExtraError,
    OptionError,
    UnknownNameError,
)
from patchioner.export import (
    Graph,
    compare_backbones,
    count_changed_captions,
    export_backbone,
    export_model,
    exportable,
    int8_levels,
    trace_backbone,
    trial_pictures,
)
from patchioner.geometry import Preprocessing
from tests.support.tiny import noise_photo, tiny_parts


def shallow(mode: str = "aspect") -> TimmViT:
    """Two blocks of timm's test model, with a standardising head and no weight near zero."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(mode, 64, 16)  # type: ignore[arg-type]
    backbone = TimmViT(
        "test_vit", preprocessing, head={"type": "standardise"}, overrides={"depth": 2}
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, tensor in backbone.head.named_buffers():
            tensor.copy_(torch.rand(64) + 0.5 if "std" in name else torch.randn(64) * 0.1)
    return backbone


@pytest.fixture(scope="session")
def backbone() -> TimmViT:
    """A backbone that takes photos of any shape."""
    return shallow()


@pytest.fixture(scope="session")
def graph(backbone: TimmViT) -> Graph:
    """Its graph."""
    return trace_backbone(backbone)


TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


def noisy(backbone: SingleViT) -> SingleViT:
    torch.manual_seed(1)
    with torch.no_grad():  # timm starts some scales near zero, which would hide most of the network
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return backbone


def run(graph: Graph, *inputs: Tensor) -> dict[str, Tensor]:
    return dict(zip(graph.outputs, graph.program.module()(*inputs), strict=True))


def check(backbone: SingleViT, graph: Graph, pixels: Tensor, grid: tuple[int, int]) -> None:
    inputs = [pixels]
    if graph.positions is not None and graph.native_grid is not None:
        inputs.append(resample_positions(graph.positions, graph.native_grid, grid))
    with torch.inference_mode():
        expected = backbone.outputs(pixels, grid)._asdict()
    found = run(graph, *inputs)
    assert set(found) == {name for name, part in expected.items() if part is not None}
    for name, part in found.items():
        torch.testing.assert_close(part, expected[name], **TOLERANCE)


@pytest.mark.parametrize("grid", [(2, 3), (4, 4), (5, 2), (3, 7)])
def test_a_graph_of_several_sizes_gives_the_networks_own_numbers(
    backbone: TimmViT, graph: Graph, grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    check(backbone, graph, torch.randn(1, 3, grid[0] * 16, grid[1] * 16), grid)


ONE_SIZE = {
    "registers": lambda: TimmViT(
        "vit_small_patch14_reg4_dinov2", Preprocessing("stretch", 56, 14), overrides=SMALL
    ),
    "rotary": lambda: TimmViT(
        "vit_base_patch16_dinov3", Preprocessing("crop", 64, 16), overrides=SMALL
    ),
    "dinotxt": lambda: DinoTxtViT(
        "vit_small_patch14_reg4_dinov2", Preprocessing("pad", 56, 14), overrides=SMALL, space="both"
    ),
    "siglip": lambda: SiglipViT(
        "vit_base_patch16_siglip_512", Preprocessing("stretch", 64, 16), overrides=SMALL
    ),
}


@pytest.mark.parametrize("kind", ONE_SIZE)
def test_a_graph_of_one_size(kind: str) -> None:
    backbone = noisy(ONE_SIZE[kind]())
    graph = trace_backbone(backbone)
    assert graph.positions is None
    side = backbone.preprocessing.size
    cells = side // backbone.preprocessing.patch_size
    check(backbone, graph, torch.randn(1, 3, side, side), (cells, cells))


@pytest.mark.parametrize(("mode", "grid"), [("aspect", (2, 5)), ("stretch", (4, 4))])
def test_open_clip(mode: Any, grid: tuple[int, int]) -> None:
    pytest.importorskip("open_clip")
    backbone = OpenClipViT("tiny", clip_preprocessing(64, 16, mode), architecture=CLIP)
    graph = trace_backbone(backbone)
    check(backbone, graph, torch.randn(1, 3, grid[0] * 16, grid[1] * 16), grid)


def test_the_backbone_is_left_as_it_is(backbone: TimmViT) -> None:
    before = {name: id(part) for name, part in backbone.named_modules()}
    grads = [parameter.requires_grad for parameter in backbone.parameters()]
    trace_backbone(backbone)
    assert {name: id(part) for name, part in backbone.named_modules()} == before
    assert [parameter.requires_grad for parameter in backbone.parameters()] == grads
    assert backbone.vit.pos_embed is not None


def test_rotary_positions_cannot_be_given_for_several_sizes() -> None:
    rotary = TimmViT("vit_base_patch16_dinov3", Preprocessing("aspect", 64, 16), overrides=SMALL)
    with pytest.raises(ExportError, match=r"vit_base_patch16_dinov3 .*--fit stretch"):
        trace_backbone(rotary)


def test_what_is_no_single_network_is_refused() -> None:
    vision = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
    text = {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}
    architecture = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}
    clip = OpenClipViT("tiny", clip_preprocessing(32, 8), architecture=architecture)
    with pytest.raises(ExportError, match="ProxyClip"):
        exportable(ProxyClip(clip, shallow("stretch")))


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
def test_an_export_is_a_checkpoint_that_says_the_same(
    model: Patchioner, folders: dict[str, Path], kind: str
) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    assert isinstance(loaded.parts.backbone, ExportedBackbone)
    found = compare_backbones(model.parts.backbone, loaded.parts.backbone, [*PHOTOS, STRIP])
    assert max(found.tokens, found.cls, found.attention) < 1e-4
    assert count_changed_captions(model, loaded, PHOTOS) == (0, 18)
    for photo in PHOTOS:
        mine, theirs = model.encode(photo), loaded.encode(photo)
        assert mine.geometry == theirs.geometry
        assert mine.reference_attention is not None
        assert theirs.reference_attention is not None
        torch.testing.assert_close(
            theirs.reference_attention, mine.reference_attention, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("kind", FORMATS)
def test_saving_a_loaded_export_copies_it(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    loaded.save_pretrained(tmp_path / "copy", storage="int8")
    again = Patchioner.from_pretrained(tmp_path / "copy", device="cpu")
    one, two = (m.encode(PHOTOS[0]).tokens for m in (loaded, again))
    assert torch.equal(one, two)
    loaded.save_pretrained(tmp_path / "copy")  # over itself, and over one of the same kind
    assert Patchioner.from_pretrained(tmp_path / "copy", device="cpu").parts.backbone.dim == 64


@pytest.mark.parametrize("kind", FORMATS)
def test_threads_share_an_export_and_torchs_number_of_threads_counts(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu")
    alone = [loaded.encode(photo).tokens for photo in PHOTOS]
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        found[index] = loaded.encode(PHOTOS[index]).tokens

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(PHOTOS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, tokens in enumerate(alone):
        torch.testing.assert_close(found[index], tokens, rtol=1e-5, atol=1e-5)
    backbone: Any = loaded.parts.backbone
    asked = torch.get_num_threads() + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked)
    loaded.encode(PHOTOS[0])
    assert list(backbone._open) == [asked]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_copy_opens_the_network_for_itself(folders: dict[str, Path], kind: str) -> None:
    loaded = Patchioner.from_pretrained(folders[kind], device="cpu").parts
    before = loaded.backbone.encode(PHOTOS[:1])[0].tokens
    twin = copy.deepcopy(loaded).backbone
    assert twin.config == loaded.backbone.config
    assert torch.equal(twin.encode(PHOTOS[:1])[0].tokens, before)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_network_is_refused(
    folders: dict[str, Path], kind: str, damage: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(folders[kind], tmp_path / "copy")
    file = copy / "backbone" / ("network.onnx" if kind == "onnx" else "network.bin")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(content) // 2
        file.write_bytes(
            content[:middle] + (b"" if damage == "truncated" else b"?" * (len(content) - middle))
        )
    with pytest.raises(CheckpointError, match=file.name):
        Patchioner.from_pretrained(copy, device="cpu")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_that_the_runtime_does_not_understand(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """The checksum is right, and still it is no network."""
    copy = shutil.copytree(folders[kind] / "backbone", tmp_path / "copy")
    name = "network.onnx" if kind == "onnx" else "network.xml"
    (copy / name).write_text("not a network")
    config = json.loads((copy / "config.json").read_text())
    from patchioner.backbones import load_backbone
    from patchioner.base.files import file_sha256

    config["files"][name] = file_sha256(copy / name)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=f"cannot run .*{name}"):
        load_backbone(copy).encode([PHOTOS[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "fp8"),
        ({"files": {}}, "network.onnx"),
        ({"files": {"network.onnx": "0", "../../config.json": "0"}}, "network.onnx|no such file"),
        ({"outputs": 3}, "wrong setting"),
        ({"dim": "wide"}, "wide"),
    ],
)
def test_a_config_that_is_wrong(
    folders: dict[str, Path], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(folders["onnx"], tmp_path / "copy")
    config = json.loads((copy / "backbone/config.json").read_text())
    (copy / "backbone/config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        Patchioner.from_pretrained(copy, device="cpu")


@pytest.mark.parametrize(("kind", "module"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_without_the_runtime_there_is_the_line_that_installs_it(
    model: Patchioner,
    folders: dict[str, Path],
    kind: Any,
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("patchioner.base.optional.importlib.import_module", _absent)
    for work in (
        lambda: Patchioner.from_pretrained(folders[kind], device="cpu"),
        lambda: export_model(model, tmp_path / "out", format=kind),
    ):
        with pytest.raises(MissingExtraError, match=rf"pip install .*\[{kind}\]"):
            work()
    assert not (tmp_path / "out").exists()


def _absent(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("kind", "precision", "least"),
    [("openvino", "int8", 0.995), ("openvino", "bf16", 0.995)],
)
def test_lower_precisions_stay_close(
    backbone: TimmViT, kind: Any, precision: Any, least: float, tmp_path: Path
) -> None:
    pytest.importorskip(kind)
    exported, source = export_backbone(
        backbone, tmp_path, format=kind, precision=precision, fit="stretch"
    )
    found = compare_backbones(source, exported, trial_pictures())
    assert least < found.mean_cosine < 1.0
    if precision == "int8":
        assert found.tokens > 1e-4, "weights are not quantised at all"


def test_another_size_and_fit(model: Patchioner, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = export_model(model, tmp_path / "small", format="openvino", size=48, fit="pad")
    loaded = Patchioner.from_pretrained(tmp_path / "small", device="cpu")
    features = loaded.encode(PHOTOS[0])
    assert features.geometry.grid == (3, 3)
    assert features.geometry.fit == "pad"
    assert report.difference.tokens < 1e-4
    assert model.encode(PHOTOS[0]).geometry.fit == "aspect", "the model is left as it is"
    assert loaded.caption(PHOTOS[0], [Box(10, 10, 60, 40)])[0].text


def test_what_cannot_be_exported(
    model: Patchioner, folders: dict[str, Path], tmp_path: Path
) -> None:
    loaded = Patchioner.from_pretrained(folders["onnx"], device="cpu")
    with pytest.raises(ExportError, match="an export already"):
        export_model(loaded, tmp_path / "a")
    with pytest.raises(UnknownNameError, match="onxx.*did you mean 'onnx'"):
        export_model(model, tmp_path / "b", format="onxx")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no precision 'bf16'"):
        export_model(model, tmp_path / "c", format="onnx", precision="bf16")
    with pytest.raises(OptionError, match="multiple of the patch size"):
        export_model(model, tmp_path / "d", size=50)
    with pytest.raises(OptionError, match="exists already"):
        export_model(model, folders["onnx"])
    assert not any(tmp_path.iterdir())


def test_an_export_that_computes_something_else_is_refused(
    model: Patchioner,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported: Any = Patchioner.from_pretrained(folders["onnx"], device="cpu").parts.backbone
    exported.native_positions.mul_(1.2)
    answer = exported, model.parts.backbone
    monkeypatch.setattr("patchioner.export.export_backbone", lambda *_, **__: answer)
    with pytest.raises(ExportError, match="does not compute this network right"):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("axis", [0, 1])
def test_levels_are_within_half_a_step_of_the_values(axis: int) -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    levels, scale = int8_levels(values, axis=axis)
    assert levels.dtype == np.int8
    assert scale.shape == ((1, 7) if axis == 0 else (5, 1))
    for row, column in np.ndindex(values.shape):
        slice_ = values[:, column] if axis == 0 else values[row]
        step = float(np.abs(slice_).max()) / 127
        assert abs(float(levels[row, column]) * step - float(values[row, column])) <= step * 0.501
