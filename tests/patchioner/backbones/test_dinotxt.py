"""DINO.txt's vision side: the head against a plain twin, which token lives where, and the published names."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from patchioner.backbones import preprocess
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.base.errors import CheckpointError
from tests.support import attend
from tests.support.tiny import noise_photo, small_vit

NAMES = ("vit_large_patch14_reg4_dinov2", "vit_large_patch16_dinov3")


assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def plain_head(head: Any, tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """timm's blocks on (1, N, width): aligned tokens (N, width), and the last block's attention (heads, N, N)."""
    assert (head.ln_final.eps, len(head.blocks)) == (1e-5, 2)
    for block in head.blocks:
        before, tokens = tokens, block(tokens)
    query, key, value = block.attn.qkv(block.norm1(before))[0].chunk(3, 1)
    return head.ln_final(tokens)[0], attend(query, key, value, heads)[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("registers", [True, False])
def test_the_head_equals_its_plain_twin(name: str, registers: bool) -> None:
    model, photo = small_vit(name, DinoTxtViT, registers=registers), noise_photo(130, 60)
    pixels, geometry = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])
        if not registers:
            tokens = torch.cat([tokens[:, :1], tokens[:, 5:]], dim=1)
        aligned, maps = plain_head(model.head, tokens, 3)
    features, prefix = model.encode([photo])[0], 5 if registers else 1
    assert features.geometry.grid == geometry.grid
    assert_close(features.tokens.flatten(0, 1), aligned[prefix:])
    row = maps[:, 0, prefix:]
    assert_close(features.attention.flatten(1), row / row.sum(1, keepdim=True))


def test_the_two_halves_of_the_space() -> None:
    patch, both = (small_vit(NAMES[0], DinoTxtViT, space=space) for space in ("patch", "both"))
    one, two = (model.encode([noise_photo()])[0] for model in (patch, both))
    assert (patch.dim, both.dim) == (48, 96)
    assert torch.equal(two.tokens[..., 48:], one.tokens)
    assert torch.equal(two.cls[48:], one.cls)
    torch.testing.assert_close(one.cls, one.tokens.mean((0, 1)))
    assert (two.tokens[..., :48] == two.cls[:48]).all()
    assert not torch.allclose(two.cls[:48], one.cls)


@pytest.mark.parametrize("prefix", ["", "visual_model.head."])
def test_published_weights_are_read_whole_or_not_at_all(prefix: str) -> None:
    original, target = (small_vit(NAMES[0], DinoTxtViT, seed=seed) for seed in (1, 2))
    head = {f"{prefix}{name}": t for name, t in original.head.state_dict().items()}
    if prefix:  # DINOv3 has head and text tower in one file
        head["text_model.head.linear_projection.weight"] = torch.zeros(2, 2)
        head["logit_scale"] = torch.zeros(())
    before = {name: t.clone() for name, t in target.state_dict().items()}
    missing = {k: t for k, t in head.items() if not k.endswith("blocks.1.ls1.gamma")}
    other = {**missing, f"{prefix}linear_projection.weight": torch.zeros(48, 48)}
    fault = r"missing blocks\.1\.ls1\.gamma.*unexpected linear_pro"
    with pytest.raises(CheckpointError, match=fault):
        target.read_published(original.vit.state_dict(), other, source="file")
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())
    target.read_published(original.vit.state_dict(), head, source="file")
    first, second = (model.encode([noise_photo()])[0] for model in (original, target))
    assert torch.equal(first.tokens, second.tokens)
