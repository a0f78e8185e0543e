"""The arrays of a bank (unit keys, norms, counts), and every check on what enters.

Knows how an embedding is split into a key and a norm, and what a sound matrix is. Does not know
texts, files or searches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchioner_base.errors import MemoryBankError, OptionError

Matrix: TypeAlias = Tensor | NDArray[Any]
Precision = Literal["float16", "float32"]

_BLOCK = 65536
_SMALLEST_NORM = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class BankArrays:
    """The rows of a bank. A row's value is `key * norm`: keys are normalised, values are not.

    Args:
        keys: (N, dim) float16 or float32, unit rows.
        norms: (N,) float32, positive.
        counts: (N,) int64, at least 1: how often each row occurs.
    """

    keys: Tensor
    norms: Tensor
    counts: Tensor

    def values(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return these rows as embeddings, (n, dim) float32, in a new tensor."""
        return self.keys[rows].float() * self.norms[rows, None]

    def take(self, rows: Tensor) -> BankArrays:
        """Return the arrays of these rows (int64 indices), in this order."""
        return BankArrays(self.keys[rows], self.norms[rows], self.counts[rows])

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> BankArrays:
        """Return the arrays on this device, the keys in this dtype; None keeps either."""
        return BankArrays(
            self.keys.to(device=device, dtype=dtype),
            self.norms.to(device=device),
            self.counts.to(device=device),
        )


def torch_dtype(precision: str) -> torch.dtype:
    """Return the torch dtype called "float16" or "float32"; anything else is an OptionError."""
    if precision not in get_args(Precision):
        raise OptionError(f"dtype={precision!r}; a bank is kept in one of {get_args(Precision)}")
    return torch.float16 if precision == "float16" else torch.float32


def as_matrix(value: Matrix, what: str) -> Tensor:
    """Return `value` as a detached (n, dim) float tensor, which may share its memory.

    Raises:
        MemoryBankError: not two-dimensional, no columns, or not of a float type.
    """
    if not isinstance(value, Tensor | np.ndarray):
        raise MemoryBankError(f"{what} must be a tensor or a numpy array, got {type(value)}")
    matrix = _from_numpy(value, what) if isinstance(value, np.ndarray) else value
    if matrix.dim() != 2 or matrix.shape[1] == 0:
        raise MemoryBankError(
            f"{what} must have shape (rows, dim), got {tuple(matrix.shape)}; "
            "a single vector goes in as vector[None]"
        )
    if not matrix.is_floating_point():
        raise MemoryBankError(f"{what} must be floating point, got {matrix.dtype}; convert it")
    return matrix.detach()


def _from_numpy(array: NDArray[Any], what: str) -> Tensor:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise MemoryBankError(f"{what} must be floating point, got {array.dtype}; convert it")
    # torch warns of arrays it could write to by accident.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def split_embeddings(
    embeddings: Matrix, counts: Sequence[int] | Matrix | None, dtype: torch.dtype, drop_zero: bool
) -> tuple[BankArrays, Tensor]:
    """Split embeddings into keys and norms, checked.

    Args:
        embeddings: (N, dim), any float type; copied.
        counts: (N,) positive integers, or None for all ones.
        dtype: of the keys.
        drop_zero: leave out rows of zero norm, instead of refusing them.

    Returns:
        The arrays, and the (M,) int64 indices of the rows that were kept.

    Raises:
        MemoryBankError: no rows; rows of zero norm or not finite (named); counts that do not fit.
    """
    matrix = as_matrix(embeddings, "embeddings")
    norms = checked_norms(matrix, "embedding", zero_allowed=drop_zero)
    kept = torch.nonzero(norms).flatten()
    if len(kept) == 0:
        raise MemoryBankError(f"embeddings of shape {tuple(matrix.shape)} leave the bank no rows")
    all_counts = _checked_counts(counts, len(matrix), matrix.device)
    keys = torch.empty((len(kept), matrix.shape[1]), dtype=dtype, device=matrix.device)
    for start in range(0, len(kept), _BLOCK):
        rows = kept[start : start + _BLOCK]
        keys[start : start + _BLOCK] = matrix[rows].double() / norms[rows, None]
    return BankArrays(keys, norms[kept].float(), all_counts[kept]), kept


def checked_norms(matrix: Tensor, what: str, *, zero_allowed: bool = False) -> Tensor:
    """Return the (n,) float64 norms of the rows; those below float32's range count as 0.

    Raises:
        MemoryBankError: a row is not finite, or (unless allowed) of zero norm; named.
    """
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


def identical_rows(arrays: BankArrays) -> tuple[Tensor, Tensor]:
    """Return the first row of each group of equal rows, and each row's group."""
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
