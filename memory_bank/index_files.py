"""Indexes on disk, beside their bank: index.json and index.faiss.

Knows the files, and how to tell an index that is damaged or of another bank. Does not know how an
index is built or searched.

FAISS reads its files in trust: sizes in a damaged one can end the process. So before it sees a byte,
the file must have the sha256 of index.json, a header of the promised kind, width and rows, and a
size that such an index can have. That finds accidents, not malice: take an index only from whom you
trust, or build it anew.
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from memory_bank.index import BankIndex
from memory_bank.index_kinds import FaissIndex, IndexOptions
from patchioner.base.errors import CheckpointError, MemoryBankError, PatchionerError
from patchioner.base.files import atomic_path, file_sha256, read_json, write_json
from patchioner.base.optional import require

FORMAT = "patchioner-bank-index"
VERSION = 1
_HEADER, _INDEX = "index.json", "index.faiss"

_FAISS_HEADER = struct.Struct("<4siqqqBi")  # name, width, rows, two unused, trained, metric
_NAMES = {"flat": b"IxFI", "ivf": b"IwFl", "ivfsq": b"IwSq", "ivfpq": b"IwPQ", "hnsw": b"IHNf"}
_INNER_PRODUCT = 0
_SLACK = 2**20


def write_index(folder: str | os.PathLike[str], index: BankIndex, bank: str) -> None:
    """Write an index into the folder of its bank, the header last.

    Args:
        folder: of the bank.
        index: of the same rows.
        bank: fingerprint of the bank as it lies there.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    faiss = require("faiss", "faiss")
    root = Path(folder)
    opened = index.faiss()
    (root / _HEADER).unlink(missing_ok=True)
    with atomic_path(root / _INDEX) as temporary:
        faiss.write_index(opened, str(temporary))
        digest = file_sha256(temporary)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "bank": bank,
        "rows": index.rows,
        "dim": index.dim,
        "sha256": digest,
        "options": asdict(index.options),
    }
    write_json(root / _HEADER, header)


def remove_index(folder: str | os.PathLike[str]) -> None:
    """Remove the index of a folder, if there is one."""
    for name in (_HEADER, _INDEX):
        (Path(folder) / name).unlink(missing_ok=True)


def find_index(folder: str | os.PathLike[str], bank: str, rows: int, dim: int) -> BankIndex | None:
    """Return the index of a bank's folder, or None where there is none; FAISS is not needed yet.

    Args:
        folder: of the bank.
        bank: fingerprint of the bank.
        rows: of the bank.
        dim: width of the bank.

    Raises:
        MemoryBankError: the header is damaged, or the index is of another bank.
    """
    path = Path(folder) / _HEADER
    if not path.exists():
        return None
    header = _read_header(path)
    if (header["bank"], header["rows"], header["dim"]) != (bank, rows, dim):
        raise MemoryBankError(
            f"{path}: an index of another bank; build it again (`patchioner bank index`) or delete it"
        )
    options = _read_options(path, header["options"])
    source = partial(_read_faiss, Path(folder) / _INDEX, header["sha256"], options, rows, dim)
    return BankIndex(options, rows, dim, source)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = read_json(path)
    except CheckpointError as error:
        raise MemoryBankError(f"not an index: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise MemoryBankError(f"{path}: not the header of a bank's index")
    if header.get("version") != VERSION:
        raise MemoryBankError(
            f"{path}: version {header.get('version')!r}, this release reads {VERSION}; upgrade it"
        )
    kinds = {"bank": str, "rows": int, "dim": int, "sha256": str, "options": dict}
    for name, kind in kinds.items():
        if not isinstance(header.get(name), kind):
            raise MemoryBankError(
                f"{path}: {name} is {header.get(name)!r}, expected {kind.__name__}; build it again"
            )
    return header


def _read_options(path: Path, given: dict[str, Any]) -> IndexOptions:
    known = {field.name for field in fields(IndexOptions)}
    try:
        if set(given) != known:
            raise MemoryBankError(f"options {sorted(given)}, expected {sorted(known)}")
        return IndexOptions(**given)
    except PatchionerError as error:
        raise MemoryBankError(f"{path}: {error}; build the index again") from error


def _read_faiss(path: Path, sha256: str, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    faiss = require("faiss", "faiss")
    _check_file(path, sha256, options, rows, dim)
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise MemoryBankError(f"{path}: FAISS cannot read it ({error}); build it again") from error
    if (index.ntotal, index.d, index.metric_type) != (rows, dim, _INNER_PRODUCT):
        raise MemoryBankError(f"{path}: not an index of {rows} rows x {dim}; build it again")
    return index


def _check_file(path: Path, sha256: str, options: IndexOptions, rows: int, dim: int) -> None:
    """Check all that can be known without FAISS."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_FAISS_HEADER.size)
    except OSError as error:
        raise MemoryBankError(
            f"{path}: cannot be read ({error.strerror}); build it again"
        ) from error
    if len(head) < _FAISS_HEADER.size:
        raise MemoryBankError(f"{path}: truncated; build it again")
    name, width, count, _, _, trained, metric = _FAISS_HEADER.unpack(head)
    wanted = (_NAMES[options.kind], dim, rows, 1, _INNER_PRODUCT)
    if (name, width, count, trained, metric) != wanted:
        raise MemoryBankError(
            f"{path}: holds {name!r}, {count} rows x {width}; index.json promises {wanted[0]!r}, "
            f"{rows} rows x {dim}; build it again"
        )
    least, most = _sizes(options, rows, dim)
    if not least <= size <= most:
        raise MemoryBankError(
            f"{path}: {size} bytes, expected {least} to {most}; truncated or foreign, build it again"
        )
    if file_sha256(path) != sha256:
        raise MemoryBankError(f"{path}: contents differ from their sha256; build it again")


def _sizes(options: IndexOptions, rows: int, dim: int) -> tuple[int, int]:
    """Return the fewest and most bytes that such an index takes on disk."""
    least = rows * options.row_bytes(dim)
    lists = options.lists_for(rows) * (4 * dim + 32)
    codebook = 256 * 4 * dim
    # A graph has twice the links at its bottom and fewer rows at each level above.
    graph = rows * (16 * options.links + 64)
    return least, least + lists + codebook + graph + _SLACK
