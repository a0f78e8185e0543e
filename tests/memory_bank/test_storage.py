"""Banks on disk: round trips, memory mapping, and every kind of damage."""

import copy
import hashlib
import json
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


def change(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(header | changes))


def put(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "bank.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    with safe_open(path, "pt") as file:
        save_file(tensors | {name: tensor}, path, metadata=file.metadata())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


FOREIGN = "missing, truncated or foreign"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "bank.json").unlink(), "not a memory bank.*no such file"),
        (lambda f: (f / "bank.safetensors").unlink(), FOREIGN),
        (lambda f: (f / "texts.jsonl").unlink(), "texts.jsonl: cannot be read"),
        (lambda f: truncate(f / "bank.json"), "not valid JSON"),
        (lambda f: truncate(f / "texts.jsonl"), "truncated"),
        (lambda f: (f / "bank.json").write_text("[]"), "not the header"),
        (lambda f: change(f, version=3), "version 3, .* reads 1 to 2"),
        (lambda f: change(f, rows="6"), "rows is '6', expected int"),
        (lambda f: change(f, dim=4), "keys is .6, 5. .*not .6, 4."),
        (lambda f: torch.save(1, f / "bank.safetensors"), FOREIGN),
        (lambda f: put(f, "keys", torch.ones(6, 5).int()), "keys is"),
        (lambda f: put(f, "counts", torch.ones(6)), "counts is"),
        (lambda f: put(f, "norms", torch.ones(5)), "norms is"),
        (lambda f: put(f, "norms", torch.full((6,), torch.nan)), "positive"),
        (lambda f: put(f, "keys", torch.ones(6, 5).char()), FOREIGN),  # without scales
        (lambda f: (f / "texts.jsonl").write_text('"a"\n'), "1 texts for 6 rows"),
    ],
)
def test_damage_is_an_error_at_load(tmp_path: Path, damage: Any, message: str) -> None:
    make_bank().save(tmp_path)
    damage(tmp_path)
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
    data = "\n".join([*lines[:2], line, *lines[3:], ""])
    (tmp_path / "texts.jsonl").write_text(data)
    change(tmp_path, texts_sha256=hashlib.sha256(data.encode()).hexdigest())
    texts = MemoryBank.load(tmp_path).texts
    assert texts is not None and texts[1] == TEXTS[1]
    with pytest.raises(MemoryBankError, match=message):
        texts[2]


@pytest.mark.parametrize("older", [False, True], ids=["named", "of an earlier release"])
@pytest.mark.parametrize("file", ["bank.json", "bank.safetensors", "texts.jsonl"])
def test_a_bank_replaced_file_by_file_is_refused(tmp_path: Path, file: str, older: bool) -> None:
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
    put(tmp_path, "keys", make_bank().keys.index_fill(0, torch.tensor([4]), torch.nan))
    bank = MemoryBank.load(tmp_path)
    for use in (bank.project, partial(bank.nearest, k=6)):
        with pytest.raises(MemoryBankError, match="corrupt"):
            use(torch.ones(1, 5))
