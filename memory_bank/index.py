"""Indexes that find a query's nearest rows without looking at all of them, by FAISS.

FAISS reads files in trust: the sha256 in index.json finds accidents, not malice. Take an index from whom you trust.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from memory_bank.storage import read_header
from patchioner.base.errors import MemoryBankError, PatchionerError, UnknownNameError
from patchioner.base.files import atomic_path, check, file_sha256, write_json
from patchioner.base.optional import require
from patchioner.base.progress import progress

if TYPE_CHECKING:
    from memory_bank.bank import MemoryBank

IndexKind = Literal["flat", "ivf", "ivfsq"]
FaissIndex: TypeAlias = Any

INDEX_HEADER, INDEX_FILE = "index.json", "index.faiss"
_FORMAT, _VERSION = "patchioner-bank-index", 1
_TYPES = {"flat": "IndexFlatIP", "ivf": "IndexIVFFlat", "ivfsq": "IndexIVFScalarQuantizer"}
_BLOCK = 16384
_TRAINING_ROWS_A_LIST = 64
_FEWEST_ROWS_A_LIST = 39  # below it FAISS finds clusters unreliable; many of one row are slow, too


@dataclass(frozen=True)
class IndexOptions:
    """How an index is built and searched. None leaves a number to the size of the bank.

    Args:
        kind: "ivf" looks at the lists of rows nearest to the query; "ivfsq" is "ivf" over rows of eight bits a value,
            a quarter of the memory; "flat" looks at every row, on a GPU that FAISS was built for (elsewhere the bank's
            own exact search is as fast, and is taken).
        lists: of those with lists. None: four times the square root of the number of rows.
        probes: lists looked at per query; more find more. None: an eighth of them.
        seed: of the clustering into lists.

    Raises:
        UnknownNameError, OptionError: an unknown kind; a number below 1.
    """

    kind: IndexKind = "ivf"
    lists: int | None = None
    probes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            raise UnknownNameError.among("kind of index", str(self.kind), get_args(IndexKind))
        check("int [1, inf) or None", self, "lists probes")

    @property
    def has_lists(self) -> bool:
        """Whether `lists` and `probes` play a part."""
        return self.kind != "flat"

    def lists_for(self, rows: int) -> int:
        """How many lists a bank of so many rows gets."""
        usual = min(int(4 * math.sqrt(rows)), rows // _FEWEST_ROWS_A_LIST)
        return min(self.lists or max(1, usual), rows)

    def probes_for(self, rows: int) -> int:
        """How many lists are looked at per query in a bank of so many rows."""
        lists = self.lists_for(rows)
        return min(self.probes or max(1, lists // 8), lists)


class BankIndex:
    """A FAISS index over the unit keys of a bank, opened when it is first searched. Threads may share one."""

    def __init__(self, options: IndexOptions, rows: int, dim: int, open_index: Callable[[], FaissIndex]) -> None:
        self.options, self.rows, self.dim = options, rows, dim
        self._open = open_index
        self._lock = Lock()
        self._indexes: dict[str, FaissIndex] = {}

    @classmethod
    def build(cls, bank: MemoryBank, options: IndexOptions) -> BankIndex:
        """Index the unit keys of a bank, block by block, on the CPU."""
        faiss = require("faiss", "faiss")
        rows, dim = len(bank), bank.dim
        codes = {"flat": "Flat", "ivf": "Flat", "ivfsq": "SQ8"}[options.kind]
        lists = f"IVF{options.lists_for(rows)}," if options.has_lists else ""
        index = faiss.index_factory(dim, f"{lists}{codes}", faiss.METRIC_INNER_PRODUCT)
        if options.has_lists:
            index.cp.seed = options.seed
            index.cp.min_points_per_centroid = 1  # FAISS would write a warning to the terminal
            index.train(_training_rows(bank, options))
        for start in progress(range(0, rows, _BLOCK), description="indexing", unit="block"):
            block = slice(start, start + _BLOCK)
            index.add(np.ascontiguousarray(bank.units(block).cpu().numpy()))
        return cls(options, rows, dim, lambda: index)

    def __deepcopy__(self, memo: dict[int, Any]) -> BankIndex:
        """Itself: it never changes, and FAISS's own objects cannot be copied."""
        return self

    def __repr__(self) -> str:
        return f"BankIndex({self.options.kind}, {self.rows:,} rows x {self.dim})"

    def faiss(self, device: torch.device | str = "cpu") -> FaissIndex:
        """The FAISS index, opened now at the latest; on a GPU where FAISS was built for one."""
        device = torch.device(device)
        with self._lock:
            if "cpu" not in self._indexes:
                self._indexes["cpu"] = self._open()
            name = str(device)
            if name not in self._indexes:
                self._indexes[name] = _on_device(self._indexes["cpu"], device)
            return self._indexes[name]

    def serves(self, device: torch.device) -> bool:
        """Whether searching it there is worth it: all rows are compared as fast without FAISS on a CPU."""
        return self.options.has_lists or _has_gpu(device)

    def search(self, units: Tensor, k: int) -> Tensor:
        """Candidates for the k nearest rows of (n, dim) float32 unit rows, k at most `rows`.

        (n, k) int64 row numbers on the device of `units`, in no order to rely on; -1 where fewer were found.
        """
        index = self.faiss(units.device)
        # Parameters of the call, not of the index: threads share it.
        parameters = None
        if self.options.has_lists:
            faiss = require("faiss", "faiss")
            parameters = faiss.SearchParametersIVF(nprobe=self.options.probes_for(self.rows))
        queries = np.ascontiguousarray(units.detach().float().cpu().numpy())
        return torch.from_numpy(index.search(queries, k, params=parameters)[1]).to(units.device)


def write_index(root: Path, index: BankIndex, bank: str) -> None:
    """Write an index into the folder of its bank, whose fingerprint is `bank`; the header last."""
    faiss = require("faiss", "faiss")
    opened = index.faiss()
    (root / INDEX_HEADER).unlink(missing_ok=True)
    with atomic_path(root / INDEX_FILE) as temporary:
        faiss.write_index(opened, str(temporary))
        digest = file_sha256(temporary)
    shape = {"bank": bank, "rows": index.rows, "dim": index.dim, "sha256": digest}
    header = {"format": _FORMAT, "version": _VERSION, **shape, "options": asdict(index.options)}
    write_json(root / INDEX_HEADER, header)


def read_index(root: Path, bank: str, rows: int, dim: int) -> BankIndex:
    """The index beside the bank of this fingerprint; FAISS is not needed yet."""
    path = root / INDEX_HEADER
    kinds = {"bank": str, "rows": int, "dim": int, "sha256": str, "options": dict}
    header = read_header(path, "a bank's index", _FORMAT, (_VERSION,), kinds)
    if (header["bank"], header["rows"], header["dim"]) != (bank, rows, dim):
        raise MemoryBankError(
            f"{path}: an index of another bank; build it again (`patchioner bank index`) or delete it"
        )
    try:
        options = IndexOptions(**header["options"])
    except (PatchionerError, TypeError) as error:
        raise MemoryBankError(
            f"{path}: {error}; build the index again (`patchioner bank index`) or delete it"
        ) from error
    source = partial(_read_faiss, root / INDEX_FILE, header["sha256"], options, rows, dim)
    return BankIndex(options, rows, dim, source)


def _training_rows(bank: MemoryBank, options: IndexOptions) -> Any:
    """Rows for the clustering, drawn by the seed: all of a large bank would take its memory again."""
    rows = len(bank)
    wanted = max(_TRAINING_ROWS_A_LIST * options.lists_for(rows), _BLOCK)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.randperm(rows, generator=generator)[:wanted].sort().values
    return np.ascontiguousarray(bank.units(drawn.to(bank.device)).cpu().numpy())


def _has_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and hasattr(require("faiss", "faiss"), "StandardGpuResources")


def _on_device(index: FaissIndex, device: torch.device) -> FaissIndex:
    if not _has_gpu(device):
        return index
    faiss = require("faiss", "faiss")
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    except RuntimeError as error:
        raise MemoryBankError(f"FAISS cannot put the index on {device} ({error})") from error


def _read_faiss(path: Path, sha256: str, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    faiss = require("faiss", "faiss")
    try:
        if file_sha256(path) != sha256:
            raise RuntimeError("contents differ from their sha256")
        index = faiss.read_index(str(path))
        found = (type(index).__name__, index.ntotal, index.d, index.metric_type)
        if found != (_TYPES[options.kind], rows, dim, faiss.METRIC_INNER_PRODUCT):
            raise RuntimeError(f"holds {found}, not {rows} rows x {dim} of {options.kind!r}")
    except (OSError, RuntimeError, MemoryError) as error:
        raise MemoryBankError(f"{path}: cannot be read ({error}); build it again") from error
    return index
