"""The memory bank: an immutable set of text embeddings to project onto and to search."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from memory_bank import projection, storage
from memory_bank.projection import Matrix, Precision
from memory_bank.storage import INDEX_FILE, INDEX_HEADER, BankIndex, IndexOptions, read_index, write_index
from patchioner.base.errors import MemoryBankError, OptionError
from patchioner.base.files import AnyPath, check, replace_folder

FILES = (storage.HEADER, storage.ARRAYS, storage.TEXTS, INDEX_HEADER, INDEX_FILE)  # the last three may be absent


@dataclass(frozen=True)
class Neighbours:
    """The rows of a bank nearest to each query, best first.

    `indices` (n, k) int64 row numbers, `similarities` (n, k) float32 cosines, `texts` n times k, or None.
    """

    indices: Tensor
    similarities: Tensor
    texts: tuple[tuple[str, ...], ...] | None


class MemoryBank:
    """Text embeddings to project onto. Immutable: threads may share one.

    Each row is at once a key (normalised, for the similarities) and a value (as it came in: longer rows weigh more in
    a projection).

    Args:
        embeddings: (N, dim) tensor or array of any float type; copied.
        texts: N texts, or None.
        counts: (N,) positive integers: row i stands for `counts[i]` equal rows. None: all ones.
        drop_zero_rows: leave out rows of zero norm (with their texts and counts).
        dtype: "float32"; "float16" for half the memory; "int8", with a scale per row, for a quarter (what its rounding
            does: `memory_bank.projection`). Sums are float32.

    Attributes (shared, not copies: do not change them):
        keys, scales: (N, dim) rows of the bank's dtype, and None; of int8, and (N,) float32. See `units`.
        norms, counts: (N,) float32 lengths of the values; (N,) int64 multiplicities.
        index: the `BankIndex` that `project(top_k=...)` takes candidates from; None: they are searched exactly.
        texts, dim, dtype, device: the N texts or None; width; precision; where the rows are and searches run.

    Raises:
        MemoryBankError: no rows, rows of zero norm or not finite (named), counts or texts of another length.

    Example:
        >>> bank = MemoryBank(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), texts=["right", "up"])
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
        arrays, kept = projection.split_embeddings(embeddings, counts, projection.torch_dtype(dtype), drop_zero_rows)
        if texts is not None:
            projection.checked_texts(texts, len(embeddings))
            texts = tuple(texts[row] for row in kept.tolist())
        self._hold(arrays, texts)

    def _hold(self, arrays: Mapping[str, Tensor], texts: Sequence[str] | None, index: BankIndex | None = None) -> None:
        self._arrays, self.texts, self.index = arrays, texts, index
        self.keys, self.norms, self.counts = arrays["keys"], arrays["norms"], arrays["counts"]
        self.scales = arrays.get("scales")
        self.device, self.dim = self.keys.device, self.keys.shape[1]
        self.dtype = next(name for name, kind in projection.DTYPES.items() if kind == self.keys.dtype)

    @classmethod
    def _of(cls, arrays: Mapping[str, Tensor], texts: Sequence[str] | None, index: BankIndex | None = None) -> Self:
        """Make a bank of arrays that are already sound, and an index of the same rows."""
        bank = cls.__new__(cls)
        bank._hold(arrays, texts, index)
        return bank

    @classmethod
    def load(cls, folder: AnyPath, memory_map: bool = True, device: torch.device | str = "cpu") -> MemoryBank:
        """Read a bank that `save` wrote, with its index if it has one (which is opened at its first use).

        Args:
            folder: where it is, or a checkpoint that has one.
            memory_map: read rows from the file as they are needed; shapes, norms and counts are checked, and that the
                files are of one bank. False: read everything and check its sha256.
            device: where searches run; other than "cpu", all rows are copied there.

        Raises:
            MemoryBankError: the folder is missing, or a file of it is corrupt or does not fit.
        """
        root = storage.bank_folder(folder)
        arrays, texts, identity = storage.read_bank(root, memory_map=memory_map)
        index = read_index(root, identity, *arrays["keys"].shape) if (root / INDEX_HEADER).exists() else None
        return cls._of(arrays, texts, index).to(device)

    def save(self, folder: AnyPath, dtype: Precision = "float16") -> None:
        """Write the bank into a folder, in place of an older one: `FILES`, with its texts and index if it has any.

        A kill leaves the older bank or this one; other files in the folder stay. At width 384 float16 moves cosines by
        about 1e-5 and weights at temperature 0.01 by 1e-3, int8 by 4e-4 and 4e-2.
        """
        stored = self.to("cpu", dtype)
        if self.index is not None:
            self.index.faiss()  # read now: its file may lie in this very folder
        with replace_folder(folder, owned=FILES) as fresh:
            identity = storage.write_bank(fresh, stored._arrays, stored.texts)
            if self.index is not None:
                write_index(fresh, self.index, identity)

    def save_index(self, folder: AnyPath) -> None:
        """Write only the index into a folder that holds this bank (else MemoryBankError); OptionError without one."""
        if self.index is None:
            raise OptionError("this bank has no index to save; make one by with_index(...)")
        root = Path(folder)
        stored = storage.bank_header(root)["fingerprint"]
        if stored != self.fingerprint():
            raise MemoryBankError(f"{root} holds another bank; load it before the index is built")
        write_index(root, self.index, stored)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        texts = "with" if self.texts is not None else "without"
        index = "" if self.index is None else f", {self.index.options.kind} index"
        return f"MemoryBank({len(self):,} rows x {self.dim}, {self.dtype}, {texts} texts{index})"

    def units(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """The directions of these rows, (n, dim) float32; they may share the keys' memory."""
        keys = self.keys[rows].float()
        return keys if self.scales is None else keys.mul_(self.scales[rows][:, None])

    def embeddings(self) -> Tensor:
        """The values, `key * norm`: (N, dim) float32, in a new tensor."""
        return self.units() * self.norms[:, None]

    def fingerprint(self) -> str:
        """The sha256 (hex) of all rows, norms, counts and texts, as held."""
        return storage.fingerprint(self._arrays, self.texts)

    def to(self, device: torch.device | str | None = None, dtype: Precision | None = None) -> MemoryBank:
        """This bank on another device or in another precision."""
        arrays = {name: array.to(device=device) for name, array in self._arrays.items()}
        if dtype is not None and projection.torch_dtype(dtype) != self.keys.dtype:
            moved = MemoryBank._of(arrays, None)
            keys = torch.empty_like(moved.keys, dtype=projection.torch_dtype(dtype))
            scales = projection.fill_keys(keys, moved.units)
            arrays = {"keys": keys, "norms": moved.norms, "counts": moved.counts} | scales
        return MemoryBank._of(arrays, self.texts, self.index)

    def with_texts(self, texts: Sequence[str] | None) -> MemoryBank:
        """This bank with other texts, or with None."""
        made = copy.copy(self)
        made.texts = None if texts is None else tuple(projection.checked_texts(texts, len(self)))
        return made

    def with_index(self, options: IndexOptions | None) -> MemoryBank:
        """This bank with an index over its rows; with None without one. MissingExtraError without FAISS.

        It serves `project(top_k=...)` alone and is saved and loaded with the bank.
        """
        made = copy.copy(self)
        made.index = None if options is None else BankIndex.build(self, options)
        return made

    def project(
        self, queries: Matrix, temperature: float = 0.01, normalize: bool = True, *, top_k: int | None = None
    ) -> Tensor:
        """`softmax(cos(query, keys) / temperature) @ values` (DeCap, Li et al. 2023), exact, over all rows.

        Args:
            queries: (n, dim), any float type; normalised here, left untouched.
            temperature: positive; smaller is closer to the nearest row.
            normalize: return unit rows.
            top_k: only so many rows take part: those that the bank's index finds, else the nearest; see `approximate`.

        Returns:
            (n, dim) float32 on the device of the queries.

        Raises:
            MemoryBankError: queries of another width, of zero norm or not finite (rows named).
            OptionError: a temperature that is not a positive number, or `top_k` below 1.
        """
        means, _ = self._weighted(queries, temperature, top_k)
        return _finished(means, normalize).to(_home(queries))

    def approximate(
        self, queries: Matrix, top_k: int, temperature: float = 0.01, normalize: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`project(top_k=...)`, and (n,) float32 in 0..1: the share of the full softmax that those rows hold.

        Example:
            >>> bank = MemoryBank(torch.eye(3))
            >>> bank.approximate(torch.ones(1, 3), top_k=2)[1].round(decimals=3)
            tensor([0.6670])
        """
        means, log_mass = self._weighted(queries, temperature, top_k)
        full = self._weighted(queries, temperature, None)[1]
        mass = torch.exp(log_mass - full).clamp_max(1.0)
        return _finished(means, normalize).to(_home(queries)), mass.to(_home(queries))

    def nearest(self, queries: Matrix, k: int) -> Neighbours:
        """Find the k rows, 1 .. len(bank), of highest cosine for each of (n, dim) queries of any float type.

        Best first, equal ones in any order; counts play no part. Errors as for `project`; OptionError: another k.
        """
        check(f"int [1, {len(self)}]", k=k)
        with torch.no_grad():
            units = projection.unit_queries(queries, self.dim).to(self.device)
            index, similarity = projection.nearest(units, self, k)
        projection.check_finite(similarity)
        texts, home = self.texts, _home(queries)
        found = None if texts is None else tuple(tuple(texts[row] for row in rows) for rows in index.tolist())
        return Neighbours(index.to(home), similarity.to(home), found)

    def take(self, rows: Tensor, counts: Tensor | None = None) -> MemoryBank:
        """A bank of these (n,) int64 rows, bit for bit, with texts, no index, and `counts` in place of their own."""
        arrays = {name: array[rows] for name, array in self._arrays.items()}
        if counts is not None:
            arrays["counts"] = counts.clone()
        texts = None if self.texts is None else tuple(self.texts[row] for row in rows.tolist())
        return MemoryBank._of(arrays, texts)

    def merge_duplicates(self) -> MemoryBank:
        """Equal rows (bit for bit) as one row with the sum of their counts and the first text; projections stay."""
        first, group = projection.identical_rows(self)
        counts = torch.zeros(len(first), dtype=torch.int64, device=self.device)
        return self.take(first, counts.index_add_(0, group, self.counts))

    def _weighted(self, queries: Matrix, temperature: float, top_k: int | None) -> tuple[Tensor, Tensor]:
        check("(0, inf)", temperature=temperature)
        check("int [1, inf) or None", top_k=top_k)
        units = projection.unit_queries(queries, self.dim).to(self.device)
        with torch.no_grad():
            if top_k is None or top_k >= len(self):
                return projection.project(units, self, temperature)
            return projection.project_top_k(units, self, top_k, temperature)


def _home(queries: Matrix) -> torch.device:
    return queries.device if isinstance(queries, Tensor) else torch.device("cpu")


def _finished(means: Tensor, normalize: bool) -> Tensor:
    """Checked projections (n, dim) float32, of unit length if so wished."""
    projection.check_finite(means)
    if not normalize:
        return means
    lengths = projection.checked_norms(means, "projected (the bank's rows cancel out)")
    return (means / lengths[:, None]).float()
