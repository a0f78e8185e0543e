"""The published attention map, from the qkv output that a hook on the last block would see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchioner.backbones import PatchFeatures, TimmViT
from patchioner.backbones.vit import cls_attention, published_attention
from patchioner.geometry import Preprocessing
from patchioner.regions import Weighting, WholeImage, pool_regions
from tests.patchioner.reference import published


@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [("vits14", 384, 6), ("vitb14", 768, 12), ("vitb14_reg", 768, 12), ("vitl14", 1024, 16)],
)
def test_sixteen_heads_are_taken_for_all_but_the_small_one(
    name: str, width: int, heads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    leading = 5 if "reg" in name else 1
    qkv = 2 * torch.randn(leading + 9, 3 * width, generator=generator)
    parts = qkv.view(1, leading + 9, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    ours = published_attention(parts[0][:, :, :1], parts[1][:, :, leading:])[0]
    twin = published.self_attention(qkv, name)
    torch.testing.assert_close(ours, twin, atol=1e-6, rtol=1e-4)
    right = torch.softmax(parts[0][0, :, :1] @ parts[1][0, :, leading:].mT * 0.125, -1).mean(0)[0]
    assert float((twin - right).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_shares_sum_to_one_in_half_precision(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(1, 12, n, 64, generator=generator).to(kind) for n in (1, 1369))
    for maps in (cls_attention(query, keys), published_attention(query, keys)):
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def encoded_with_qkv(backbone: TimmViT) -> tuple[PatchFeatures, torch.Tensor]:
    seen: list[torch.Tensor] = []
    layer: Any = backbone.vit.blocks[-1].attn.qkv
    handle = layer.register_forward_hook(lambda module, given, out: seen.append(out[0].detach()))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    features = backbone.encode([Image.fromarray(pixels)])[0]
    handle.remove()
    return features, seen[0]


def check(features: PatchFeatures, qkv: torch.Tensor, name: str) -> None:
    twin = published.self_attention(qkv, name)
    assert features.reference_attention is not None
    torch.testing.assert_close(features.reference_attention.flatten(), twin, atol=1e-6, rtol=1e-4)
    whole = pool_regions(features, [WholeImage()], Weighting("attention", rounding="reference"))
    averaged = (twin[:, None] * features.tokens.flatten(0, 1)).mean(dim=0)
    torch.testing.assert_close(whole[0], averaged, atol=1e-5, rtol=1e-5)


def test_a_tiny_network_end_to_end() -> None:
    torch.manual_seed(0)
    backbone = TimmViT("test_vit", Preprocessing("stretch", 64, 16))
    with torch.no_grad():
        for parameter in backbone.vit.blocks.parameters():
            parameter.mul_(3)
    check(*encoded_with_qkv(backbone), "vitb16")
