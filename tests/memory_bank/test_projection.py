"""Projection and search against their plain twins, for every block size, in every precision and on hard inputs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from memory_bank import MemoryBank, projection
from memory_bank.projection import quantise
from patchioner.base.errors import MemoryBankError, OptionError
from tests.memory_bank.conftest import DTYPES, random_rows
from tests.support import randn

ROWS, DIM = 57, 7
QUERIES = random_rows(6, DIM, 1)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.001, 1.0, 100.0])
def test_streaming_equals_the_plain_softmax(dtype: Any, temperature: float) -> None:
    """Over all rows at once, each as often as it counts, in float64, as the formula reads."""
    rows, counts = random_rows(ROWS, DIM), [1 + (7 * row) % 5 for row in range(ROWS)]
    bank = MemoryBank(rows, counts=counts, dtype=dtype)
    often = torch.arange(ROWS).repeat_interleave(bank.counts)
    units = (normalize(rows.double()) if dtype == "float32" else bank.units().double())[often]
    weights = torch.softmax(normalize(QUERIES.double()) @ units.T / temperature, dim=1)
    wanted = weights @ (units * bank.norms.double()[often, None])
    raw, unit = (bank.project(QUERIES, temperature, normalize=unit) for unit in (False, True))
    # Logits of 1 / temperature carry float32's rounding into the weights.
    close = partial(torch.testing.assert_close, rtol=0, atol=4e-5 / temperature + 4e-6)
    close(raw.double(), wanted)
    close(unit.double(), normalize(wanted))
    assert unit.dtype == torch.float32


@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 9), max_size=8), scale=st.floats(1e-20, 1e20))
def test_a_query_minds_neither_the_others_nor_its_length(rows: list[int], scale: float) -> None:
    bank, queries = MemoryBank(random_rows(ROWS, DIM)), random_rows(10, DIM, 1)
    alone = torch.cat([bank.project(query[None]) for query in queries])
    together = bank.project(queries[rows] * scale)
    torch.testing.assert_close(together, alone[rows], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("verb", ["project", "nearest"])
@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (torch.full((3, DIM), torch.nan), "query rows that are not finite: 0, 1, 2"),
        (torch.zeros(2, DIM), "query rows of zero norm.*: 0, 1"),
        (torch.ones(2, DIM + 1), f"queries have width {DIM + 1}, the bank has {DIM}"),
        (torch.ones(DIM), r"single vector goes in as vector\[None\]"),
    ],
)
def test_bad_queries(verb: str, queries: Any, message: str) -> None:
    with pytest.raises(MemoryBankError, match=message):
        getattr(MemoryBank(random_rows(ROWS, DIM)), verb)(queries, 2)


def test_counts_whose_sum_is_beyond_64_bits_and_no_queries() -> None:
    bank = MemoryBank(torch.eye(2), counts=[2**62, 2**62])
    torch.testing.assert_close(bank.project(torch.ones(1, 2)), torch.full((1, 2), 0.5**0.5))
    assert bank.project(torch.empty(0, 2)).shape == (0, 2)
    found = bank.nearest(torch.empty(0, 2), 1)
    assert (found.indices.dtype, found.indices.shape) == (torch.int64, (0, 1))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, ROWS])
def test_nearest_equals_a_full_sort(dtype: Any, k: int) -> None:
    texts = [f"text {row}" for row in range(ROWS)]
    bank = MemoryBank(random_rows(ROWS, DIM), texts, dtype=dtype)
    wanted = torch.sort(normalize(QUERIES) @ bank.units().T, dim=1, descending=True)
    found = bank.nearest(QUERIES, k)
    assert torch.equal(found.indices, wanted.indices[:, :k])
    torch.testing.assert_close(found.similarities, wanted.values[:, :k], rtol=0, atol=1e-6)
    assert found.texts is not None
    assert found.texts[3] == tuple(texts[row] for row in found.indices[3].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_a_block", [64, 4096])
def test_rows_left_out_are_lost_to_rounding_anyway(dtype: Any, rows_a_block: int) -> None:
    """Rows around a few directions, and queries near two of them: most rows are far from each query."""
    centres, noise = randn(6, 32), random_rows(3000, 32)
    rows = normalize(centres[torch.arange(3000) % 6] + 0.1 * noise) * (0.1 + torch.rand(3000, 1))
    queries = centres[:2].repeat(4, 1) + 0.1 * random_rows(8, 32, 1)
    bank = MemoryBank(rows, counts=[1 + row % 3 for row in range(3000)], dtype=dtype)
    real, kept = projection._that_matter, list[int]()

    def watched(*arguments: Any) -> Any:
        result = real(*arguments)
        kept.append(len(result[1]))
        return result

    with patch.object(projection, "_block_rows", return_value=rows_a_block):
        with patch.object(projection, "_that_matter", watched):
            sparse = bank.project(queries, normalize=False)
        with patch.object(projection, "_that_matter", lambda *arguments: arguments[:3]):
            dense = bank.project(queries, normalize=False)
    assert sum(kept) < 0.6 * 3000
    torch.testing.assert_close(sparse, dense, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        *(("project", {"temperature": t}, f"={t}") for t in (0.0, -1.0, math.nan, math.inf)),
        ("project", {"top_k": 0}, "top_k=0"),
        *(("nearest", {"k": k}, f"k={k}: .* 1 to {ROWS}") for k in (0, -1, ROWS + 1)),
    ],
)
def test_numbers_out_of_range(verb: str, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        getattr(MemoryBank(random_rows(ROWS, DIM)), verb)(random_rows(ROWS, DIM), **options)


@settings(max_examples=30)
@given(dim=st.integers(1, 40), seed=st.integers(0, 999), power=st.integers(1, 9))
def test_rounding_to_eight_bits_stays_within_its_bound(dim: int, seed: int, power: int) -> None:
    # Odd powers make rows whose largest element dwarfs the others.
    raw = torch.randn(20, dim, generator=torch.Generator().manual_seed(seed)).double()
    units = normalize(raw.sign() * raw.abs() ** power, eps=0)
    keys, scales = quantise(units)
    back = keys.float() * scales[:, None]
    assert keys.dtype == torch.int8 and int(keys.abs().max()) <= 127
    torch.testing.assert_close(back.norm(dim=1), torch.ones(20))
    # Half a step in every element, and as much again for the length that is put right.
    step = units.abs().amax(dim=1) / 127
    assert bool(((back - units).norm(dim=1) <= step * math.sqrt(dim) + 1e-6).all())


def test_the_same_rows_in_every_precision() -> None:
    rows = random_rows(10, 8)
    bank = MemoryBank(rows, dtype="int8")
    assert repr(bank) == "MemoryBank(10 rows x 8, int8, without texts)"
    torch.testing.assert_close(bank.embeddings(), rows, rtol=0, atol=0.05)
    wide = bank.to(dtype="float32")
    assert (wide.dtype, wide.scales) == ("float32", None)
    torch.testing.assert_close(wide.keys, bank.units())
    for again in (wide, MemoryBank(rows)):  # rounded once, they stay
        assert torch.equal(again.to(dtype="int8").keys, bank.keys)
