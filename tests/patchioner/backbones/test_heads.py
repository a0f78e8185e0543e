"""Visual heads are affine: pooling may come before or after them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from patchioner.backbones.vit import IdentityHead, LinearHead, StandardiseHead, build_head
from patchioner.base.errors import CheckpointError

CONFIGS: list[dict[str, Any]] = [{}, {"type": "standardise"}, {"type": "linear", "dim": 5}]


def filled(config: dict[str, Any]) -> nn.Module:
    head = build_head(config, 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*head.parameters(), *head.buffers()]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return head


@pytest.mark.parametrize("config", CONFIGS)
def test_pooling_before_equals_pooling_after(config: dict[str, Any]) -> None:
    head, tokens = filled(config), torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(3, 12, generator=torch.Generator().manual_seed(2))
    weights /= weights.sum(1, keepdim=True)
    before = head(torch.einsum("bt,btd->bd", weights, tokens), None)[0]
    after = torch.einsum("bt,btd->bd", weights, head(tokens, None)[0])
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_global_token_is_optional_and_any_shape_of_tokens_is_served(
    config: dict[str, Any],
) -> None:
    head, tokens = filled(config), torch.randn(2, 3, 4, 8)
    patches, cls = head(tokens, None)
    assert cls is None
    assert patches.shape[:3] == (2, 3, 4)
    flat, cls = head(tokens.flatten(0, 2), tokens[0, 0, 0])
    torch.testing.assert_close(flat, patches.flatten(0, 2))
    assert cls.shape == flat[0].shape


def test_standardising_has_statistics_of_its_own_for_the_global_token() -> None:
    head, tokens = StandardiseHead(2), torch.tensor([[3.0, 5.0]])
    head.patch_mean.fill_(1.0)
    head.patch_inverse_std.fill_(0.5)
    head.cls_mean.fill_(2.0)
    head.cls_inverse_std.fill_(2.0)
    patches, cls = head(tokens, tokens[0])
    assert patches.tolist() == [[1.0, 2.0]]
    assert cls is not None
    assert cls.tolist() == [2.0, 6.0]


def test_heads_go_by_name() -> None:
    assert isinstance(build_head({}, 8), IdentityHead)
    assert isinstance(build_head({"type": "linear", "dim": 3}, 8), LinearHead)
    with pytest.raises(CheckpointError, match="'wig' is unknown.*standardise"):
        build_head({"type": "wig"}, 8)
