"""Mapped rows: what is read leaves memory again, and nothing else changes; every kind of damaged file."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_bank import Blocks, MemoryBank, projection, rows
from memory_bank.storage import MappedFile
from patchioner.base import MemoryBankError

MIB = 2**20
ROWS, DIM = 96 * 1024, 128  # 48 MiB of float32
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets pages go")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank that is three times as large as one run of pages."""
    place = tmp_path_factory.mktemp("bank")
    found = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    MemoryBank(found).save(place, dtype="float32")
    return place


@pytest.fixture
def _released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows leave memory however small the bank, in runs of 4 MiB."""
    monkeypatch.setattr(rows, "_KEPT_BYTES", 0)
    monkeypatch.setattr(rows, "_RUN_BYTES", 4 * MIB)
    monkeypatch.setattr(projection, "_RELEASING_QUERIES", 3)


def queries(count: int = 3) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(1))


def resident(file: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@linux
@pytest.mark.usefixtures("_released")
@pytest.mark.parametrize("work", ["project", "nearest"])
def test_memory_stays_far_below_the_bank(folder: Path, work: str) -> None:
    bank = MemoryBank.load(folder)
    mapped = bank._arrays.mapped
    assert mapped is not None
    release, most = mapped.release, 0

    def watch(start: int, stop: int) -> None:
        nonlocal most
        most = max(most, resident(folder / "bank.safetensors"))
        release(start, stop)

    mapped.release = watch  # type: ignore[method-assign]
    bank.project(queries()) if work == "project" else bank.nearest(queries(), 5)
    assert 4 * MIB <= most < 12 * MIB
    assert resident(folder / "bank.safetensors") < 4 * MIB


@pytest.mark.usefixtures("_released")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("blocks", [None, Blocks(rows=1000)])
def test_results_are_those_of_rows_in_memory(
    folder: Path, tmp_path: Path, dtype: Any, blocks: Blocks | None
) -> None:
    MemoryBank.load(folder).save(tmp_path, dtype=dtype)
    mapped, read = MemoryBank.load(tmp_path), MemoryBank.load(tmp_path, memory_map=False)
    assert mapped._arrays.mapped is not None and read._arrays.mapped is None
    for _ in range(2):
        assert torch.equal(
            mapped.project(queries(), blocks=blocks), read.project(queries(), blocks=blocks)
        )
        ours, other = (one.nearest(queries(), 7, blocks=blocks) for one in (mapped, read))
        assert torch.equal(ours.indices, other.indices)
        assert torch.equal(ours.similarities, other.similarities)
    assert mapped.fingerprint() == read.fingerprint()


@pytest.mark.usefixtures("_released")
def test_threads_share_a_bank(folder: Path) -> None:
    """Rows that one thread lets go, another still reads."""
    bank = MemoryBank.load(folder)
    wanted = MemoryBank.load(folder, memory_map=False).project(queries())
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: bank.project(queries()), range(12)):
            assert torch.equal(found, wanted)


def test_a_pickle_or_a_deep_copy_has_rows_of_its_own(folder: Path) -> None:
    bank = MemoryBank.load(folder)
    held = io.BytesIO()
    torch.save(bank._arrays, held)
    held.seek(0)
    for other in (copy.deepcopy(bank)._arrays, torch.load(held, weights_only=False)):
        assert other.mapped is None
        assert torch.equal(other.keys, bank.keys)
        assert other.keys.data_ptr() != bank.keys.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.int64])
def test_arrays_are_those_of_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = {
        "rows": torch.arange(35).view(5, 7).to(dtype),
        "numbers": torch.arange(3.0),
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(2),
    }
    save_file(wanted, tmp_path / "a", metadata={"format": "pt"})
    file = MappedFile(tmp_path / "a")
    for name, tensor in wanted.items():
        assert torch.equal(file.read(name), tensor)
        assert file.read(name).dtype == tensor.dtype
    mapped = file.rows("rows")
    assert mapped is not None
    assert torch.equal(mapped.rows, load_file(tmp_path / "a")["rows"])
    assert file.rows("numbers") is file.rows("empty") is None
    with pytest.raises(MemoryBankError, match="no array 'other'"):
        file.rows("other")


def entry(**changes: object) -> Callable[[Path], object]:
    """Write a file of one array, eight bytes long, with this in its header."""
    place = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]} | changes
    return header(json.dumps({"keys": place}).encode())


def header(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(8))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory|Permission"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "short": (lambda path: path.write_bytes(b"abc"), "a header of"),
    "no header": (lambda path: path.write_bytes(bytes(100)), "a header of 0"),
    "endless header": (lambda path: path.write_bytes(b"\xff" * 100), "a header of 18446"),
    "no JSON": (header(b"{"), "Expecting"),
    "no text": (header(b"\xff\xfe"), "decode"),
    "deep": (header(b"[" * 100_000), "recursion"),
    "list": (header(b"[]"), "no table"),
    "no entry": (header(b'{"keys": 3}'), "has 3 for 'keys'"),
    "unknown type": (entry(dtype="F8"), "F8"),
    "list for type": (entry(dtype=[]), "for 'keys'"),
    "negative size": (entry(shape=[-1, -2]), "for 'keys'"),
    "fractional size": (entry(shape=[1.0, 2]), "for 'keys'"),
    "true for one": (entry(shape=[True, 2]), "for 'keys'"),
    "one offset": (entry(data_offsets=[0]), "for 'keys'"),
    "negative offset": (entry(data_offsets=[-8, 0]), "for 'keys'"),
    "backwards": (entry(data_offsets=[8, 0]), "does not fit"),
    "beyond the end": (entry(data_offsets=[8, 16]), "does not fit"),
    "another size": (entry(shape=[2, 2]), "does not fit"),
    "huge": (entry(shape=[2**40, 2**40]), "does not fit"),
    "too little": (entry(shape=[1, 1], data_offsets=[0, 4]), "arrays up to byte"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: str) -> None:
    break_it, message = DAMAGE[damage]
    break_it(tmp_path / "a")
    with pytest.raises(MemoryBankError, match=f"missing, truncated or foreign.*({message})"):
        MappedFile(tmp_path / "a")
