"""Eight bits a row: what rounding does, and that everything else works as with floats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from memory_bank import MemoryBank, projection
from memory_bank.projection import _product, _split
from memory_bank.rows import quantise
from patchioner.base.errors import MemoryBankError


def random_rows(rows: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.2 + 3 * torch.rand(rows, 1, generator=generator)
    return lengths * torch.randn(rows, dim, generator=generator)


def plain_projection(queries: Tensor, bank: MemoryBank, temperature: float) -> Tensor:
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
    wanted = plain_projection(asked, bank, temperature)
    atol = (4e-3 if integers else 4e-5) * float(wanted.norm(dim=1).max())
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=atol)


def test_integers_move_a_projection_as_little_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = MemoryBank(random_rows(4000, 384), dtype="int8"), random_rows(20, 384, seed=1)
    wanted = plain_projection(queries, bank, 0.01)
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


@pytest.mark.parametrize("memory_map", [True, False])
def test_round_trip(tmp_path: Path, memory_map: bool) -> None:
    bank = MemoryBank(random_rows(6, 5), list("abcdef"), counts=[1, 2, 3, 4, 5, 6])
    bank.save(tmp_path, dtype="int8")
    loaded = MemoryBank.load(tmp_path, memory_map=memory_map)
    wanted = bank.to(dtype="int8")
    assert loaded.fingerprint() == wanted.fingerprint()
    queries = random_rows(3, 5, seed=1)
    assert torch.equal(loaded.project(queries), wanted.project(queries))
    assert '"version": 2' in (tmp_path / "bank.json").read_text()
    # Releases that know only floats still read what is float.
    loaded.save(tmp_path, dtype="float16")
    assert '"version": 1' in (tmp_path / "bank.json").read_text()
    assert MemoryBank.load(tmp_path).scales is None


@pytest.mark.parametrize(
    ("scales", "message"),
    [(None, "missing, truncated or foreign"), (torch.ones(5), "scales is"),
     (torch.zeros(6), "positive"), (torch.full((6,), torch.nan), "positive")],
)  # fmt: skip
def test_bad_scales(tmp_path: Path, scales: Tensor | None, message: str) -> None:
    MemoryBank(random_rows(6, 5)).save(tmp_path, dtype="int8")
    path = tmp_path / "bank.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    del tensors["scales"]
    save_file(tensors if scales is None else tensors | {"scales": scales}, path)
    with pytest.raises(MemoryBankError, match=message):
        MemoryBank.load(tmp_path)
