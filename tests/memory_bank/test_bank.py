"""The bank: what enters and what it refuses; projection and search against plain twins, in every precision."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from memory_bank import MemoryBank, projection
from memory_bank.projection import quantise
from patchioner.base.errors import MemoryBankError, OptionError
from tests.memory_bank.conftest import DTYPES, random_rows
from tests.support import MonkeyPatch, randn

ROWS, DIM = 57, 7
QUERIES, BANK = random_rows(6, DIM, 1), MemoryBank(random_rows(ROWS, DIM))


@pytest.fixture(params=[(1, 1), (19, 3), None], ids=str)
def _blocks(request: pytest.FixtureRequest, monkeypatch: MonkeyPatch) -> None:
    """So many rows and queries are worked on at once; None: as ever."""
    if request.param is not None:
        rows, queries = request.param
        monkeypatch.setattr(projection, "_block_rows", lambda device, dim: rows)
        monkeypatch.setattr(projection, "_QUERIES", queries)


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
    queries = random_rows(10, DIM, 1)
    alone = torch.cat([BANK.project(query[None]) for query in queries])
    together = BANK.project(queries[rows] * scale)
    torch.testing.assert_close(together, alone[rows], rtol=1e-3, atol=1e-4)


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
    bank = MemoryBank(3 * units, dtype="int8")
    wide = bank.to(dtype="float32")
    torch.testing.assert_close(wide.keys, back)
    assert torch.equal(wide.to(dtype="int8").keys, bank.keys)  # rounded once, they stay


def test_the_callers_tensors_are_neither_changed_nor_kept() -> None:
    rows, counts = random_rows(4, 3), torch.tensor([1, 2, 3, 4])
    rows /= rows.norm(dim=1, keepdim=True)
    before = rows.clone()
    bank = MemoryBank(rows, counts=counts)
    assert torch.equal(rows, before)
    rows.zero_()
    counts.zero_()
    torch.testing.assert_close(bank.keys, before)
    assert bank.counts.tolist() == [1, 2, 3, 4]


def test_zero_rows_are_named_or_dropped() -> None:
    rows = random_rows(9, 3)
    rows[[2, 5]] = 0
    texts = [f"text {row}" for row in range(9)]
    with pytest.raises(MemoryBankError, match=r"zero norm.*: 2, 5; pass drop_zero_rows=True"):
        MemoryBank(rows, texts)
    bank = MemoryBank(rows, texts, counts=range(1, 10), drop_zero_rows=True)
    assert bank.texts == tuple(f"text {row}" for row in (0, 1, 3, 4, 6, 7, 8))
    assert bank.counts.tolist() == [1, 2, 4, 5, 7, 8, 9]
    torch.testing.assert_close(bank.embeddings(), rows[[0, 1, 3, 4, 6, 7, 8]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("picks", [[0], [3, 3, 3], [5, 0, 5, 2, 0], list(range(6)) * 4, [0, 6, 0]])
def test_merging_leaves_projections_as_they_were(picks: list[int], dtype: Any) -> None:
    """Counts are summed; the first texts stay, in order."""
    texts, counts = [f"{pick} {i}" for i, pick in enumerate(picks)], [*range(1, len(picks) + 1)]
    rows = random_rows(6, 4)  # and as many of twice the length
    bank = MemoryBank(torch.cat([rows, 2 * rows])[picks], texts, counts, dtype=dtype)
    merged, due = bank.merge_duplicates(), dict.fromkeys(picks, 0)
    for pick, count in zip(picks, counts, strict=True):
        due[pick] += count
    assert merged.counts.tolist() == list(due.values())
    assert merged.texts == tuple(texts[picks.index(pick)] for pick in due)
    for temperature in (0.01, 1.0):
        found, wanted = (one.project(random_rows(3, 4, seed=1), temperature, False) for one in (merged, bank))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_fingerprint_tells_banks_apart() -> None:
    rows = random_rows(4, 3)
    other = rows.clone()
    other[3, 2] += 1e-3
    banks = [
        *(MemoryBank(rows), MemoryBank(other), MemoryBank(2 * rows)),
        *(MemoryBank(rows, list("abcd")), MemoryBank(rows, list("abce"))),
        *(MemoryBank(rows, counts=[1, 1, 1, 2]), MemoryBank(rows, dtype="float16")),
    ]
    assert len({bank.fingerprint() for bank in banks}) == len(banks)
    assert MemoryBank(rows, list("abcd")).fingerprint() == banks[3].fingerprint()


def made(embeddings: Any, **more: Any) -> MemoryBank:
    return MemoryBank(embeddings, drop_zero_rows=True, **more)


TWO, HOLED = torch.eye(2), torch.ones(20, 3).index_fill_(0, torch.arange(4, 20), torch.nan)
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: made(torch.ones(3)), r"\(rows, dim\), got \(3,\)"),
    (lambda: made(torch.ones(2, 3, 4)), r"got \(2, 3, 4\)"), (lambda: made(torch.ones(3, 0)), r"got \(3, 0\)"),
    (lambda: made(torch.ones(0, 3)), "no rows"), (lambda: made(torch.zeros(2, 3)), "no rows"),
    (lambda: made(torch.ones(2, 3, dtype=torch.int64)), "floating point, got torch.int64"),
    (lambda: made(np.ones((2, 3), dtype=np.int32)), "floating point, got int32"),
    (lambda: made([[1.0, 2.0]]), "tensor or a numpy array"), (lambda: made(TWO, texts=["a"]), "1 texts for 2"),
    (lambda: made(HOLED), "not finite: 4, 5, 6, 7, 8 and 11 more"), (lambda: made(-torch.inf * TWO), "not finite"),
    (lambda: made(TWO, texts="ab"), "2 texts for 2"), (lambda: made(TWO, counts=[1]), r"shape \(1,\) for 2"),
    (lambda: made(TWO).with_texts(["a", 7]), r"texts\[1\] is 7"),  # type: ignore[list-item]
    (lambda: made(TWO, counts=[1, 0]), "below 1 in rows 1"), (lambda: made(TWO, counts=[1.0, 2.0]), "integers"),
    (lambda: BANK.project(torch.full((3, DIM), torch.nan)), "query rows that are not finite: 0, 1, 2"),
    (lambda: BANK.nearest(torch.zeros(2, DIM), 2), "query rows of zero norm.*: 0, 1"),
    (lambda: BANK.project(torch.ones(2, 8)), "queries have width 8, the bank has 7"),
    (lambda: BANK.nearest(torch.ones(DIM), 2), r"one vector as vector\[None\]"),
    *((partial(BANK.project, QUERIES, t), f" is {t}") for t in (0.0, -1.0, math.nan, math.inf)),
    (lambda: BANK.project(QUERIES, top_k=0), "top_k is 0"),
    *((partial(BANK.nearest, QUERIES, k), f"k is {k}; .*1, {ROWS}") for k in (0, -1, ROWS + 1)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_no_bank_or_query(call: Callable[[], object], message: str) -> None:
    with pytest.raises((MemoryBankError, OptionError), match=message):
        call()
