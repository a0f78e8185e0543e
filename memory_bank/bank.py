"""The memory bank itself: an immutable set of text embeddings to project onto and to search.

Knows embeddings, multiplicities and texts. Does not know which encoder made the embeddings, nor
what the projection is for. Checks: `arrays`; files: `storage`, `index_files`; arithmetic:
`projection`, `approximate`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from memory_bank import checks, index_files, projection, storage
from memory_bank.approximate import (
    Candidates,
    compare,
    find_rows,
    least_mass,
    project_candidates,
)
from memory_bank.arrays import (
    DTYPES,
    BankArrays,
    Matrix,
    Precision,
    identical_rows,
    split_embeddings,
    torch_dtype,
)
from memory_bank.index import BankIndex, index_of
from memory_bank.index_kinds import IndexOptions
from memory_bank.projection import Blocks
from memory_bank.results import Approximation, Neighbours
from patchioner.base.errors import MemoryBankError, OptionError


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
            (what its rounding does to cosines: `memory_bank.quantised`). Sums are float32; those of
            "int8" are exact integers where the processor has fast ones, and then queries and weights
            are rounded to 15 bits (`memory_bank.integers`).

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
            checks.check_texts(texts, len(embeddings))
            self._texts = tuple(texts[row] for row in kept.tolist())

    @classmethod
    def _of(
        cls, arrays: BankArrays, texts: Sequence[str] | None, index: BankIndex | None = None
    ) -> MemoryBank:
        """Make a bank of arrays that are already sound, and an index of the same rows."""
        bank = cls.__new__(cls)
        bank._arrays = arrays
        bank._texts = texts
        bank._index = index
        return bank

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
        """Return the directions of these rows, (n, dim) float32; it may share the keys' memory."""
        return self._arrays.units(rows)

    def embeddings(self) -> Tensor:
        """Return the values, `key * norm`: (N, dim) float32, in a new tensor."""
        return self._arrays.values()

    def to(
        self, device: torch.device | str | None = None, dtype: Precision | None = None
    ) -> MemoryBank:
        """Return this bank on another device or in another precision."""
        arrays = self._arrays.to(device, None if dtype is None else torch_dtype(dtype))
        return MemoryBank._of(arrays, self._texts, self._index)

    def with_texts(self, texts: Sequence[str] | None) -> MemoryBank:
        """Return this bank with other texts, or with None."""
        if texts is not None:
            checks.check_texts(texts, len(self))
            texts = tuple(texts)
        return MemoryBank._of(self._arrays, texts, self._index)

    def with_index(self, index: IndexOptions | BankIndex | None) -> MemoryBank:
        """Return this bank with an index over its rows, or with None without one.

        It serves `project(top_k=...)` alone: without `top_k` a projection stays exact. It is saved and
        loaded with the bank. Give options, or an index of this bank: `bank.index.with_probes(64)`.

        Raises:
            MissingExtraError: FAISS is not installed.
            OptionError, MemoryBankError: options, or an index, that do not fit this bank.

        Example:
            >>> bank.with_index(IndexOptions("ivf")).project(queries, top_k=256)  # doctest: +SKIP
        """
        made = None if index is None else index_of(self._arrays, index)
        return MemoryBank._of(self._arrays, self._texts, made)

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
        checks.check_temperature(temperature)
        units, home = self._unit(queries)
        with torch.no_grad():
            if top_k is None or checks.checked_top_k(top_k) >= len(self):
                found = projection.project(units, self._arrays, temperature, blocks or Blocks())
            else:
                chosen = self._candidates(units, top_k, temperature, blocks or Blocks())
                found = project_candidates(self._arrays, chosen)
        return checks.finished(found.means, normalize).to(home)

    def approximate(
        self,
        queries: Matrix,
        top_k: int,
        temperature: float = 0.01,
        normalize: bool = True,
        *,
        oracle: bool = True,
        blocks: Blocks | None = None,
    ) -> Approximation:
        """Project onto the `top_k` nearest rows, and tell how much of the softmax they hold.

        Args:
            queries, top_k, temperature, normalize, blocks: as for `project`.
            oracle: run the exact projection as well and give the exact share. False: give a lower
                bound, which only candidates that are surely the nearest allow (no index, or "flat",
                which finds the nearest among the rows as they were when it was built: where they have
                since been rounded to fewer bits, the bound holds to within that rounding).

        Returns:
            Embeddings and masses on the device of the queries.

        Raises:
            OptionError: as for `project`; no oracle, with an index that may miss neighbours.

        Example:
            >>> bank = MemoryBank(torch.eye(3))
            >>> bank.approximate(torch.ones(1, 3), top_k=2).mass.round(decimals=3)
            tensor([0.6670])
        """
        checks.check_temperature(temperature)
        if not oracle and self._index is not None and self._index.options.kind != "flat":
            raise OptionError(
                f"a {self._index.options.kind!r} index may miss neighbours, so nothing bounds what it "
                "left out: pass oracle=True"
            )
        units, home = self._unit(queries)
        with torch.no_grad():
            top_k = min(checks.checked_top_k(top_k), len(self))
            chosen = self._candidates(units, top_k, temperature, blocks or Blocks())
            found = project_candidates(self._arrays, chosen)
            if oracle:
                full = projection.project(units, self._arrays, temperature, blocks or Blocks())
                mass = torch.exp(found.log_mass - full.log_mass).clamp_max(1.0)
            else:
                mass = least_mass(chosen, found, self._arrays, temperature)
        embeddings = checks.finished(found.means, normalize)
        return Approximation(embeddings.to(home), mass.to(home), exact=oracle)

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
        units, home = self._unit(queries)
        with torch.no_grad():
            index, similarity = projection.nearest(units, self._arrays, k, blocks or Blocks())
        checks.check_sound(similarity)
        texts = self._texts
        found = None
        if texts is not None:
            found = tuple(tuple(texts[row] for row in rows) for rows in index.tolist())
        return Neighbours(index.to(home), similarity.to(home), found)

    def take(self, rows: Tensor, counts: Tensor | None = None) -> MemoryBank:
        """Return a bank of these rows, bit for bit, with their texts and without an index.

        Args:
            rows: (n,) int64 row numbers, at least one.
            counts: (n,) int64 in place of the rows' own.
        """
        arrays = self._arrays.take(rows)
        if counts is not None:
            arrays = replace(arrays, counts=counts.clone())
        texts = self._texts
        return MemoryBank._of(
            arrays, None if texts is None else tuple(texts[row] for row in rows.tolist())
        )

    def merge_duplicates(self) -> MemoryBank:
        """Return a bank in which equal rows (bit for bit) are one row with the sum of their counts.

        Projections stay the same; of the texts the first is kept, and rows keep their order of
        first appearance.
        """
        first, group = identical_rows(self._arrays)
        counts = torch.zeros(len(first), dtype=torch.int64, device=self.device)
        return self.take(first, counts.index_add_(0, group, self.counts))

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of all rows, norms, counts and texts, as held."""
        return storage.fingerprint(self._arrays, self._texts)

    def save(self, folder: str | os.PathLike[str], dtype: Precision = "float16") -> None:
        """Write the bank into a folder: bank.json, bank.safetensors and, with texts, texts.jsonl.

        In float16 the elements of a unit row are rounded by at most 1 part in 2,048; cosines at
        width 384 then move by about 1e-5, and weights at temperature 0.01 by about 1e-3. In int8
        they move by about 4e-4 and 4e-2 (`memory_bank.quantised`). An index is written as well
        (index.json, index.faiss); without one, an older one in the folder goes.
        """
        stored = self.to("cpu", dtype)
        if self._index is not None:
            self._index.faiss()  # read now: its file may lie in this very folder
        index_files.remove_index(folder)
        storage.write_bank(folder, stored._arrays, stored._texts)
        if self._index is not None:
            index_files.write_index(folder, self._index, storage.stored_fingerprint(folder))

    def save_index(self, folder: str | os.PathLike[str]) -> None:
        """Write only the index, into a folder that holds this bank already.

        Raises:
            OptionError: this bank has no index.
            MemoryBankError: the folder holds no bank, or another one.
        """
        if self._index is None:
            raise OptionError("this bank has no index to save; make one by with_index(...)")
        stored = storage.stored_fingerprint(folder)
        if stored != self.fingerprint():
            raise MemoryBankError(
                f"{os.fspath(folder)} holds another bank; load it before the index is built"
            )
        index_files.write_index(folder, self._index, stored)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        memory_map: bool = True,
        device: torch.device | str = "cpu",
    ) -> MemoryBank:
        """Read a bank that `save` wrote, with its index if it has one.

        Args:
            folder: where it is.
            memory_map: open at once and read rows from the file as they are needed; the shapes,
                norms and counts are checked. False: read everything and check its sha256 as well.
            device: where searches run; other than "cpu", all rows are copied there.

        Raises:
            MemoryBankError: the folder is missing, or a file of it is corrupt or does not fit. Of an
                index only the header is read, and the rest at its first use.
        """
        arrays, texts = storage.read_bank(folder, memory_map=memory_map)
        rows, dim = arrays.keys.shape
        index = index_files.find_index(folder, storage.stored_fingerprint(folder), rows, dim)
        return cls._of(arrays.to(device, None), texts, index)

    def _candidates(
        self, units: Tensor, top_k: int, temperature: float, blocks: Blocks
    ) -> Candidates:
        rows = find_rows(units, self._arrays, self._index, top_k, blocks)
        return compare(units, self._arrays, rows, temperature)

    def _unit(self, queries: Matrix) -> tuple[Tensor, torch.device]:
        """Return unit rows in float32 on the bank's device, and the device they came from."""
        units = checks.unit_queries(queries, self.dim)
        return units.to(self.device), units.device
