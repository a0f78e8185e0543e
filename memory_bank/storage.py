"""Banks on disk: bank.json, bank.safetensors (keys, norms, counts, with int8 keys scales) and texts.jsonl.

All name the sha256 of the whole, so that files of two banks are refused without reading the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memory_bank.projection import DTYPES
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.base.files import read_json, recover_folder, write_json
from patchioner.base.weights import write_tensors

HEADER, ARRAYS, TEXTS = "bank.json", "bank.safetensors", "texts.jsonl"
_FORMAT = "patchioner-memory-bank"
_OLDEST, _VERSION = 1, 2  # 1 is what only float rows need; releases that know no int8 read it
_HASH_ROWS = 65536


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


def write_bank(root: Path, arrays: Mapping[str, Tensor], texts: Sequence[str] | None) -> str:
    """Write a bank into an empty folder; returns its fingerprint."""
    identity = fingerprint(arrays, texts)
    tensors = {name: tensor.contiguous() for name, tensor in arrays.items()}
    # One entry alone: safetensors writes several in an order of its own, and equal banks are equal files.
    write_tensors(tensors, root / ARRAYS, {"bank": identity})
    lines = hashlib.sha256()
    if texts is not None:
        with (root / TEXTS).open("wb") as file:
            for line in _text_lines(texts):
                lines.update(line)
                file.write(line)
    (rows, dim), version = arrays["keys"].shape, _VERSION if "scales" in arrays else _OLDEST
    header = {"format": _FORMAT, "version": version, "rows": rows, "dim": dim}
    header |= {"texts": texts is not None, "fingerprint": identity}
    header |= {} if texts is None else {"texts_sha256": lines.hexdigest()}
    write_json(root / HEADER, header)
    return identity


def read_bank(root: Path, *, memory_map: bool) -> tuple[dict[str, Tensor], Sequence[str] | None, str]:
    """Read the arrays, texts and fingerprint of a bank; without `memory_map`, all of it, and check its sha256."""
    header = _bank_header(root)
    identity = str(header["fingerprint"])
    arrays, named = _read_arrays(root / ARRAYS, header, memory_map)
    texts = StoredTexts(root / TEXTS) if header["texts"] else None
    if texts is not None and len(texts) != header["rows"]:
        raise MemoryBankError(f"{root}: {len(texts)} texts for {header['rows']} rows; fetch anew")
    # Banks of earlier releases say nothing in their files: those are read whole.
    if memory_map and named is not None and (texts is None or "texts_sha256" in header):
        sound = named == identity
        sound = sound and (texts is None or texts.sha256() == header["texts_sha256"])
    else:
        sound = fingerprint(arrays, texts) == identity
    if not sound:
        raise MemoryBankError(
            f"{root}: contents differ from their sha256, or the files are not of one bank; fetch it again"
        )
    return arrays, texts, identity


def fingerprint(arrays: Mapping[str, Tensor], texts: Sequence[str] | None) -> str:
    """The sha256 (hex) of a bank's arrays and texts."""
    digest = hashlib.sha256()
    for tensor in arrays.values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in tensor.split(_HASH_ROWS):
            digest.update(part.cpu().contiguous().numpy().data)
    for line in () if texts is None else _text_lines(texts):
        digest.update(line)
    return digest.hexdigest()


def stored_fingerprint(root: Path) -> str:
    """The fingerprint that a saved bank's header promises; nothing else is read."""
    return str(_bank_header(root)["fingerprint"])


def _text_lines(texts: Sequence[str]) -> Iterator[bytes]:
    # ASCII escapes: a lone surrogate, which UTF-8 cannot hold, must not fail a long run at its end.
    return ((json.dumps(text) + "\n").encode("ascii") for text in texts)


def read_header(path: Path, what: str, form: str, versions: Sequence[int], kinds: Mapping[str, type]) -> dict[str, Any]:
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


def _read_arrays(path: Path, header: dict[str, Any], memory_map: bool) -> tuple[dict[str, Tensor], str | None]:
    """The arrays, the keys as a view of the mapped file if `memory_map`, and the fingerprint that the file names."""
    try:
        with safe_open(path, framework="pt") as file:
            named = (file.metadata() or {}).get("bank")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = ["norms", "counts"] + ["scales"] * (found["keys"].dtype == torch.int8)
        arrays = {"keys": found["keys"] if memory_map else found["keys"].clone()}
        arrays |= {name: found[name].clone() for name in names}
    except (OSError, KeyError, SafetensorError) as error:
        raise MemoryBankError(f"{path}: missing, truncated or foreign ({error}); fetch it again") from error
    dtypes = {"keys": tuple(DTYPES.values()), "counts": (torch.int64,)}
    for name, tensor in arrays.items():
        shape = (header["rows"], header["dim"]) if name == "keys" else (header["rows"],)
        if tensor.shape != shape or tensor.dtype not in dtypes.get(name, (torch.float32,)):
            raise MemoryBankError(
                f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, the header promises {shape}; "
                "the files are not of one bank"
            )
        if name != "keys" and not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
            raise MemoryBankError(f"{path}: {name} that are not positive; fetch it again")
    return arrays, named
