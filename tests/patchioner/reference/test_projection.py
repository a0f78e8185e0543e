"""The memory projection equals the published formula to 1e-5: raw norms, zero rows dropped, both normalisations."""

from __future__ import annotations

import pytest
import torch

from memory_bank import MemoryBank
from tests.patchioner.reference import published


def memory(rows: int, dim: int, zero_rows: bool, seed: int = 0) -> torch.Tensor:
    """Rows around a common direction, as embeddings of one space are, of unequal length; some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(1, dim, generator=generator) + torch.randn(rows, dim, generator=generator)
    bank /= bank.norm(dim=1, keepdim=True)
    bank *= 0.5 + torch.rand(rows, 1, generator=generator)
    if zero_rows:
        bank[::7] = 0
    return bank


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("zero_rows", [True, False])
@pytest.mark.parametrize("dim", [16, 768])
def test_the_projection_is_the_published_one(dim: int, zero_rows: bool, normalize: bool) -> None:
    rows = memory(3000, dim, zero_rows)
    generator = torch.Generator().manual_seed(1)
    queries = 7 * (rows[1:20] + 0.03 * torch.randn(19, dim, generator=generator))
    bank = MemoryBank(rows, drop_zero_rows=zero_rows)
    ours = bank.project(queries, normalize=normalize)
    exact = published.projection(queries.double(), rows.double(), normalize)
    torch.testing.assert_close(ours, exact.float(), atol=1e-5, rtol=0)
    in_single_precision = published.projection(queries, rows, normalize)
    torch.testing.assert_close(ours, in_single_precision, atol=1e-5, rtol=0)


def test_more_than_one_row_speaks() -> None:
    """The test above would prove little if the softmax were one-hot."""
    rows = memory(3000, 768, zero_rows=False)
    sharp = MemoryBank(rows).project(rows.mean(dim=0, keepdim=True), normalize=False)
    assert float(sharp.norm()) < 0.9 * float(rows.norm(dim=1).max())
