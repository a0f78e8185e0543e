"""Checks on what enters a bank or a search, and on what leaves one.

Knows what is sound. Does not know how rows are kept or searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from memory_bank.arrays import Matrix, as_matrix, checked_norms
from patchioner.base.errors import MemoryBankError, OptionError


def unit_queries(queries: Matrix, dim: int) -> Tensor:
    """Return queries as (n, dim) float32 unit rows, where they are, in a new tensor.

    Raises:
        MemoryBankError: another width, rows of zero norm or not finite (named).
    """
    matrix = as_matrix(queries, "queries")
    if matrix.shape[1] != dim:
        raise MemoryBankError(
            f"queries have width {matrix.shape[1]}, the bank has {dim}; "
            "use the bank of the same model"
        )
    norms = checked_norms(matrix, "query")
    return (matrix.double() / norms[:, None]).float()


def check_texts(texts: Sequence[str], rows: int) -> None:
    """Refuse texts that are not one string per row (MemoryBankError)."""
    if isinstance(texts, str) or len(texts) != rows:
        raise MemoryBankError(f"{len(texts)} texts for {rows} embeddings; each row needs one")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise MemoryBankError(f"texts[{row}] is {text!r}, not a string")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive number (OptionError)."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise OptionError(f"temperature={temperature}: it must be a positive number")


def checked_top_k(top_k: int) -> int:
    """Return `top_k`, or raise OptionError where it is below 1."""
    if top_k < 1:
        raise OptionError(f"top_k={top_k}: at least one row has to take part")
    return top_k


def finished(means: Tensor, normalize: bool) -> Tensor:
    """Return checked projections (n, dim) float32, of unit length if so wished.

    Raises:
        MemoryBankError: values that are not finite; rows that cancel out and have no direction.
    """
    check_sound(means)
    if not normalize:
        return means
    lengths = checked_norms(means, "projected (the bank's rows cancel out)")
    return (means / lengths[:, None]).float()


def check_sound(result: Tensor) -> None:
    """Refuse results that are not finite (MemoryBankError)."""
    # A memory-mapped bank is not read through at load, so damage shows up here at the latest.
    if not bool(torch.isfinite(result).all()):
        raise MemoryBankError("the bank holds values that are not finite: it is corrupt, fetch it")
