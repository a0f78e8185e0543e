"""Banks on disk: bank.json, bank.safetensors (keys, norms, counts, with int8 keys scales) and texts.jsonl.

The fingerprint in bank.json is the sha256 of all arrays and texts; bank.safetensors repeats it, and bank.json has the
sha256 of texts.jsonl too. So a bank whose files are not of one another is refused without reading the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from memory_bank.rows import DTYPES, BankArrays, MappedRows
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.base.files import read_json, recover_folder, write_json
from patchioner.base.weights import write_tensors

HEADER, ARRAYS, TEXTS = "bank.json", "bank.safetensors", "texts.jsonl"
_FORMAT = "patchioner-memory-bank"
_OLDEST, _VERSION = 1, 2  # 1 is what only float rows need; releases that know no int8 read it
_HASH_ROWS = 65536
_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class StoredTexts(Sequence[str]):
    """Texts of a file with one JSON string a line, each decoded and checked when asked for."""

    def __init__(self, path: Path) -> None:
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise MemoryBankError(f"{path}: cannot be read ({error.strerror})") from error
        if self._data and not self._data.endswith(b"\n"):
            raise MemoryBankError(f"{path}: truncated; fetch it again")
        self._path = path
        ends = np.flatnonzero(np.frombuffer(self._data, dtype=np.uint8) == ord("\n"))
        self._bounds = np.concatenate([[0], ends + 1])

    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return hashlib.sha256(self._data).hexdigest()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        row = range(len(self))[index]
        line = self._data[self._bounds[row] : self._bounds[row + 1]]
        try:
            text = json.loads(line)
        except ValueError as error:
            raise MemoryBankError(f"{self._path}: line {row + 1} is not JSON ({error})") from error
        if not isinstance(text, str):
            raise MemoryBankError(f"{self._path}: line {row + 1} is {text!r}, not a string")
        return text


def bank_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of a bank: the given one, or the one inside a checkpoint's."""
    root = Path(folder)
    recover_folder(root)
    inner = root / "memory_bank"
    return inner if inner.is_dir() and not (root / HEADER).exists() else root


def write_bank(root: Path, arrays: BankArrays, texts: Sequence[str] | None) -> str:
    """Write a bank into an empty folder; returns its fingerprint."""
    identity = fingerprint(arrays, texts)
    tensors = {name: tensor.contiguous() for name, tensor in _named(arrays).items()}
    # One entry alone: safetensors writes several in an order of its own, and equal banks are equal files.
    write_tensors(tensors, root / ARRAYS, {"bank": identity})
    lines = hashlib.sha256()
    if texts is not None:
        with (root / TEXTS).open("wb") as file:
            for line in _text_lines(texts):
                lines.update(line)
                file.write(line)
    header = {
        "format": _FORMAT,
        "version": _OLDEST if arrays.scales is None else _VERSION,
        "rows": arrays.keys.shape[0],
        "dim": arrays.keys.shape[1],
        "texts": texts is not None,
        "fingerprint": identity,
    }
    write_json(
        root / HEADER, header | ({} if texts is None else {"texts_sha256": lines.hexdigest()})
    )
    return identity


def read_bank(root: Path, *, memory_map: bool) -> tuple[BankArrays, Sequence[str] | None, str]:
    """Read the arrays, texts and fingerprint of a bank; without `memory_map`, all of it, and check its sha256."""
    header = _bank_header(root)
    identity = str(header["fingerprint"])
    file = MappedFile(root / ARRAYS)
    arrays = _read_arrays(root / ARRAYS, file, header)
    texts = StoredTexts(root / TEXTS) if header["texts"] else None
    if texts is not None and len(texts) != header["rows"]:
        raise MemoryBankError(
            f"{root}: {len(texts)} texts for {header['rows']} rows; fetch it again"
        )
    # Banks of earlier releases say nothing in their files: those are read whole.
    named = "bank" in file.metadata and (texts is None or "texts_sha256" in header)
    if not memory_map:
        arrays = arrays.copy()
    if memory_map and named:
        sound = file.metadata["bank"] == identity
        sound = sound and (texts is None or texts.sha256() == header["texts_sha256"])
    else:
        sound = fingerprint(arrays, texts) == identity
    if not sound:
        raise MemoryBankError(
            f"{root}: contents differ from their sha256, or the files are not of one bank; fetch it again"
        )
    return arrays, texts, identity


def fingerprint(arrays: BankArrays, texts: Sequence[str] | None) -> str:
    """The sha256 (hex) of a bank's arrays and texts."""
    digest = hashlib.sha256()
    for tensor in _named(arrays).values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        starts = range(0, len(tensor), _HASH_ROWS)
        slices: Iterator[slice] = (slice(start, start + _HASH_ROWS) for start in starts)
        if arrays.mapped is not None and tensor is arrays.keys:
            slices = arrays.mapped.passing(slices)
        for rows in slices:
            digest.update(tensor[rows].cpu().contiguous().numpy().data)
    for line in () if texts is None else _text_lines(texts):
        digest.update(line)
    return digest.hexdigest()


def stored_fingerprint(root: Path) -> str:
    """The fingerprint that a saved bank's header promises; nothing else is read."""
    return str(_bank_header(root)["fingerprint"])


def _named(arrays: BankArrays) -> dict[str, Tensor]:
    tensors = {"keys": arrays.keys, "norms": arrays.norms, "counts": arrays.counts}
    return tensors if arrays.scales is None else tensors | {"scales": arrays.scales}


def _text_lines(texts: Sequence[str]) -> Iterator[bytes]:
    # ASCII escapes: a lone surrogate, which UTF-8 cannot hold, must not fail a long run at its end.
    return ((json.dumps(text) + "\n").encode("ascii") for text in texts)


def read_header(
    path: Path, what: str, form: str, versions: Sequence[int], kinds: Mapping[str, type]
) -> dict[str, Any]:
    """The JSON of a header, checked; `what` it is of, the `form` and versions that it must name, and its values."""
    try:
        header = read_json(path)
    except CheckpointError as error:
        raise MemoryBankError(f"not {what}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != form:
        raise MemoryBankError(f"{path}: not the header of {what}")
    if header.get("version") not in versions:
        raise MemoryBankError(
            f"{path}: version {header.get('version')!r}, this release reads {versions[0]} to {versions[-1]}; upgrade it"
        )
    for name, kind in kinds.items():
        if not isinstance(header.get(name), kind):
            raise MemoryBankError(
                f"{path}: {name} is {header.get(name)!r}, expected {kind.__name__}; build or fetch it again"
            )
    return header


def _bank_header(root: Path) -> dict[str, Any]:
    kinds = {"rows": int, "dim": int, "texts": bool, "fingerprint": str}
    return read_header(root / HEADER, "a memory bank", _FORMAT, (_OLDEST, _VERSION), kinds)


def _read_arrays(path: Path, file: MappedFile, header: dict[str, object]) -> BankArrays:
    mapped = file.rows("keys")  # of which nothing is read before it is used
    keys = file.read("keys") if mapped is None else mapped.rows
    scales = file.read("scales") if keys.dtype == torch.int8 else None
    arrays = BankArrays(keys, file.read("norms"), file.read("counts"), scales, mapped)
    rows, dim = header["rows"], header["dim"]
    for name, tensor in _named(arrays).items():
        shape = (rows, dim) if name == "keys" else (rows,)
        dtypes = {"keys": tuple(DTYPES.values()), "counts": (torch.int64,)}
        if tuple(tensor.shape) != shape or tensor.dtype not in dtypes.get(name, (torch.float32,)):
            raise MemoryBankError(
                f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, the header promises {shape}; "
                "the files are not of one bank"
            )
        if name != "keys" and not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
            raise MemoryBankError(f"{path}: {name} that are not positive; fetch it again")
    return arrays


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class MappedFile:
    """A safetensors file, mapped by ourselves so that what was read can be let go again; closed with its last array."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                # Private and never written to. Read-only pages would let a stray write end the process.
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._places, self.metadata = _read_places(self._mapping)
        except (OSError, ValueError, RecursionError) as error:
            raise self._broken(str(error)) from error

    def read(self, name: str) -> Tensor:
        """An array in memory of its own; MemoryBankError where the file has none of this name."""
        place = self._place(name)
        if place.start == place.stop:
            return torch.empty(place.shape, dtype=place.dtype)
        # By bytes: nothing says that they begin where the type would have them.
        data = bytearray(self._mapping[place.start : place.stop])
        return torch.frombuffer(data, dtype=place.dtype).view(place.shape)

    def rows(self, name: str) -> MappedRows | None:
        """An array that stays in the file; None where it is no matrix, is empty or lies askew: `read` it."""
        place = self._place(name)
        if len(place.shape) != 2 or place.start == place.stop or place.start % place.dtype.itemsize:
            return None
        matrix = torch.frombuffer(
            self._mapping, dtype=place.dtype, count=math.prod(place.shape), offset=place.start
        )
        return MappedRows(matrix.view(place.shape), self._mapping, place.start)

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise self._broken(f"no array {name!r}")
        return self._places[name]

    def _broken(self, why: str) -> MemoryBankError:
        return MemoryBankError(
            f"{self._path}: missing, truncated or foreign ({why}); fetch it again"
        )


def _read_places(data: mmap.mmap) -> tuple[dict[str, _Place], dict[str, str]]:
    """Read where each array lies, and the metadata; a ValueError says what is wrong."""
    begin = 8 + int.from_bytes(data[:8], "little")
    if not 8 < begin <= len(data):
        raise ValueError(f"a header of {begin - 8} bytes in a file of {len(data)}")
    header = json.loads(data[8:begin].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    metadata = header.pop("__metadata__", {})
    places = {name: _read_place(name, entry, begin, len(data)) for name, entry in header.items()}
    end = max((place.stop for place in places.values()), default=begin)
    if end != len(data):
        raise ValueError(f"arrays up to byte {end} in a file of {len(data)}")
    return places, metadata if isinstance(metadata, dict) else {}


def _read_place(name: str, entry: object, begin: int, size: int) -> _Place:
    found = entry if isinstance(entry, dict) else {}
    dtype = _SAFETENSORS_DTYPES.get(str(found.get("dtype")))
    shape, offsets = _whole(found.get("shape")), _whole(found.get("data_offsets"))
    if dtype is None or shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"its header has {entry!r} for {name!r}")
    start, stop = (begin + offset for offset in offsets)
    if stop > size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} does not fit in bytes {start} to {stop} of {size}")
    return _Place(dtype, shape, start, stop)


def _whole(value: object) -> tuple[int, ...] | None:
    """The value, if it is a list of numbers from 0."""
    sound = isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
    return tuple(value) if sound and isinstance(value, list) else None
