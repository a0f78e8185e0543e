"""The rows of a bank (unit keys, norms, counts) and every check on what enters.

With eight bits, a step of a row is `max|row| / 127`: the cosine with another unit vector moves by about
`step / sqrt(12)`, 4e-4 at width 384 where the largest element is 0.17; at temperature 0.01 that is a weight off by 4
percent, of random sign from row to row. It can never move by more than `step * sqrt(dim) / 2`.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchioner.base.errors import MemoryBankError, OptionError
from patchioner.base.inference import quantize_rows

Matrix: TypeAlias = Tensor | NDArray[Any]
Precision = Literal["int8", "float16", "float32"]

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"int8": torch.int8, "float16": torch.float16, "float32": torch.float32}
)
"""The torch dtype of the keys in each precision."""

_BLOCK = 65536
_SMALLEST_NORM = torch.finfo(torch.float32).tiny
_RUN_BYTES = 16 * 2**20
# Smaller matrices are left where they are: they are read faster the next time.
_KEPT_BYTES = 512 * 2**20


class MappedRows:
    """A matrix that is a view of a mapped file, of which rows can leave memory until they are read again.

    Threads may share one: rows that one lets go while another reads them come back from the file. A pickle or a deep
    copy of it is None, because the matrix, (N, dim) from byte `offset` of the file on, then has memory of its own.
    """

    def __init__(self, rows: Tensor, mapping: mmap.mmap, offset: int) -> None:
        self.rows, self._mapping, self._offset = rows, mapping, offset

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def release(self, start: int, stop: int) -> None:
        """Let go of the whole pages of rows `start` to `stop`; elsewhere than on Linux nothing happens."""
        if sys.platform != "linux":
            return  # the same advice means something else, or nothing
        row = self.rows.shape[1] * self.rows.element_size()
        first = -(-(self._offset + start * row) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (self._offset + stop * row) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    def passing(self, slices: Iterable[slice]) -> Iterator[slice]:
        """Yield adjoining slices of rows, and release those that have been used; below half a GiB, none."""
        row = self.rows.shape[1] * self.rows.element_size()
        if row * len(self.rows) < _KEPT_BYTES:
            yield from slices
            return
        start = stop = 0
        for rows in slices:
            yield rows
            stop = rows.stop
            # In long runs: the system reads some way ahead, and each call costs.
            if (stop - start) * row >= _RUN_BYTES:
                self.release(start, stop)
                start = stop
        self.release(start, stop)


@dataclass(frozen=True)
class BankArrays:
    """The rows of a bank. A row's value is `key * norm`: keys are normalised, values are not.

    Args:
        keys: (N, dim) float16 or float32 unit rows, or int8 rows that are unit rows times a scale.
        norms: (N,) float32, positive.
        counts: (N,) int64, at least 1: how often each row occurs.
        scales: (N,) float32 where the keys are int8: unit row = key * scale. Else None.
        mapped: the keys, where they lie in a mapped file. Else None.
    """

    keys: Tensor
    norms: Tensor
    counts: Tensor
    scales: Tensor | None = None
    mapped: MappedRows | None = None

    def units(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """These rows' directions, (n, dim) float32; they may share the keys' memory."""
        keys = self.keys[rows]
        return (
            keys.float() if self.scales is None else keys.float().mul_(self.scales[rows][:, None])
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> BankArrays:
        """The arrays, each as `change` gives it."""
        scales = None if self.scales is None else change(self.scales)
        return BankArrays(change(self.keys), change(self.norms), change(self.counts), scales)

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> BankArrays:
        """The arrays on this device, the keys in this dtype; None keeps either."""
        moved = self.map(lambda array: array.to(device=device))
        if dtype is None or dtype == moved.keys.dtype:
            return replace(moved, mapped=self.mapped if moved.keys is self.keys else None)
        keys, scales = _stored(moved.units, moved.keys.shape, dtype, moved.keys.device)
        return BankArrays(keys, moved.norms, moved.counts, scales)


def named_arrays(arrays: BankArrays) -> dict[str, Tensor]:
    """The arrays by name, in the order of `BankArrays`; `scales` only where there are any."""
    tensors = {"keys": arrays.keys, "norms": arrays.norms, "counts": arrays.counts}
    return tensors if arrays.scales is None else tensors | {"scales": arrays.scales}


def quantise(units: Tensor) -> tuple[Tensor, Tensor]:
    """Round (n, dim) unit rows to int8 keys, and scales (n,) float32 such that `keys * scales` has unit rows again.

    Example:
        >>> keys, scales = quantise(torch.tensor([[0.6, -0.8]]))
        >>> keys.tolist()
        [[95, -127]]
    """
    keys = quantize_rows(units)[0]
    # The length is that of the rounded row, not the step: cosines stay cosines, norms stay norms.
    return keys, (1 / torch.linalg.vector_norm(keys.double(), dim=1)).float()


def torch_dtype(precision: str) -> torch.dtype:
    """The torch dtype of "int8", "float16" or "float32"; else it is an OptionError."""
    if precision not in DTYPES:
        raise OptionError(f"dtype={precision!r}; a bank is kept in one of {tuple(DTYPES)}")
    return DTYPES[precision]  # type: ignore[index]


def as_matrix(value: Matrix, what: str) -> Tensor:
    """`value` as a detached (n, dim) float tensor, which may share its memory; else a MemoryBankError."""
    if not isinstance(value, Tensor | np.ndarray):
        raise MemoryBankError(f"{what} must be a tensor or a numpy array, got {type(value)}")
    real = value.dtype.kind == "f" if isinstance(value, np.ndarray) else value.is_floating_point()
    if not real:
        raise MemoryBankError(f"{what} must be floating point, got {value.dtype}; convert it")
    if isinstance(value, np.ndarray):
        # torch warns of arrays it could write to by accident.
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    if value.dim() != 2 or value.shape[1] == 0:
        raise MemoryBankError(
            f"{what} must have shape (rows, dim), got {tuple(value.shape)}; "
            "a single vector goes in as vector[None]"
        )
    return value.detach()


def split_embeddings(
    embeddings: Matrix, counts: Sequence[int] | Matrix | None, dtype: torch.dtype, drop_zero: bool
) -> tuple[BankArrays, Tensor]:
    """Split embeddings into keys and norms, checked: the arrays, and the (M,) int64 rows that were kept."""
    matrix = as_matrix(embeddings, "embeddings")
    norms = checked_norms(matrix, "embedding", zero_allowed=drop_zero)
    kept = torch.nonzero(norms).flatten()
    if len(kept) == 0:
        raise MemoryBankError(f"embeddings of shape {tuple(matrix.shape)} leave the bank no rows")
    all_counts = _checked_counts(counts, len(matrix), matrix.device)

    def units(block: slice) -> Tensor:
        rows = kept[block]
        return matrix[rows].double() / norms[rows, None]

    keys, scales = _stored(units, (len(kept), matrix.shape[1]), dtype, matrix.device)
    return BankArrays(keys, norms[kept].float(), all_counts[kept], scales), kept


def checked_norms(matrix: Tensor, what: str, *, zero_allowed: bool = False) -> Tensor:
    """The (n,) float64 norms of the rows, 0 below float32's range; rows of no finite or of zero norm are named."""
    # In float64, so that neither tiny nor huge values are lost in their squares.
    norms = torch.empty(len(matrix), dtype=torch.float64, device=matrix.device)
    for start in range(0, len(matrix), _BLOCK):
        block = matrix[start : start + _BLOCK].double()
        norms[start : start + _BLOCK] = torch.linalg.vector_norm(block, dim=1)
    norms[norms < _SMALLEST_NORM] = 0.0
    if bad := _flagged(~torch.isfinite(norms.float())):
        raise MemoryBankError(f"{what} rows that are not finite: {bad}; find out where they arose")
    if not zero_allowed and (bad := _flagged(norms == 0)):
        remedy = (
            "pass drop_zero_rows=True to leave them out" if what == "embedding" else "drop them"
        )
        raise MemoryBankError(f"{what} rows of zero norm, which have no direction: {bad}; {remedy}")
    return norms


def unit_queries(queries: Matrix, dim: int) -> Tensor:
    """Queries as (n, dim) float32 unit rows, where they are, in a new tensor."""
    matrix = as_matrix(queries, "queries")
    if matrix.shape[1] != dim:
        raise MemoryBankError(
            f"queries have width {matrix.shape[1]}, the bank has {dim}; use the bank of the same model"
        )
    norms = checked_norms(matrix, "query")
    return (matrix.double() / norms[:, None]).float()


def checked_texts(texts: Sequence[str], rows: int) -> Sequence[str]:
    """Return texts, or raise MemoryBankError where they are not one string per row."""
    if isinstance(texts, str) or len(texts) != rows:
        raise MemoryBankError(f"{len(texts)} texts for {rows} embeddings; each row needs one")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise MemoryBankError(f"texts[{row}] is {text!r}, not a string")
    return texts


def check_finite(result: Tensor) -> None:
    """Refuse results that are not finite (MemoryBankError)."""
    # A memory-mapped bank is not read through at load, so damage shows up here at the latest.
    if not bool(torch.isfinite(result).all()):
        raise MemoryBankError("the bank holds values that are not finite: it is corrupt, fetch it")


def identical_rows(arrays: BankArrays) -> tuple[Tensor, Tensor]:
    """Return the first row of each group of equal rows, and each row's group."""
    # Scales are left out: equal eight-bit keys have equal scales.
    keys, norms = arrays.keys.cpu().numpy(), arrays.norms.cpu().numpy()
    groups: dict[bytes, int] = {}
    first: list[int] = []
    group: list[int] = []
    for row in range(len(keys)):
        # 128 bits of a digest stand for the row: its bytes as keys would double the memory.
        digest = hashlib.blake2b(keys[row].tobytes() + norms[row].tobytes(), digest_size=16)
        number = groups.setdefault(digest.digest(), len(first))
        if number == len(first):
            first.append(row)
        group.append(number)
    device = arrays.keys.device
    return torch.tensor(first, device=device), torch.tensor(group, device=device)


def _stored(
    units: Callable[[slice], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Put unit rows into this dtype block by block: (keys, scales or None)."""
    keys = torch.empty(tuple(shape), dtype=dtype, device=device)
    scales = None if dtype.is_floating_point else torch.empty(len(keys), device=device).float()
    for start in range(0, len(keys), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(keys)))
        if scales is None:
            keys[block] = units(block)
        else:
            keys[block], scales[block] = quantise(units(block))
    return keys, scales


def _checked_counts(
    counts: Sequence[int] | Matrix | None, rows: int, device: torch.device
) -> Tensor:
    if counts is None:
        return torch.ones(rows, dtype=torch.int64, device=device)
    tensor = torch.as_tensor(counts, device=device)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise MemoryBankError(f"counts must be integers, got {tensor.dtype}")
    if tensor.shape != (rows,):
        raise MemoryBankError(f"counts have shape {tuple(tensor.shape)} for {rows} embeddings")
    if bad := _flagged(tensor < 1):
        raise MemoryBankError(f"counts below 1 in rows {bad}; leave those rows out")
    return tensor.to(torch.int64, copy=True)


def _flagged(flags: Tensor, most: int = 5) -> str:
    """Name the rows whose flag is set: "3, 8 and 2 more"; empty if none is."""
    rows = torch.nonzero(flags).flatten().tolist()
    rest = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(map(str, rows[:most])) + rest
