"""Helpers shared by tests of several packages; short names of pytest's own fixtures."""

import pytest
import torch
from torch import Tensor, nn

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
MonkeyPatch = pytest.MonkeyPatch


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def spread(module: nn.Module, factor: float) -> None:
    """Make random weights large, so that what they say differs from row to row and step to step."""
    for parameter in module.parameters():
        if parameter.dim() >= 2:
            parameter.mul_(factor)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of (n, width) parts, one head at a time, softmax written out: (n, width), and maps (heads, n, n)."""
    mixed, maps = [], []
    for q, k, v in zip(*(part.chunk(heads, dim=1) for part in (query, key, value)), strict=True):
        scores = (q @ k.T / q.shape[1] ** 0.5).exp()
        maps.append(scores / scores.sum(1, keepdim=True))
        mixed.append(maps[-1] @ v)
    return torch.cat(mixed, dim=1), torch.stack(maps)
