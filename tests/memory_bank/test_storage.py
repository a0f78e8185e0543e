"""Banks on disk: round trips, memory mapping, and every kind of damage."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from memory_bank import MemoryBank
from patchioner.base.errors import MemoryBankError
from tests.support import randn

TEXTS = ["a cat", 'two\nlines "quoted"', "élan 猫", "", "form\x0cfeed\u2028mark", "\ud800 lone"]


def make_bank() -> MemoryBank:
    return MemoryBank(3 * randn(6, 5), TEXTS, counts=[1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_round_trip(tmp_path: Path, dtype: Any, memory_map: bool) -> None:
    bank = make_bank()
    bank.save(tmp_path / "bank", dtype=dtype)
    loaded = MemoryBank.load(tmp_path / "bank", memory_map=memory_map)
    wanted = bank.to(dtype=dtype)
    assert loaded.dtype == dtype and list(loaded.texts or ()) == TEXTS
    assert loaded.fingerprint() == wanted.fingerprint()  # of keys, norms, counts and texts
    queries = randn(3, 5, seed=1)
    assert loaded.nearest(queries, 2).texts == wanted.nearest(queries, 2).texts
    # Releases that know only floats still read what is float.
    version = json.loads((tmp_path / "bank" / "bank.json").read_text())["version"]
    assert version == (2 if dtype == "int8" else 1)


def change_header(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(header | changes))


def change_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "bank.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors | {name: tensor}, path, metadata=metadata)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DEEP = (10**5).to_bytes(8, "little") + b"[" * 10**5
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no header": (lambda f: (f / "bank.json").unlink(), "not a memory bank.*no such file"),
    "no arrays": (lambda f: (f / "bank.safetensors").unlink(), "missing, truncated or foreign"),
    "no texts": (lambda f: (f / "texts.jsonl").unlink(), "texts.jsonl: cannot be read"),
    "cut header": (lambda f: truncate(f / "bank.json"), "not valid JSON"),
    "cut arrays": (lambda f: truncate(f / "bank.safetensors"), "missing, truncated or foreign"),
    "cut texts": (lambda f: truncate(f / "texts.jsonl"), "truncated"),
    "list header": (lambda f: (f / "bank.json").write_text("[]"), "not the header"),
    "foreign header": (lambda f: change_header(f, format="x"), "not the header"),
    "newer version": (lambda f: change_header(f, version=3), "version 3, .* reads 1 to 2"),
    "rows no number": (lambda f: change_header(f, rows="6"), "rows is '6', expected int"),
    "other width": (lambda f: change_header(f, dim=4), "keys is .6, 5. .*not of one bank"),
    "pickle": (lambda f: torch.save(1, f / "bank.safetensors"), "missing, truncated or foreign"),
    "deep header": (lambda f: (f / "bank.safetensors").write_bytes(DEEP), "foreign"),
    "keys of int": (lambda f: change_tensor(f, "keys", torch.ones(6, 5).int()), "keys is"),
    "counts of float": (lambda f: change_tensor(f, "counts", torch.ones(6)), "counts is"),
    "short norms": (lambda f: change_tensor(f, "norms", torch.ones(5)), "norms is"),
    "nan norm": (lambda f: change_tensor(f, "norms", torch.full((6,), torch.nan)), "positive"),
    "zero count": (lambda f: change_tensor(f, "counts", torch.zeros(6).long()), "positive"),
    "int8 without scales": (lambda f: change_tensor(f, "keys", torch.ones(6, 5).char()), "foreign"),
    "fewer texts": (lambda f: (f / "texts.jsonl").write_text('"a"\n'), "1 texts for 6 rows"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_at_load(tmp_path: Path, damage: str) -> None:
    make_bank().save(tmp_path)
    break_it, message = DAMAGE[damage]
    break_it(tmp_path)
    with pytest.raises(MemoryBankError, match=message):
        MemoryBank.load(tmp_path)


@pytest.mark.parametrize("file", ["bank.safetensors", "texts.jsonl"])
def test_one_flipped_bit_is_found_when_everything_is_read(tmp_path: Path, file: str) -> None:
    make_bank().save(tmp_path)
    data = bytearray((tmp_path / file).read_bytes())
    data[-4] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(MemoryBankError, match="sha256|not JSON|positive"):
        MemoryBank.load(tmp_path, memory_map=False)


@pytest.mark.parametrize(("line", "message"), [("{", "line 3 is not JSON"), ("3", "is 3, not a")])
def test_a_bad_text_line_is_named_when_it_is_read(tmp_path: Path, line: str, message: str) -> None:
    make_bank().save(tmp_path)
    lines = (tmp_path / "texts.jsonl").read_text().splitlines()
    lines[2] = line
    data = "\n".join(lines) + "\n"
    (tmp_path / "texts.jsonl").write_text(data)
    change_header(tmp_path, texts_sha256=hashlib.sha256(data.encode()).hexdigest())
    texts = MemoryBank.load(tmp_path).texts
    assert texts is not None and texts[1] == TEXTS[1]
    with pytest.raises(MemoryBankError, match=message):
        texts[2]


@pytest.mark.parametrize("older", [False, True], ids=["named", "of an earlier release"])
@pytest.mark.parametrize("file", ["bank.json", "bank.safetensors", "texts.jsonl"])
def test_a_bank_replaced_file_by_file_is_refused(tmp_path: Path, file: str, older: bool) -> None:
    """Of the same size and precision: nothing but the fingerprint tells."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, rows in ((one, torch.eye(6)), (two, torch.eye(6).flip(0))):
        MemoryBank(rows, [f"{folder.name} {row}" for row in range(6)]).save(folder)
        if older:
            save_file(load_file(folder / "bank.safetensors"), folder / "bank.safetensors")
            header = json.loads((folder / "bank.json").read_text())
            del header["texts_sha256"]
            (folder / "bank.json").write_text(json.dumps(header))
        MemoryBank.load(folder)
    (one / file).write_bytes((two / file).read_bytes())
    with pytest.raises(MemoryBankError, match=str(one)):
        MemoryBank.load(one)


def test_a_checkpoints_folder_opens_its_bank_and_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "memory_bank"
    make_bank().save(folder)
    (folder / "notes.txt").write_text("mine")
    bank = MemoryBank.load(tmp_path)
    assert len(bank) == 6
    assert copy.deepcopy(bank).keys.data_ptr() != bank.keys.data_ptr()  # has rows of its own
    MemoryBank(torch.eye(5)).save(folder)
    assert torch.equal(bank.keys, make_bank().to(dtype="float16").keys)  # though it is mapped
    again = MemoryBank.load(tmp_path, memory_map=False)
    assert (len(again), again.texts) == (5, None)
    names = ["bank.json", "bank.safetensors", "notes.txt"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_mapped_rows_that_are_not_finite_show_at_the_first_use(tmp_path: Path) -> None:
    make_bank().save(tmp_path)
    change_tensor(tmp_path, "keys", make_bank().keys.index_fill(0, torch.tensor([4]), torch.nan))
    bank = MemoryBank.load(tmp_path)
    for use in (bank.project, partial(bank.nearest, k=6)):
        with pytest.raises(MemoryBankError, match="corrupt"):
            use(torch.ones(1, 5))
