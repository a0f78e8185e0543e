"""Backbones as graphs: the same numbers for every kind and size, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from patchioner.backbones import Backbone, TimmViT
from patchioner.backbones.base import SingleViT
from patchioner.backbones.clip import OpenClipViT, clip_preprocessing
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.exported import resample_positions
from patchioner.backbones.vit import SiglipViT
from patchioner.base.errors import ExportError
from patchioner.export import Graph, exportable, trace_backbone
from patchioner.geometry import Preprocessing

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
    class Pair(Backbone):
        dim = 3  # type: ignore[assignment]
        config: dict[str, Any] = {}  # type: ignore[assignment]

        def encode(self, images: Any) -> Any:
            raise NotImplementedError

        def geometry(self, image_size: tuple[int, int]) -> Any:
            raise NotImplementedError

        def save(self, folder: Path, *, storage: Any = "fp16") -> None:
            raise NotImplementedError

    with pytest.raises(ExportError, match="a Pair is not one network"):
        exportable(Pair())
