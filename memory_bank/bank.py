"""The memory bank itself: an immutable set of text embeddings to project onto and to search.

Knows embeddings, multiplicities and texts. Does not know which encoder made the embeddings, nor
what the projection is for. Checks: `arrays`; files: `storage`; arithmetic: `projection`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_bank import projection, storage
from memory_bank.arrays import (
    BankArrays,
    Matrix,
    Precision,
    as_matrix,
    checked_norms,
    identical_rows,
    split_embeddings,
    torch_dtype,
)
from memory_bank.projection import Blocks
from patchioner_base.errors import MemoryBankError, OptionError


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


class MemoryBank:
    """Text embeddings to project onto. Immutable: threads may share one.

    Each row is at once a key (normalised, for the similarities) and a value (as it came in: its
    norm may differ from 1, and longer rows weigh more in a projection).

    Args:
        embeddings: (N, dim) tensor or array of any float type; copied.
        texts: N texts, or None.
        counts: (N,) positive integers: row i stands for `counts[i]` equal rows. None: all ones.
        drop_zero_rows: leave out rows of zero norm (with their texts and counts).
        dtype: "float32", or "float16" for half the memory; arithmetic is float32 either way.

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
        self._texts: Sequence[str] | None = None
        if texts is not None:
            _check_texts(texts, len(embeddings))
            self._texts = tuple(texts[row] for row in kept.tolist())

    @classmethod
    def _of(cls, arrays: BankArrays, texts: Sequence[str] | None) -> MemoryBank:
        """Make a bank of arrays that are already sound."""
        bank = cls.__new__(cls)
        bank._arrays = arrays
        bank._texts = texts
        return bank

    def __len__(self) -> int:
        return len(self._arrays.keys)

    def __repr__(self) -> str:
        texts = "with" if self._texts is not None else "without"
        return f"MemoryBank({len(self):,} rows x {self.dim}, {self.dtype}, {texts} texts)"

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
        """(N, dim) unit rows in the bank's dtype. Shared, not a copy: do not change them."""
        return self._arrays.keys

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
        return "float16" if self.keys.dtype == torch.float16 else "float32"

    @property
    def device(self) -> torch.device:
        """Where the rows are, and where searches run."""
        return self.keys.device

    def embeddings(self) -> Tensor:
        """Return the values, `key * norm`: (N, dim) float32, in a new tensor."""
        return self._arrays.values()

    def to(
        self, device: torch.device | str | None = None, dtype: Precision | None = None
    ) -> MemoryBank:
        """Return this bank on another device or in another precision."""
        kind = None if dtype is None else torch_dtype(dtype)
        return MemoryBank._of(self._arrays.to(device, kind), self._texts)

    def with_texts(self, texts: Sequence[str] | None) -> MemoryBank:
        """Return this bank with other texts, or with None."""
        if texts is not None:
            _check_texts(texts, len(self))
            texts = tuple(texts)
        return MemoryBank._of(self._arrays, texts)

    def project(
        self,
        queries: Matrix,
        temperature: float = 0.01,
        normalize: bool = True,
        *,
        blocks: Blocks | None = None,
    ) -> Tensor:
        """Pull queries into the space of the texts: a softmax-weighted mean of the bank's values.

        `softmax(cos(query, keys) / temperature) @ values` (DeCap, Li et al. 2023), exact, over all
        rows; a row with count c weighs as c equal rows.

        Args:
            queries: (n, dim), any float type; normalised here, left untouched.
            temperature: positive; smaller is closer to the nearest row.
            normalize: return unit rows.
            blocks: block sizes, where the defaults do not suit.

        Returns:
            (n, dim) float32 on the device of the queries.

        Raises:
            MemoryBankError: queries of another width, of zero norm or not finite (rows named).
            OptionError: a temperature that is not a positive number.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise OptionError(f"temperature={temperature}: it must be a positive number")
        units, home = self._unit_queries(queries)
        arrays = self._arrays
        with torch.no_grad():
            out = projection.project(
                units,
                arrays.keys,
                arrays.norms,
                arrays.counts.float(),
                temperature,
                blocks or Blocks(),
            )
        _check_sound(out)
        if normalize:
            lengths = checked_norms(out, "projected (the bank's rows cancel out)")
            out = (out / lengths[:, None]).float()
        return out.to(home)

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
        units, home = self._unit_queries(queries)
        with torch.no_grad():
            index, similarity = projection.nearest(units, self.keys, k, blocks or Blocks())
        _check_sound(similarity)
        texts = self._texts
        found = None
        if texts is not None:
            found = tuple(tuple(texts[row] for row in rows) for rows in index.tolist())
        return Neighbours(index.to(home), similarity.to(home), found)

    def merge_duplicates(self) -> MemoryBank:
        """Return a bank in which equal rows (bit for bit) are one row with the sum of their counts.

        Projections stay the same; of the texts the first is kept, and rows keep their order of
        first appearance.
        """
        first, group = identical_rows(self._arrays)
        arrays = self._arrays.take(first)
        counts = torch.zeros_like(arrays.counts).index_add_(0, group, self.counts)
        texts = self._texts
        kept = None if texts is None else tuple(texts[row] for row in first.tolist())
        return MemoryBank._of(BankArrays(arrays.keys, arrays.norms, counts), kept)

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of all rows, norms, counts and texts, as held."""
        return storage.fingerprint(self._arrays, self._texts)

    def save(self, folder: str | os.PathLike[str], dtype: Precision = "float16") -> None:
        """Write the bank into a folder: bank.json, bank.safetensors and, with texts, texts.jsonl.

        In float16 the elements of a unit row are rounded by at most 1 part in 2,048; cosines at
        width 384 then move by about 1e-5, and weights at temperature 0.01 by about 1e-3.
        """
        stored = self.to("cpu", dtype)
        storage.write_bank(folder, stored._arrays, stored._texts)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        memory_map: bool = True,
        device: torch.device | str = "cpu",
    ) -> MemoryBank:
        """Read a bank that `save` wrote.

        Args:
            folder: where it is.
            memory_map: open at once and read rows from the file as they are needed; the shapes,
                norms and counts are checked. False: read everything and check its sha256 as well.
            device: where searches run; other than "cpu", all rows are copied there.

        Raises:
            MemoryBankError: the folder is missing, or a file of it is corrupt or does not fit.
        """
        arrays, texts = storage.read_bank(folder, memory_map=memory_map)
        return cls._of(arrays.to(device, None), texts)

    def _unit_queries(self, queries: Matrix) -> tuple[Tensor, torch.device]:
        """Return unit rows in float32 on the bank's device, and the device they came from."""
        matrix = as_matrix(queries, "queries")
        if matrix.shape[1] != self.dim:
            raise MemoryBankError(
                f"queries have width {matrix.shape[1]}, the bank has {self.dim}; "
                "use the bank of the same model"
            )
        norms = checked_norms(matrix, "query")
        return (matrix.double() / norms[:, None]).float().to(self.device), matrix.device


def _check_texts(texts: Sequence[str], rows: int) -> None:
    if isinstance(texts, str) or len(texts) != rows:
        raise MemoryBankError(f"{len(texts)} texts for {rows} embeddings; each row needs one")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise MemoryBankError(f"texts[{row}] is {text!r}, not a string")


def _check_sound(result: Tensor) -> None:
    # A memory-mapped bank is not read through at load, so damage shows up here at the latest.
    if not bool(torch.isfinite(result).all()):
        raise MemoryBankError("the bank holds values that are not finite: it is corrupt, fetch it")
