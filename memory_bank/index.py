"""Indexes that find a query's nearest rows without looking at all of them, by FAISS.

Knows FAISS, the kinds of index and how each is built and searched. Does not know banks' texts, files
(`index_files`), nor what candidates are for: whoever asks compares them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from memory_bank.arrays import BankArrays
from patchioner_base.errors import MemoryBankError, OptionError, UnknownNameError
from patchioner_base.optional import require
from patchioner_base.progress import progress
from patchioner_base.registry import Registry

IndexKind = Literal["flat", "ivf", "ivfsq", "ivfpq", "hnsw"]
FaissIndex: TypeAlias = Any

_BLOCK = 16384
_FEWEST_ROWS_A_LIST = 39  # below it FAISS finds clusters unreliable; many of one row are slow, too
_TRAINING_ROWS_A_LIST = 64
_PIECE_VALUES = 256  # 8 bits a piece


@dataclass(frozen=True)
class IndexOptions:
    """How an index is built and searched. None leaves a number to the size of the bank.

    Args:
        kind: "flat" looks at every row; "ivf" at the lists of rows nearest to the query; "ivfsq" is
            "ivf" over rows of eight bits a value, a quarter of the memory; "ivfpq" over rows
            compressed to a few bytes; "hnsw" walks a graph of neighbours.
        lists: of those with lists. None: four times the square root of the number of rows.
        probes: lists looked at per query; more find more. None: an eighth of them.
        links: neighbours of a row in the graph of "hnsw".
        effort: candidates kept while the graph is built and walked; more find more.
        pieces: bytes per row of "ivfpq", a divisor of the width. None: about an eighth of it.
        seed: of the clustering into lists. A graph built by several threads is not repeatable.

    Raises:
        UnknownNameError: an unknown kind.
        OptionError: a number below 1.

    Example:
        >>> IndexOptions("hnsw", effort=128).links
        32
    """

    kind: IndexKind = "ivf"
    lists: int | None = None
    probes: int | None = None
    links: int = 32
    effort: int = 256
    pieces: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in BUILDERS:
            raise UnknownNameError.among("kind of index", str(self.kind), BUILDERS.names())
        for name in ("lists", "probes", "links", "effort", "pieces"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise OptionError(f"IndexOptions({name}={number!r}): give 1 or more, or leave it")

    @property
    def has_lists(self) -> bool:
        """Whether `lists` and `probes` play a part."""
        return self.kind.startswith("ivf")

    def lists_for(self, rows: int) -> int:
        """Return how many lists a bank of so many rows gets."""
        usual = min(int(4 * math.sqrt(rows)), rows // _FEWEST_ROWS_A_LIST)
        return min(self.lists or max(1, usual), rows)

    def probes_for(self, rows: int) -> int:
        """Return how many lists are looked at per query in a bank of so many rows."""
        lists = self.lists_for(rows)
        return min(self.probes or max(1, lists // 8), lists)

    def pieces_for(self, dim: int) -> int:
        """Return the bytes per row of "ivfpq" at this width.

        Raises:
            OptionError: the pieces asked for do not divide the width.
        """
        if self.pieces is None:
            return next(n for n in range(max(1, dim // 8), 0, -1) if dim % n == 0)
        if dim % self.pieces:
            raise OptionError(f"pieces={self.pieces} does not divide the width {dim}")
        return self.pieces

    def row_bytes(self, dim: int) -> int:
        """Return the bytes that a row of this width takes in the index; in a graph, without its links.

        Example:
            >>> [IndexOptions(kind).row_bytes(384) for kind in ("ivf", "ivfsq", "ivfpq")]
            [1544, 392, 56]
        """
        if self.kind in ("flat", "hnsw"):
            return 4 * dim
        codes = {"ivf": 4 * dim, "ivfsq": dim, "ivfpq": self.pieces_for(dim)}
        return codes[self.kind] + 8  # and the row's number


Builder: TypeAlias = Callable[[Any, IndexOptions, int, int], FaissIndex]
BUILDERS: Registry[Builder] = Registry("kind of index")
"""kind -> (the faiss module, options, rows, dim) -> an empty FAISS index of inner products."""


@BUILDERS.register("flat")
def _flat(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return faiss.IndexFlatIP(dim)


@BUILDERS.register("ivf")
def _ivf(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return _lists(faiss, options, rows, dim, "Flat")


@BUILDERS.register("ivfsq")
def _ivfsq(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return _lists(faiss, options, rows, dim, "SQ8")


@BUILDERS.register("hnsw")
def _hnsw(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    index = faiss.IndexHNSWFlat(dim, options.links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = options.effort
    return index


@BUILDERS.register("ivfpq")
def _ivfpq(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    if rows < _PIECE_VALUES:
        raise OptionError(
            f"{rows} rows are too few for 'ivfpq', at least {_PIECE_VALUES}: use flat"
        )
    index = _lists(faiss, options, rows, dim, f"PQ{options.pieces_for(dim)}")
    _tame(index.pq.cp, options)
    # Minutes of annealing, for a search by Hamming distance that nobody asks for here.
    index.do_polysemous_training = False
    return index


def _lists(faiss: Any, options: IndexOptions, rows: int, dim: int, codes: str) -> FaissIndex:
    """Lists of rows in one of FAISS's codes."""
    description = f"IVF{options.lists_for(rows)},{codes}"
    index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
    _tame(index.cp, options)
    return index


def _tame(clustering: Any, options: IndexOptions) -> None:
    clustering.seed = options.seed
    clustering.min_points_per_centroid = 1  # FAISS would write a warning to the terminal


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
        return BankIndex(replace(self.options, probes=probes), self.rows, self.dim, self.faiss)

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
    wanted = max(_TRAINING_ROWS_A_LIST * options.lists_for(rows), 64 * _PIECE_VALUES)
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
