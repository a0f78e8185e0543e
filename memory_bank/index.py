"""Indexes that find a query's nearest rows without looking at all of them, by FAISS.

Knows FAISS, and how an index is filled, searched and put on a GPU. Does not know what the kinds are made of
(`index_kinds`), banks' texts, files (`index_files`), nor what candidates are for: whoever asks compares them exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memory_bank.arrays import BankArrays
from memory_bank.index_kinds import BUILDERS, PIECE_VALUES, FaissIndex, IndexOptions
from patchioner.base.errors import MemoryBankError, OptionError
from patchioner.base.optional import require
from patchioner.base.progress import progress

_BLOCK = 16384
_TRAINING_ROWS_A_LIST = 64


class BankIndex:
    """A FAISS index over the unit keys of a bank, opened when it is first searched.

    Threads may share one. Made by `build_index` or read by `index_files.find_index`.

    Args:
        options: how it was built.
        rows: of the bank.
        dim: width of the bank.
        open_index: returns the FAISS index; called once, at the first use.
    """

    def __init__(
        self, options: IndexOptions, rows: int, dim: int, open_index: Callable[[], FaissIndex]
    ) -> None:
        self.options = options
        self.rows = rows
        self.dim = dim
        self._open = open_index
        self._lock = Lock()
        self._indexes: dict[str, FaissIndex] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> BankIndex:
        """Itself: it never changes, and FAISS's own objects cannot be copied."""
        return self

    def __repr__(self) -> str:
        return f"BankIndex({self.options.kind}, {self.rows:,} rows x {self.dim})"

    def with_probes(self, probes: int) -> BankIndex:
        """Return the same index, not built again, that looks at another number of lists per query.

        Raises:
            OptionError: a number below 1, or an index without lists.

        Example:
            >>> bank.with_index(bank.index.with_probes(64))  # doctest: +SKIP
        """
        if not self.options.has_lists:
            raise OptionError(
                f"a {self.options.kind!r} index has no lists to look at: probes={probes!r}"
            )
        # What has been opened, on whatever device, is shared: probes are a matter of the search.
        other = copy.copy(self)
        other.options = replace(self.options, probes=probes)
        return other

    def faiss(self, device: torch.device | str = "cpu") -> FaissIndex:
        """Return the FAISS index, opened now at the latest.

        Args:
            device: a GPU where FAISS was built for one and the kind runs there; else the CPU's is given.
        """
        device = torch.device(device)
        with self._lock:
            if "cpu" not in self._indexes:
                self._indexes["cpu"] = self._open()
            name = str(device)
            if name not in self._indexes:
                self._indexes[name] = _on_device(self._indexes["cpu"], self.options, device)
            return self._indexes[name]

    def search(self, units: Tensor, k: int) -> Tensor:
        """Return candidates for the k nearest rows.

        Args:
            units: (n, dim) float32 unit rows on any device.
            k: 1 .. rows.

        Returns:
            (n, k) int64 row numbers on the device of `units`, in no order to rely on; -1 where
            fewer were found.

        Raises:
            OptionError: k out of range.
        """
        if not 1 <= k <= self.rows:
            raise OptionError(f"k={k}: this index can give 1 to {self.rows} rows")
        index = self.faiss(units.device)
        queries = np.ascontiguousarray(units.detach().float().cpu().numpy())
        _, found = index.search(queries, k, params=self._search_parameters(k))
        return torch.from_numpy(found).to(units.device)

    def bytes(self) -> int:
        """Return the size of the index on disk, which is roughly that in memory; it is opened for that."""
        faiss = require("faiss", "faiss")
        sizes: list[int] = []
        # Written to nowhere: the whole of it once more in memory may be too much.
        faiss.write_index(
            self.faiss(), faiss.PyCallbackIOWriter(lambda part: sizes.append(len(part)))
        )
        return sum(sizes)

    def _search_parameters(self, k: int) -> Any:
        # Parameters of the call, not of the index: threads share it.
        faiss = require("faiss", "faiss")
        if self.options.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(self.options.effort, k))
        if self.options.kind == "flat":
            return None
        return faiss.SearchParametersIVF(nprobe=self.options.probes_for(self.rows))


def index_of(arrays: BankArrays, index: IndexOptions | BankIndex) -> BankIndex:
    """Build an index of a bank, or see that a given one is of a bank of that size.

    Raises:
        MemoryBankError: a given one is not.
        MissingExtraError, OptionError: see `build_index`.
    """
    if isinstance(index, IndexOptions):
        return build_index(arrays, index)
    rows, dim = (int(size) for size in arrays.keys.shape)
    if (index.rows, index.dim) != (rows, dim):
        raise MemoryBankError(
            f"{index!r} is not of a bank of {rows:,} rows x {dim}; build one from IndexOptions"
        )
    return index


def build_index(arrays: BankArrays, options: IndexOptions) -> BankIndex:
    """Index the unit keys of a bank, block by block, on the CPU.

    Raises:
        MissingExtraError: FAISS is not installed.
        OptionError: options that do not fit the bank.

    Example:
        >>> bank.with_index(IndexOptions("hnsw")).index  # doctest: +SKIP
        BankIndex(hnsw, 591,753 rows x 768)
    """
    faiss = require("faiss", "faiss")
    rows, dim = (int(size) for size in arrays.keys.shape)
    index = BUILDERS.get(options.kind)(faiss, options, rows, dim)
    if not index.is_trained:
        index.train(_training_rows(arrays, options))
    for start in progress(range(0, rows, _BLOCK), description="indexing", unit="block"):
        block = slice(start, start + _BLOCK)
        index.add(np.ascontiguousarray(arrays.units(block).cpu().numpy()))
    return BankIndex(options, rows, dim, partial(_given, index))


def _given(index: FaissIndex) -> FaissIndex:
    return index


def _training_rows(arrays: BankArrays, options: IndexOptions) -> Any:
    """Rows for the clustering, drawn by the seed: all of a large bank would take its memory again."""
    rows = len(arrays.keys)
    wanted = max(_TRAINING_ROWS_A_LIST * options.lists_for(rows), 64 * PIECE_VALUES)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.randperm(rows, generator=generator)[:wanted].sort().values
    return np.ascontiguousarray(arrays.units(drawn.to(arrays.keys.device)).cpu().numpy())


def _on_device(index: FaissIndex, options: IndexOptions, device: torch.device) -> FaissIndex:
    faiss = require("faiss", "faiss")
    if (
        device.type != "cuda"
        or options.kind == "hnsw"
        or not hasattr(faiss, "StandardGpuResources")
    ):
        return index
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    except RuntimeError as error:
        raise MemoryBankError(
            f"FAISS cannot put the index on {device} ({error}); keep it on the CPU"
        ) from error
