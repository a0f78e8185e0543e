"""Banks on disk: bank.json, bank.safetensors (keys, norms, counts) and texts.jsonl.

With keys of eight bits, bank.safetensors holds their scales as well.

Knows the files and how to tell a damaged one. Does not know what a bank is used for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from memory_bank.arrays import DTYPES, BankArrays
from memory_bank.mapping import MappedFile
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.base.files import atomic_path, read_json, write_json

FORMAT = "patchioner-memory-bank"
VERSION = 2
_OLDEST = 1  # what only float rows need; releases that know no int8 read it
_HEADER, _ARRAYS, _TEXTS = "bank.json", "bank.safetensors", "texts.jsonl"
_HASH_ROWS = 65536


class StoredTexts(Sequence[str]):
    """Texts of a JSON-lines file, each decoded when asked for: a large bank opens at once.

    Args:
        path: a file with one JSON string per line.

    Raises:
        MemoryBankError: the file is missing or truncated, or (when asked for) a line is no string.
    """

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


def write_bank(
    folder: str | os.PathLike[str], arrays: BankArrays, texts: Sequence[str] | None
) -> None:
    """Write a bank into a folder, each file atomically and the header last."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in _named(arrays).items()}
    with atomic_path(root / _ARRAYS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    if texts is None:
        (root / _TEXTS).unlink(missing_ok=True)
    else:
        with atomic_path(root / _TEXTS) as temporary, temporary.open("wb") as file:
            file.writelines(_text_lines(texts))
    header = {
        "format": FORMAT,
        "version": _OLDEST if arrays.scales is None else VERSION,
        "rows": arrays.keys.shape[0],
        "dim": arrays.keys.shape[1],
        "texts": texts is not None,
        "fingerprint": fingerprint(arrays, texts),
    }
    write_json(root / _HEADER, header)


def read_bank(
    folder: str | os.PathLike[str], *, memory_map: bool
) -> tuple[BankArrays, Sequence[str] | None]:
    """Read the arrays and texts of a bank; without `memory_map`, all of it, and check its sha256.

    Raises:
        MemoryBankError: a file is missing, foreign, damaged, or does not fit the others.
    """
    root = Path(folder)
    header = _read_header(root / _HEADER)
    arrays = _read_arrays(root / _ARRAYS, header)
    texts = StoredTexts(root / _TEXTS) if header["texts"] else None
    if texts is not None and len(texts) != header["rows"]:
        raise MemoryBankError(
            f"{root}: {len(texts)} texts for {header['rows']} rows; fetch it again"
        )
    if not memory_map:
        arrays = arrays.copy()
        if fingerprint(arrays, texts) != header["fingerprint"]:
            raise MemoryBankError(f"{root}: contents differ from their sha256; fetch it again")
    return arrays, texts


def fingerprint(arrays: BankArrays, texts: Sequence[str] | None) -> str:
    """Return the sha256 (hex) of a bank's arrays and texts."""
    digest = hashlib.sha256()
    for tensor in _named(arrays).values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for start in range(0, len(tensor), _HASH_ROWS):
            digest.update(tensor[start : start + _HASH_ROWS].cpu().contiguous().numpy().data)
    for line in () if texts is None else _text_lines(texts):
        digest.update(line)
    return digest.hexdigest()


def stored_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return the fingerprint that a saved bank's header promises; nothing else is read.

    Raises:
        MemoryBankError: there is no bank, or its header is damaged.
    """
    return str(_read_header(Path(folder) / _HEADER)["fingerprint"])


def _named(arrays: BankArrays) -> dict[str, Tensor]:
    tensors = {"keys": arrays.keys, "norms": arrays.norms, "counts": arrays.counts}
    return tensors if arrays.scales is None else tensors | {"scales": arrays.scales}


def _text_lines(texts: Sequence[str]) -> Iterator[bytes]:
    # ASCII escapes: a lone surrogate, which UTF-8 cannot hold, must not fail a long run at its end.
    return ((json.dumps(text) + "\n").encode("ascii") for text in texts)


def _read_header(path: Path) -> dict[str, object]:
    try:
        header = read_json(path)
    except CheckpointError as error:
        raise MemoryBankError(f"not a memory bank: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise MemoryBankError(f"{path}: not the header of a memory bank")
    if header.get("version") not in (_OLDEST, VERSION):
        raise MemoryBankError(
            f"{path}: version {header.get('version')!r}, this release reads {_OLDEST} to {VERSION}; "
            "upgrade it"
        )
    kinds = {"rows": int, "dim": int, "texts": bool, "fingerprint": str}
    for name, kind in kinds.items():
        if not isinstance(header.get(name), kind):
            raise MemoryBankError(
                f"{path}: {name} is {header.get(name)!r}, expected {kind.__name__}"
            )
    return header


def _read_arrays(path: Path, header: dict[str, object]) -> BankArrays:
    file = MappedFile(path)
    mapped = file.rows("keys")  # of which nothing is read before it is used
    keys = file.read("keys") if mapped is None else mapped.rows
    scales = file.read("scales") if keys.dtype == torch.int8 else None
    arrays = BankArrays(keys, file.read("norms"), file.read("counts"), scales, mapped)
    rows, dim = header["rows"], header["dim"]
    _check_array(path, "keys", arrays.keys, (rows, dim), tuple(DTYPES.values()))
    _check_array(path, "norms", arrays.norms, (rows,), (torch.float32,))
    _check_array(path, "counts", arrays.counts, (rows,), (torch.int64,))
    sound = _positive(arrays.norms) and bool((arrays.counts > 0).all())
    if arrays.scales is not None:
        _check_array(path, "scales", arrays.scales, (rows,), (torch.float32,))
        sound = sound and _positive(arrays.scales)
    if not sound:
        raise MemoryBankError(
            f"{path}: norms, counts or scales that are not positive; fetch it again"
        )
    return arrays


def _positive(tensor: Tensor) -> bool:
    return bool((torch.isfinite(tensor) & (tensor > 0)).all())


def _check_array(
    path: Path,
    name: str,
    tensor: Tensor,
    shape: tuple[object, ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        raise MemoryBankError(
            f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, the header promises {shape}; "
            "the files are not of one bank"
        )
