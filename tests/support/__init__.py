"""Helpers shared by tests of several packages; short names of pytest's own fixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
MonkeyPatch = pytest.MonkeyPatch


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
