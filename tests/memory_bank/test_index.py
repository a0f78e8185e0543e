"""Indexes of every kind, their files, and projections onto what they find."""

import hashlib
import json
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.nn.functional import normalize

from memory_bank import IndexKind, IndexOptions, MemoryBank
from memory_bank.storage import BankIndex
from patchioner.base.errors import MemoryBankError, MissingExtraError, OptionError
from tests.memory_bank.conftest import DTYPES, random_rows
from tests.support import MonkeyPatch

faiss = pytest.importorskip("faiss")

ROWS, DIM = 600, 16
KINDS: list[IndexKind] = ["flat", "ivf", "ivfsq"]
QUERIES = random_rows(9, DIM, seed=1)


def make_bank(kind: IndexKind | None = None, **more: Any) -> MemoryBank:
    generator = torch.Generator().manual_seed(5)
    counts = torch.randint(1, 4, (ROWS,), generator=generator)
    bank = MemoryBank(random_rows(ROWS, DIM), counts=counts)
    return bank if kind is None else bank.with_index(IndexOptions(kind, **more))


def index_of(bank: MemoryBank) -> BankIndex:
    assert bank.index is not None
    return bank.index


@pytest.mark.parametrize(
    ("kind", "dtype", "k", "probes"),
    [
        *((kind, "float32", k, probes) for kind in KINDS for k, probes in ((12, 2), (20, 10_000))),
        *((None, dtype, k, None) for dtype in DTYPES for k in (1, 100)),
    ],
)
def test_the_rows_that_are_found_take_part_alone(
    kind: IndexKind | None, dtype: Any, k: int, probes: int | None
) -> None:
    """Whatever rows an index finds: means and share are those of the stored rows in float64."""
    bank = make_bank(kind, probes=probes).to(dtype=dtype)
    cosines = normalize(QUERIES.double()) @ bank.units().double().T
    nearest, logits = cosines.topk(k).indices, cosines / 0.05 + bank.counts.double().log()
    rows = nearest if kind is None else index_of(bank).search(normalize(QUERIES), k)
    if probes == 10_000 and kind != "ivfsq":  # it has looked everywhere, at exact rows
        assert torch.equal(rows.sort().values, nearest.sort().values)
    means, share = bank.approximate(QUERIES, k, 0.05, normalize=False)
    assert torch.equal(means, bank.project(QUERIES, 0.05, normalize=False, top_k=k))
    for query, picked in enumerate(rows.tolist()):
        kept = torch.tensor([row for row in picked if row >= 0])
        wanted = logits[query, kept].softmax(0) @ bank.embeddings()[kept].double()
        torch.testing.assert_close(means[query].double(), wanted, rtol=1e-4, atol=1e-4)
        held = (logits[query, kept].logsumexp(0) - logits[query].logsumexp(0)).exp()
        assert float(share[query]) == pytest.approx(float(held), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, kind: IndexKind) -> None:
    bank = make_bank(kind)
    wanted = bank.project(QUERIES, top_k=9)
    bank.save(tmp_path, dtype="float32")
    loaded = MemoryBank.load(tmp_path)
    assert index_of(loaded).options == index_of(bank).options
    with ThreadPoolExecutor(4) as pool:  # which open it once
        for found in pool.map(lambda _: loaded.project(QUERIES, top_k=9), range(4)):
            torch.testing.assert_close(found, wanted)
    # Over itself, in another precision: the index is read before its file goes.
    MemoryBank.load(tmp_path).save(tmp_path, dtype="int8")
    again = MemoryBank.load(tmp_path)
    torch.testing.assert_close(again.project(QUERIES, top_k=9), wanted, rtol=0, atol=0.1)
    again.with_index(None).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.json", "bank.safetensors"]


def test_an_index_is_saved_beside_its_own_bank_only(tmp_path: Path) -> None:
    bank, flat = make_bank(), IndexOptions("flat")
    bank.save(tmp_path, dtype="float16")
    with pytest.raises(MemoryBankError, match="another bank"):
        bank.with_index(flat).save_index(tmp_path)
    with pytest.raises(OptionError, match="no index to save"):
        bank.save_index(tmp_path)
    MemoryBank.load(tmp_path).with_index(flat).save_index(tmp_path)
    assert repr(MemoryBank.load(tmp_path).index) == "BankIndex(flat, 600 rows x 16)"


def change(folder: Path, **changes: object) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def options(folder: Path, **changes: object) -> None:
    change(folder, options=json.loads((folder / "index.json").read_text())["options"] | changes)


def write(folder: Path, at: int, new: bytes, *, resign: bool = True) -> None:
    data = bytearray((folder / "index.faiss").read_bytes())
    data[at : at + len(new)] = new
    (folder / "index.faiss").write_bytes(data)
    if resign:
        change(folder, sha256=hashlib.sha256(data).hexdigest())


HUGE = struct.pack("<q", 2**60)
AT_LOAD: dict[Any, str] = {
    (lambda f: change(f, version=2)): "version 2, this release reads 1",
    (lambda f: change(f, bank="0" * 64)): "an index of another bank",
    (lambda f: options(f, kind="ivv")): "did you mean 'ivf'",
    (lambda f: options(f, kind="hnsw")): "'hnsw'.*patchioner bank index",  # retired
    (lambda f: options(f, speed=3)): "'speed'",
    (lambda f: options(f, lists=0)): "lists is 0",
}
AT_USE: dict[Any, str] = {
    (lambda f: (f / "index.faiss").unlink()): "No such file",
    (lambda f: os.truncate(f / "index.faiss", 20_000)): "sha256",
    (lambda f: write(f, 20_000, b"other", resign=False)): "sha256",
    (lambda f: options(f, kind="ivfsq")): "holds .*'IndexIVFFlat'.* of 'ivfsq'",
    (lambda f: write(f, 8, HUGE)): f"{2**60}",
    (lambda f: write(f, 37, HUGE)): "cannot be read",
}


@pytest.mark.parametrize(("damage", "message"), (AT_LOAD | AT_USE).items())
def test_damage_shows_at_load_or_the_first_use(tmp_path: Path, damage: Any, message: str) -> None:
    make_bank("ivf").save(tmp_path)
    damage(tmp_path)
    if damage in AT_USE:
        MemoryBank.load(tmp_path).project(QUERIES)  # which needs no index
    with pytest.raises(MemoryBankError, match=message):
        bank = MemoryBank.load(tmp_path)
        assert damage in AT_USE
        bank.project(QUERIES, top_k=3)


def test_without_faiss(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    make_bank("ivf").save(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    bank = MemoryBank.load(tmp_path)
    assert bank.project(QUERIES).shape == (9, DIM)
    with pytest.raises(MissingExtraError, match=r"\[faiss\]'"):
        bank.project(QUERIES, top_k=3)


def test_a_graphics_card_is_used_where_faiss_was_built_for_one(monkeypatch: MonkeyPatch) -> None:
    """On a machine without one, a stand-in for the two names of the GPU build."""
    move = Mock(side_effect=lambda resources, device, index: index)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)
    for kind in KINDS:
        index = index_of(make_bank(kind))
        assert index.faiss("cuda:1") is index.faiss("cuda:1")
    moved = [(call.args[1], type(call.args[2]).__name__) for call in move.mock_calls]
    assert moved == [(1, "IndexFlat"), (1, "IndexIVFFlat"), (1, "IndexIVFScalarQuantizer")]


def test_a_query_whose_lists_are_empty_is_compared_with_all_rows(monkeypatch: MonkeyPatch) -> None:
    bank = make_bank("ivf")
    usual, rows = bank.project(QUERIES, top_k=8), index_of(bank).search(normalize(QUERIES), 8)
    rows[[1, 4]] = -1
    monkeypatch.setattr(bank.index, "search", Mock(return_value=rows))
    usual[[1, 4]] = make_bank().project(QUERIES[[1, 4]], top_k=8)
    torch.testing.assert_close(bank.project(QUERIES, top_k=8), usual)
