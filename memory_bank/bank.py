"""The memory bank: an immutable set of text embeddings to project onto and to search."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from memory_bank import projection, storage
from memory_bank.index import (
    INDEX_FILE,
    INDEX_HEADER,
    BankIndex,
    IndexOptions,
    find_index,
    write_index,
)
from memory_bank.projection import Blocks
from memory_bank.rows import (
    DTYPES,
    BankArrays,
    Matrix,
    Precision,
    check_finite,
    checked_norms,
    checked_texts,
    identical_rows,
    split_embeddings,
    torch_dtype,
    unit_queries,
)
from patchioner.base.errors import MemoryBankError, OptionError
from patchioner.base.files import replace_folder

FILES = (storage.HEADER, storage.ARRAYS, storage.TEXTS, INDEX_HEADER, INDEX_FILE)
"""What a saved bank consists of; the last three may be absent."""


@dataclass(frozen=True)
class Neighbours:
    """The rows of a bank nearest to each query, best first.

    Args:
        indices: (n, k) int64 row numbers.
        similarities: (n, k) float32 cosines.
        texts: for each query its k texts; None if the bank has no texts.
    """

    indices: Tensor
    similarities: Tensor
    texts: tuple[tuple[str, ...], ...] | None


@dataclass(frozen=True)
class Approximation:
    """A projection onto the `top_k` rows that were found nearest, and what it left out.

    Args:
        embeddings: (n, dim) float32, as `MemoryBank.project(top_k=...)` gives them.
        mass: (n,) float32 in 0..1: the share of the full softmax that those rows hold.
    """

    embeddings: Tensor
    mass: Tensor


class MemoryBank:
    """Text embeddings to project onto. Immutable: threads may share one.

    Each row is at once a key (normalised, for the similarities) and a value (as it came in: its
    norm may differ from 1, and longer rows weigh more in a projection).

    Args:
        embeddings: (N, dim) tensor or array of any float type; copied.
        texts: N texts, or None.
        counts: (N,) positive integers: row i stands for `counts[i]` equal rows. None: all ones.
        drop_zero_rows: leave out rows of zero norm (with their texts and counts).
        dtype: "float32"; "float16" for half the memory; "int8" with a scale per row for a quarter
            (what its rounding does: `memory_bank.rows`, `memory_bank.projection`). Sums are float32 or exact integers.

    Raises:
        MemoryBankError: no rows, rows of zero norm or not finite (named), counts or texts of
            another length.

    Example:
        >>> bank = MemoryBank(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), texts=["right", "up"])
        >>> len(bank), bank.dim
        (2, 2)
        >>> bank.project(torch.tensor([[5.0, 0.1]])).round(decimals=3)
        tensor([[1., 0.]])
    """

    def __init__(
        self,
        embeddings: Matrix,
        texts: Sequence[str] | None = None,
        counts: Sequence[int] | Matrix | None = None,
        *,
        drop_zero_rows: bool = False,
        dtype: Precision = "float32",
    ) -> None:
        arrays, kept = split_embeddings(embeddings, counts, torch_dtype(dtype), drop_zero_rows)
        self._arrays = arrays
        self._index: BankIndex | None = None
        self._texts: Sequence[str] | None = None
        if texts is not None:
            checked_texts(texts, len(embeddings))
            self._texts = tuple(texts[row] for row in kept.tolist())

    @classmethod
    def _of(
        cls, arrays: BankArrays, texts: Sequence[str] | None, index: BankIndex | None = None
    ) -> MemoryBank:
        """Make a bank of arrays that are already sound, and an index of the same rows."""
        bank = cls.__new__(cls)
        bank._arrays, bank._texts, bank._index = arrays, texts, index
        return bank

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        memory_map: bool = True,
        device: torch.device | str = "cpu",
    ) -> MemoryBank:
        """Read a bank that `save` wrote, with its index if it has one.

        Args:
            folder: where it is, or a checkpoint that has one.
            memory_map: open at once and read rows from the file as they are needed; shapes, norms and counts are
                checked, and that the files are of one bank. False: read everything and check its sha256.
            device: where searches run; other than "cpu", all rows are copied there.

        Raises:
            MemoryBankError: the folder is missing, or a file of it is corrupt or does not fit. Of an
                index only the header is read, and the rest at its first use.
        """
        root = storage.bank_folder(folder)
        arrays, texts, identity = storage.read_bank(root, memory_map=memory_map)
        index = find_index(root, identity, *arrays.keys.shape)
        return cls._of(arrays.to(device, None), texts, index)

    def save(self, folder: str | os.PathLike[str], dtype: Precision = "float16") -> None:
        """Write the bank into a folder, in place of an older one: `FILES`, with its texts and index if it has any.

        A kill leaves the older bank or this one; other files in the folder stay. In float16 the elements of a unit row
        are rounded by at most 1 part in 2,048: cosines at width 384 move by about 1e-5, weights at temperature 0.01 by
        1e-3; in int8 by about 4e-4 and 4e-2.
        """
        stored = self.to("cpu", dtype)
        if self._index is not None:
            self._index.faiss()  # read now: its file may lie in this very folder
        with replace_folder(folder, owned=FILES) as fresh:
            identity = storage.write_bank(fresh, stored._arrays, stored._texts)
            if self._index is not None:
                write_index(fresh, self._index, identity)

    def save_index(self, folder: str | os.PathLike[str]) -> None:
        """Write only the index, into a folder that holds this bank already.

        Raises:
            OptionError: this bank has no index.
            MemoryBankError: the folder holds no bank, or another one.
        """
        if self._index is None:
            raise OptionError("this bank has no index to save; make one by with_index(...)")
        stored = storage.stored_fingerprint(Path(folder))
        if stored != self.fingerprint():
            raise MemoryBankError(
                f"{os.fspath(folder)} holds another bank; load it before the index is built"
            )
        write_index(Path(folder), self._index, stored)

    def __len__(self) -> int:
        return len(self._arrays.keys)

    def __repr__(self) -> str:
        texts = "with" if self._texts is not None else "without"
        index = "" if self._index is None else f", {self._index.options.kind} index"
        return f"MemoryBank({len(self):,} rows x {self.dim}, {self.dtype}, {texts} texts{index})"

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self._arrays.keys.shape[1])

    @property
    def texts(self) -> Sequence[str] | None:
        """The N texts, or None."""
        return self._texts

    @property
    def keys(self) -> Tensor:
        """(N, dim) unit rows in the bank's dtype. Shared, not a copy: do not change them.

        In an int8 bank they are integers, and unit only times `scales`: see `units`.
        """
        return self._arrays.keys

    @property
    def scales(self) -> Tensor | None:
        """(N,) float32 scales of the keys of an int8 bank, else None. Shared, not a copy."""
        return self._arrays.scales

    @property
    def norms(self) -> Tensor:
        """(N,) float32 norms of the values. Shared, not a copy: do not change them."""
        return self._arrays.norms

    @property
    def counts(self) -> Tensor:
        """(N,) int64 multiplicities. Shared, not a copy: do not change them."""
        return self._arrays.counts

    @property
    def dtype(self) -> Precision:
        """Precision of the stored rows."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.keys.dtype)

    @property
    def device(self) -> torch.device:
        """Where the rows are, and where searches run."""
        return self.keys.device

    @property
    def index(self) -> BankIndex | None:
        """The index that `project(top_k=...)` takes candidates from; None: they are searched exactly."""
        return self._index

    def units(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """The directions of these rows, (n, dim) float32; they may share the keys' memory."""
        return self._arrays.units(rows)

    def embeddings(self) -> Tensor:
        """The values, `key * norm`: (N, dim) float32, in a new tensor."""
        return self._arrays.values()

    def fingerprint(self) -> str:
        """The sha256 (hex) of all rows, norms, counts and texts, as held."""
        return storage.fingerprint(self._arrays, self._texts)

    def to(
        self, device: torch.device | str | None = None, dtype: Precision | None = None
    ) -> MemoryBank:
        """This bank on another device or in another precision."""
        arrays = self._arrays.to(device, None if dtype is None else torch_dtype(dtype))
        return MemoryBank._of(arrays, self._texts, self._index)

    def with_texts(self, texts: Sequence[str] | None) -> MemoryBank:
        """This bank with other texts, or with None."""
        kept = None if texts is None else tuple(checked_texts(texts, len(self)))
        return MemoryBank._of(self._arrays, kept, self._index)

    def with_index(self, index: IndexOptions | BankIndex | None) -> MemoryBank:
        """This bank with an index over its rows, or with None without one.

        It serves `project(top_k=...)` alone: without `top_k` a projection stays exact. It is saved and
        loaded with the bank. Give options, or an index of this bank: `bank.index.with_probes(64)`.

        Raises:
            MissingExtraError: FAISS is not installed.
            MemoryBankError: an index of another bank.

        Example:
            >>> bank.with_index(IndexOptions("ivf")).project(queries, top_k=256)  # doctest: +SKIP
        """
        if isinstance(index, IndexOptions):
            index = BankIndex.build(self._arrays, index)
        if index is not None and (index.rows, index.dim) != (len(self), self.dim):
            raise MemoryBankError(
                f"{index!r} is not of a bank of {len(self):,} rows x {self.dim}; build one from IndexOptions"
            )
        return MemoryBank._of(self._arrays, self._texts, index)

    def project(
        self,
        queries: Matrix,
        temperature: float = 0.01,
        normalize: bool = True,
        *,
        top_k: int | None = None,
        blocks: Blocks | None = None,
    ) -> Tensor:
        """Pull queries into the space of the texts: a softmax-weighted mean of the bank's values.

        `softmax(cos(query, keys) / temperature) @ values` (DeCap, Li et al. 2023), exact, over all
        rows; a row with count c weighs as c equal rows.

        Args:
            queries: (n, dim), any float type; normalised here, left untouched.
            temperature: positive; smaller is closer to the nearest row.
            normalize: return unit rows.
            top_k: let only the k nearest rows take part: those that the bank's index finds, else
                the k nearest. They are compared in float32. What that leaves out: `approximate`.
            blocks: block sizes, where the defaults do not suit.

        Returns:
            (n, dim) float32 on the device of the queries.

        Raises:
            MemoryBankError: queries of another width, of zero norm or not finite (rows named).
            OptionError: a temperature that is not a positive number, or `top_k` below 1.
        """
        found = self._weighted(queries, temperature, top_k, blocks or Blocks())
        return _finished(found.means, normalize).to(_home(queries))

    def approximate(
        self,
        queries: Matrix,
        top_k: int,
        temperature: float = 0.01,
        normalize: bool = True,
        *,
        blocks: Blocks | None = None,
    ) -> Approximation:
        """Project onto the `top_k` nearest rows and exactly, and tell how much of the softmax those rows hold.

        Args:
            queries, top_k, temperature, normalize, blocks: as for `project`.

        Example:
            >>> bank = MemoryBank(torch.eye(3))
            >>> bank.approximate(torch.ones(1, 3), top_k=2).mass.round(decimals=3)
            tensor([0.6670])
        """
        found = self._weighted(queries, temperature, top_k, blocks or Blocks())
        full = self._weighted(queries, temperature, None, blocks or Blocks())
        mass = torch.exp(found.log_mass - full.log_mass).clamp_max(1.0)
        home = _home(queries)
        return Approximation(_finished(found.means, normalize).to(home), mass.to(home))

    def nearest(self, queries: Matrix, k: int, *, blocks: Blocks | None = None) -> Neighbours:
        """Find the k rows of highest cosine for each query.

        Args:
            queries: (n, dim), any float type; left untouched.
            k: 1 .. len(bank).
            blocks: block sizes, where the defaults do not suit.

        Returns:
            Neighbours, best first; equal similarities come in any order. Counts play no part.

        Raises:
            MemoryBankError: as for `project`.
            OptionError: k out of range.
        """
        if not 1 <= k <= len(self):
            raise OptionError(f"k={k}: this bank can give 1 to {len(self)} rows")
        with torch.no_grad():
            units = unit_queries(queries, self.dim).to(self.device)
            index, similarity = projection.nearest(units, self._arrays, k, blocks or Blocks())
        check_finite(similarity)
        texts, home = self._texts, _home(queries)
        found = None
        if texts is not None:
            found = tuple(tuple(texts[row] for row in rows) for rows in index.tolist())
        return Neighbours(index.to(home), similarity.to(home), found)

    def take(self, rows: Tensor, counts: Tensor | None = None) -> MemoryBank:
        """A bank of these rows, bit for bit, with their texts and without an index.

        Args:
            rows: (n,) int64 row numbers, at least one.
            counts: (n,) int64 in place of the rows' own.
        """
        arrays = self._arrays.take(rows)
        if counts is not None:
            arrays = replace(arrays, counts=counts.clone())
        texts = self._texts
        kept = None if texts is None else tuple(texts[row] for row in rows.tolist())
        return MemoryBank._of(arrays, kept)

    def merge_duplicates(self) -> MemoryBank:
        """A bank in which equal rows (bit for bit) are one row with the sum of their counts.

        Projections stay the same; of the texts the first is kept, and rows keep their order of
        first appearance.
        """
        first, group = identical_rows(self._arrays)
        counts = torch.zeros(len(first), dtype=torch.int64, device=self.device)
        return self.take(first, counts.index_add_(0, group, self.counts))

    def _weighted(
        self, queries: Matrix, temperature: float, top_k: int | None, blocks: Blocks
    ) -> projection.Weighted:
        if not (math.isfinite(temperature) and temperature > 0):
            raise OptionError(f"temperature={temperature}: it must be a positive number")
        if top_k is not None and top_k < 1:
            raise OptionError(f"top_k={top_k}: at least one row has to take part")
        units, arrays = unit_queries(queries, self.dim).to(self.device), self._arrays
        with torch.no_grad():
            if top_k is None or top_k >= len(self):
                return projection.project(units, arrays, temperature, blocks)
            return projection.project_top_k(units, arrays, self._index, top_k, temperature, blocks)


def join_banks(banks: Sequence[MemoryBank]) -> MemoryBank:
    """One bank with the rows of all, in order, on the first one's device.

    So a bank larger than memory in float32 is made of parts in int8. Equal rows stay apart until
    `merge_duplicates`. It has texts if all banks have, and no index.

    Raises:
        MemoryBankError: no banks, or of unlike width or precision.

    Example:
        >>> len(join_banks([MemoryBank(torch.eye(3)), MemoryBank(torch.eye(3)[:2])]))
        5
    """
    kinds = sorted({(bank.dim, bank.dtype) for bank in banks})
    if len(kinds) != 1:
        found = ", ".join(f"{dim} wide in {dtype}" for dim, dtype in kinds) or "none"
        raise MemoryBankError(
            f"banks to join must be alike, got {found}; see MemoryBank.to(dtype=)"
        )
    device = banks[0].device

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.to(device) for tensor in tensors])

    scales = [bank.scales for bank in banks if bank.scales is not None]
    arrays = BankArrays(
        joined([bank.keys for bank in banks]),
        joined([bank.norms for bank in banks]),
        joined([bank.counts for bank in banks]),
        joined(scales) if scales else None,
    )
    texts = [bank.texts for bank in banks if bank.texts is not None]
    whole = [text for some in texts for text in some] if len(texts) == len(banks) else None
    return MemoryBank._of(arrays, whole)


def _home(queries: Matrix) -> torch.device:
    return queries.device if isinstance(queries, Tensor) else torch.device("cpu")


def _finished(means: Tensor, normalize: bool) -> Tensor:
    """Checked projections (n, dim) float32, of unit length if so wished."""
    check_finite(means)
    if not normalize:
        return means
    lengths = checked_norms(means, "projected (the bank's rows cancel out)")
    return (means / lengths[:, None]).float()
