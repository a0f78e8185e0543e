"""Compaction: sizes, counts, means, and a plain twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_bank import MemoryBank, compact
from patchioner.base.errors import OptionError


def make_bank(rows: int = 60, dim: int = 5, seed: int = 0) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.5 + 2 * torch.rand(rows, 1, generator=generator)
    embeddings = lengths * torch.randn(rows, dim, generator=generator)
    counts = torch.randint(1, 5, (rows,), generator=generator)
    return MemoryBank(embeddings, [f"text {row}" for row in range(rows)], counts)


def plain_kmeans(bank: MemoryBank, rows: int, seed: int, iterations: int) -> MemoryBank:
    """Spherical k-means, one cluster at a time, for data on which no cluster runs empty."""
    start = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:rows]
    centroids = bank.keys[start]
    for iteration in range(iterations):
        label = (bank.keys @ centroids.T).argmax(dim=1)
        members = [torch.nonzero(label == cluster).flatten() for cluster in range(rows)]
        assert all(len(group) for group in members)
        if iteration < iterations - 1:
            sums = [(bank.keys[m] * bank.counts[m, None]).sum(dim=0) for m in members]
            centroids = torch.stack([total / total.norm() for total in sums])
    weights = bank.counts[:, None].float()
    values = [(bank.embeddings() * weights)[m].sum(dim=0) / weights[m].sum() for m in members]
    assert bank.texts is not None
    texts = [
        bank.texts[int(m[(bank.keys[m] @ c).argmax()])]
        for m, c in zip(members, centroids, strict=True)
    ]
    return MemoryBank(torch.stack(values), texts, [int(weights[m].sum()) for m in members])


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_equals_the_plain_twin(iterations: int) -> None:
    bank = make_bank(200, 3)
    fast = compact(bank, 8, seed=3, iterations=iterations)
    slow = plain_kmeans(bank, 8, seed=3, iterations=iterations)
    torch.testing.assert_close(fast.embeddings(), slow.embeddings(), rtol=1e-4, atol=1e-5)
    assert fast.counts.tolist() == slow.counts.tolist()
    assert fast.texts == slow.texts


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), seed=st.integers(0, 1000))
def test_size_mass_and_mean_are_kept(rows: int, seed: int) -> None:
    bank = make_bank()
    small = compact(bank, rows, seed=seed, iterations=3)
    assert len(small) == rows
    assert int(small.counts.sum()) == int(bank.counts.sum())
    weighted = (small.embeddings() * small.counts[:, None]).sum(dim=0)
    wanted = (bank.embeddings() * bank.counts[:, None]).sum(dim=0)
    torch.testing.assert_close(weighted, wanted, rtol=1e-4, atol=1e-3)


def test_equal_rows_are_one_row_whatever_their_number() -> None:
    rows = torch.eye(3)[[0] * 50 + [1] + [2]]
    small = compact(MemoryBank(rows, dtype="float16"), 3)
    assert sorted(small.counts.tolist()) == [1, 1, 50]
    assert compact(MemoryBank(rows), 40).counts.tolist() == [50, 1, 1]
    assert small.dtype == "float16"


@pytest.mark.parametrize(("rows", "iterations"), [(0, 5), (-1, 5), (5, 0)])
def test_bad_options(rows: int, iterations: int) -> None:
    with pytest.raises(OptionError, match=f"rows={rows}, iterations={iterations}"):
        compact(make_bank(), rows, iterations=iterations)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("rows", [1, 13, 59])
def test_a_draw_keeps_rows_texts_and_counts(dtype: Any, rows: int) -> None:
    bank = make_bank().to(dtype=dtype)
    small = compact(bank, rows, seed=2, method="importance")
    assert (len(small), small.dtype) == (rows, dtype)
    assert small.texts is not None
    assert bank.texts is not None
    kept = torch.tensor([bank.texts.index(text) for text in small.texts])
    assert torch.equal(small.keys, bank.keys[kept])
    assert torch.equal(small.norms, bank.norms[kept])
    # Each row's count has gone to the kept row of highest cosine.
    nearest = (bank.units() @ small.units().T).argmax(dim=1)
    wanted = torch.zeros(rows, dtype=torch.int64).index_add_(0, nearest, bank.counts)
    assert torch.equal(small.counts, wanted)
    assert compact(bank, rows, seed=2, method="importance").fingerprint() == small.fingerprint()
