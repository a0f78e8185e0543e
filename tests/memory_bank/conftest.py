"""What several tests of the bank share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memory_bank import projection

DTYPES = ["float32", "float16", "int8"]


def random_rows(rows: int, dim: int, seed: int = 0) -> Tensor:
    """Rows of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.2 + 3 * torch.rand(rows, 1, generator=generator)
    return lengths * torch.randn(rows, dim, generator=generator)


@pytest.fixture(params=[(1, 1), (19, 3), None], ids=str)
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows and queries are worked on at once; None: as ever."""
    if request.param is not None:
        rows, queries = request.param
        monkeypatch.setattr(projection, "_block_rows", lambda device, dim: rows)
        monkeypatch.setattr(projection, "_QUERIES", queries)
