"""Projection and search against their plain twins, for every block size and on hard inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memory_bank import MemoryBank, projection
from memory_bank.projection import _product, _split, quantise
from patchioner.base.errors import MemoryBankError, OptionError
from tests.memory_bank.conftest import random_rows

ROWS, DIM = 57, 7


def plain_projection(queries: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Softmax over all rows at once, in float64, as the formula reads."""
    queries, rows = queries.double(), rows.double()
    units = queries / queries.norm(dim=1, keepdim=True)
    keys = rows / rows.norm(dim=1, keepdim=True)
    return torch.softmax(units @ keys.T / temperature, dim=1) @ rows


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.1, 1.0, 100.0])
def test_streaming_equals_the_plain_softmax(temperature: float) -> None:
    rows, queries = random_rows(ROWS, DIM), random_rows(6, DIM, 1)
    wanted = plain_projection(queries, rows, temperature)
    bank = MemoryBank(rows)
    raw = bank.project(queries, temperature, normalize=False)
    # Logits of 1 / temperature carry float32's rounding into the weights.
    atol = 2e-5 / temperature + 2e-6
    torch.testing.assert_close(raw.double(), wanted, rtol=0, atol=atol)
    unit = bank.project(queries, temperature)
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit.double(), wanted, rtol=0, atol=atol)
    assert unit.dtype == torch.float32


@pytest.mark.usefixtures("_blocks")
def test_half_precision_stays_within_its_bound() -> None:
    rows, queries = random_rows(ROWS, DIM), random_rows(6, DIM, 1)
    half = MemoryBank(rows, dtype="float16")
    raw = half.project(queries, 0.05, normalize=False)
    # Against the plain twin on the very rows that are stored, only float32 rounding is left ...
    logits = torch.nn.functional.normalize(queries).double() @ half.keys.double().T / 0.05
    stored = torch.softmax(logits, dim=1) @ half.embeddings().double()
    torch.testing.assert_close(raw.double(), stored, rtol=0, atol=1e-4)
    # ... and against the exact rows the rounding of float16: cosines move by 2**-11 at most.
    exact = plain_projection(queries, rows, 0.05)
    assert float((raw - exact).abs().max()) < 2 * 2**-11 / 0.05 * float(rows.norm(dim=1).max())


@pytest.mark.usefixtures("_blocks")
def test_counts_are_multiplicity() -> None:
    rows, queries = random_rows(ROWS, DIM), random_rows(4, DIM, 1)
    counts = [1 + (7 * row) % 5 for row in range(ROWS)]
    spelled_out = rows.repeat_interleave(torch.tensor(counts), dim=0)
    counted = MemoryBank(rows, counts=counts).project(queries, 0.2, False)
    wanted = plain_projection(queries, spelled_out, 0.2).float()
    torch.testing.assert_close(counted, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 9), max_size=8), scale=st.floats(1e-20, 1e20))
def test_a_query_depends_neither_on_its_company_nor_on_its_length(
    rows: list[int], scale: float
) -> None:
    bank, queries = MemoryBank(random_rows(ROWS, DIM)), random_rows(10, DIM, 1)
    alone = torch.cat([bank.project(query[None]) for query in queries])
    together = bank.project(queries[rows] * scale)
    torch.testing.assert_close(together, alone[rows], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("verb", ["project", "nearest"])
@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (torch.full((3, DIM), torch.nan), "query rows that are not finite: 0, 1, 2"),
        (torch.tensor([[1.0] * DIM, [torch.inf] * DIM]), "not finite: 1"),
        (torch.zeros(2, DIM), "query rows of zero norm.*: 0, 1"),
        (torch.ones(2, DIM + 1), f"queries have width {DIM + 1}, the bank has {DIM}"),
        (torch.ones(DIM), r"single vector goes in as vector\[None\]"),
        (np.ones((2, DIM), dtype=np.int64), "floating point"),
    ],
)
def test_bad_queries(verb: str, queries: Any, message: str) -> None:
    bank = MemoryBank(random_rows(ROWS, DIM))
    with pytest.raises(MemoryBankError, match=message):
        if verb == "project":
            bank.project(queries)
        else:
            bank.nearest(queries, 2)


def test_no_queries_give_no_rows() -> None:
    bank = MemoryBank(random_rows(ROWS, DIM))
    assert bank.project(torch.empty(0, DIM)).shape == (0, DIM)
    found = bank.nearest(torch.empty(0, DIM), 3)
    assert (found.indices.dtype, found.indices.shape) == (torch.int64, (0, 3))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("k", [1, 5, ROWS])
def test_nearest_equals_a_full_sort(k: int) -> None:
    rows, queries = random_rows(ROWS, DIM), random_rows(6, DIM, 1)
    texts = [f"text {row}" for row in range(ROWS)]
    cosine = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(rows).T
    wanted = torch.sort(cosine, dim=1, descending=True)
    found = MemoryBank(rows, texts).nearest(queries, k)
    assert torch.equal(found.indices, wanted.indices[:, :k])
    torch.testing.assert_close(found.similarities, wanted.values[:, :k], rtol=0, atol=1e-6)
    assert found.texts is not None
    assert found.texts[3] == tuple(texts[row] for row in found.indices[3].tolist())


def clustered(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows around a few directions, and queries near two of them: most rows are far from each query."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, 32, generator=generator)
    which = torch.randint(6, (rows,), generator=generator)
    lengths = 0.1 + 10 * torch.rand(rows, 1, generator=generator)
    keys = torch.nn.functional.normalize(
        centres[which] + 0.3 * torch.randn(rows, 32, generator=generator)
    )
    return keys * lengths, centres[:2].repeat(4, 1) + 0.2 * torch.randn(8, 32, generator=generator)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("rows_a_block", [64, 4096])
def test_rows_left_out_of_the_second_product_are_lost_to_rounding_anyway(
    dtype: Any, rows_a_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_block_rows", lambda device, dim: rows_a_block)
    rows, queries = clustered(3000)
    bank = MemoryBank(rows, counts=[1 + row % 3 for row in range(3000)], dtype=dtype)
    real, kept = projection._that_matter, list[int]()

    def watched(*arguments: Any) -> Any:
        result = real(*arguments)
        kept.append(len(result[1]))
        return result

    monkeypatch.setattr(projection, "_that_matter", watched)
    sparse = bank.project(queries, normalize=False)
    assert sum(kept) < 0.6 * 3000
    monkeypatch.setattr(projection, "_that_matter", lambda *arguments: arguments[:4])
    dense = bank.project(queries, normalize=False)
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


# Eight bits a row: what rounding does, and that everything else works as with floats.


def stored_projection(queries: Tensor, bank: MemoryBank, temperature: float) -> Tensor:
    """Softmax over the rows as they are stored, dequantised, in float64."""
    assert bank.scales is not None
    keys = bank.keys.double() * bank.scales[:, None].double()
    rows = torch.arange(len(bank)).repeat_interleave(bank.counts)
    units = torch.nn.functional.normalize(queries.double())
    weights = torch.softmax(units @ keys[rows].T / temperature, dim=1)
    return weights @ (keys * bank.norms[:, None].double())[rows]


@settings(max_examples=60, deadline=None)
@given(dim=st.integers(1, 40), seed=st.integers(0, 999), power=st.integers(1, 9))
def test_rounding_stays_within_its_bound(dim: int, seed: int, power: int) -> None:
    # Odd powers make rows whose largest element dwarfs the others.
    raw = torch.randn(20, dim, generator=torch.Generator().manual_seed(seed)).double()
    raw = raw.sign() * raw.abs() ** power
    units = raw / raw.norm(dim=1, keepdim=True)
    keys, scales = quantise(units)
    back = keys.float() * scales[:, None]
    assert keys.dtype == torch.int8
    assert int(keys.abs().max()) <= 127
    torch.testing.assert_close(back.norm(dim=1), torch.ones(20))
    # Half a step in every element, and as much again for the length that is put right.
    step = units.abs().amax(dim=1) / 127
    assert bool(((back - units).norm(dim=1) <= step * math.sqrt(dim) + 1e-6).all())


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("queries", [1, 5, 40])
@pytest.mark.parametrize("integers", [True, False])
def test_projection_equals_the_plain_softmax_of_the_stored_rows(
    temperature: float, queries: int, integers: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(projection, "has_fast_int8", lambda device: integers)
    counts = [1 + (3 * row) % 4 for row in range(57)]
    bank = MemoryBank(random_rows(57, 24), counts=counts, dtype="int8")
    asked = random_rows(queries, 24, seed=1)
    out = bank.project(asked, temperature, normalize=False)
    wanted = stored_projection(asked, bank, temperature)
    atol = (4e-3 if integers else 4e-5) * float(wanted.norm(dim=1).max())
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=atol)


def test_integers_move_a_projection_as_little_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = MemoryBank(random_rows(4000, 384), dtype="int8"), random_rows(20, 384, seed=1)
    wanted = stored_projection(queries, bank, 0.01)
    moved = {}
    for integers in (True, False):
        monkeypatch.setattr(projection, "has_fast_int8", lambda device, on=integers: on)
        out = bank.project(queries, normalize=False).double()
        moved[integers] = float(((out - wanted).norm(dim=1) / wanted.norm(dim=1)).max())
    assert moved[False] < 1e-5 < moved[True] < 5e-4


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    dim=st.integers(1, 30),
    seed=st.integers(0, 999),
    power=st.integers(-30, 30),
)
def test_integer_products_are_those_of_what_was_split(
    rows: int, dim: int, seed: int, power: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, dim, generator=generator) * 10.0**power
    left[0] *= float(torch.rand(1, generator=generator) > 0.3)
    right = torch.randint(-127, 128, (dim, 7), dtype=torch.int8, generator=generator)
    parts, scales = _split(left)
    coarse, fine = parts.double().split(rows)
    rounded = (coarse + fine / 254) * scales.double()
    out = _product((parts, scales), right.T)
    torch.testing.assert_close(
        out.double(), rounded @ right.double(), rtol=1e-6, atol=1e-3 * 10.0**power
    )
    step = left.abs().amax(dim=1, keepdim=True) / 32258
    assert bool(((rounded - left).abs() <= 0.51 * step + 1e-37).all())
    assert _product(_split(left[:, :0]), right[:0].T).tolist() == [[0.0] * 7] * rows


def test_a_quarter_of_the_memory_and_the_same_rows_in_every_precision() -> None:
    rows = random_rows(10, 8)
    bank = MemoryBank(rows, dtype="int8")
    assert (bank.dtype, bank.keys.dtype) == ("int8", torch.int8)
    assert repr(bank) == "MemoryBank(10 rows x 8, int8, without texts)"
    torch.testing.assert_close(bank.embeddings(), rows, rtol=0, atol=0.05)
    torch.testing.assert_close(bank.norms, rows.norm(dim=1))
    wide = bank.to(dtype="float32")
    assert (wide.dtype, wide.scales) == ("float32", None)
    torch.testing.assert_close(wide.keys, bank.units())
    # Rounded once, they stay: the largest element is 127 steps again.
    assert torch.equal(wide.to(dtype="int8").keys, bank.keys)
    assert torch.equal(MemoryBank(rows).to(dtype="int8").keys, bank.keys)
    assert bank.to(dtype="float16").dtype == "float16"
