"""The last block taken apart: against open_clip's block, and the papers' formulas written out by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones.clip import LastBlock, is_plain, resize_positions

transformer = pytest.importorskip("open_clip.transformer")
WIDTH, HEADS, TOKENS = 24, 3, 7


def block(ls: float | None = None) -> Any:
    torch.manual_seed(0)
    made = transformer.ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=ls).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made


def inputs() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def plain_twin(made: Any, x: Tensor, mode: str, rest: bool) -> Tensor:
    """One image, one head at a time, softmaxes written out."""
    attention = made.attn
    weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    results = []
    for one in x:
        normed = made.ln_1(one)
        q, k, v = (normed @ weight[i].T + bias[i] for i in range(3))
        heads = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scale = (WIDTH / HEADS) ** -0.5
            if mode == "value":
                weights = torch.eye(TOKENS)
            elif mode == "self_self":
                weights = F.softmax(q[:, part] @ q[:, part].T * scale, -1)
                weights = weights + F.softmax(k[:, part] @ k[:, part].T * scale, -1)
            else:
                weights = F.softmax(q[:, part] @ k[:, part].T * scale, -1)
            heads.append(weights @ v[:, part])
        out = made.ls_1(
            torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias
        )
        if rest:
            out = one + out
            out = out + made.ls_2(made.mlp(made.ln_2(out)))
        results.append(out)
    return torch.stack(results)


@pytest.mark.parametrize("ls", [None, 0.5])
def test_the_whole_block_is_open_clips_own(ls: float | None) -> None:
    made, x = block(ls), inputs()
    with torch.no_grad():
        expected, last = made(x), LastBlock.of(made, x)
        torch.testing.assert_close(last.outputs(), expected)
        torch.testing.assert_close(last.cls(), expected[:, 0])
        torch.testing.assert_close(last.patches("plain", True), expected[:, 1:])


@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("mode", ["plain", "value", "self_self"])
def test_each_mode_equals_its_plain_twin(mode: Any, rest: bool) -> None:
    made, x = block(0.5), inputs()
    with torch.no_grad():
        got = LastBlock.of(made, x).patches(mode, rest)
        torch.testing.assert_close(got, plain_twin(made, x, mode, rest)[:, 1:])


def test_the_value_path_of_a_patch_is_its_own_and_the_attention_is_not() -> None:
    made, x = block(), inputs()
    other = x.clone()
    other[:, 2] += 1.0
    with torch.no_grad():
        first, second = LastBlock.of(made, x), LastBlock.of(made, other)
        same = (first.patches("value", False) == second.patches("value", False)).all(-1)[0]
        assert same.tolist() == [True, False, True, True, True, True]
        moved = (first.patches("plain", False) != second.patches("plain", False)).any(-1)
    assert moved.all()


def test_values_are_what_the_output_projection_takes() -> None:
    made, x = block(), inputs()
    with torch.no_grad():
        last = LastBlock.of(made, x)
        torch.testing.assert_close(
            made.attn.out_proj(last.patch_values()), last.patches("value", False)
        )


def test_only_the_ordinary_block_is_taken_apart() -> None:
    assert is_plain(block())
    assert not is_plain(transformer.CustomResidualAttentionBlock(WIDTH, HEADS))
    assert not is_plain(transformer.ResidualAttentionBlock(WIDTH, HEADS, is_cross_attention=True))
    assert not is_plain(transformer.ResidualAttentionBlock(WIDTH, HEADS, batch_first=False))


def test_the_block_is_left_as_it_was() -> None:
    made, x = block(), inputs()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with torch.no_grad():
        LastBlock.of(made, x).patches("self_self", True)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert not made._forward_hooks
    assert not made.attn._forward_hooks


def test_positions_of_the_native_grid_are_untouched_and_others_keep_cls_and_mean() -> None:
    positions = torch.randn(1 + 12, WIDTH, generator=torch.Generator().manual_seed(2))
    assert resize_positions(positions, (3, 4), (3, 4)) is positions
    resized = resize_positions(positions, (3, 4), (5, 9))
    assert resized.shape == (1 + 45, WIDTH)
    assert torch.equal(resized[0], positions[0])
    flat = torch.ones(13, WIDTH)
    torch.testing.assert_close(resize_positions(flat, (3, 4), (5, 9)), torch.ones(46, WIDTH))
