"""Two exports of a tiny backbone, made once for all tests: writing takes seconds, running takes none."""

from __future__ import annotations

import pytest
import torch

from patchioner.backbones import TimmViT
from patchioner.export import Graph, trace_backbone
from patchioner.geometry import Preprocessing


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
