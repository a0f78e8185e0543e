"""Every check on what enters a bank, and softmax projection and search streamed over banks of any size.

Eight bits move a cosine by about 4e-4 at width 384, a weight at temperature 0.01 by 4 percent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchioner.base.errors import MemoryBankError, OptionError, first_few
from patchioner.base.weights import linear, quantize_rows

if TYPE_CHECKING:
    from memory_bank.bank import MemoryBank

Matrix: TypeAlias = Tensor | NDArray[Any]
Precision = Literal["int8", "float16", "float32"]

DTYPES: Mapping[Precision, torch.dtype] = {"int8": torch.int8, "float16": torch.float16, "float32": torch.float32}
"""The torch dtype of the keys in each precision."""

_QUERIES = 512  # worked on at once; neither this nor the size of a block of rows changes a result
_CPU_BLOCK_BYTES = 6 * 2**20  # of float32, which stays in the cache: 2,048 rows of width 768
_FEWEST_ROWS, _MOST_ROWS = 64, 65536  # of a block
_KEPT_SHAPES = 16  # few of them: for each new one oneDNN prepares a millisecond
_GATHERED_BYTES = 2**25
_DENSE = 0.7  # above this share of rows that matter, gathering them costs more than it saves
_SMALLEST_NORM = torch.finfo(torch.float32).tiny


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


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch dtype of "int8", "float16" or "float32"; else it is an OptionError."""
    if precision not in DTYPES:
        raise OptionError(f"dtype={precision!r}; a bank is kept in one of {tuple(DTYPES)}")
    return DTYPES[precision]


def as_matrix(value: Matrix, what: str) -> Tensor:
    """`value` as a detached (n, dim) float tensor, which may share its memory; else a MemoryBankError."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        # torch warns of arrays it could write to by accident.
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    if not isinstance(value, Tensor | np.ndarray):
        raise MemoryBankError(f"{what} must be a tensor or a numpy array, got {type(value)}")
    if isinstance(value, np.ndarray) or not value.is_floating_point():
        raise MemoryBankError(f"{what} must be floating point, got {value.dtype}; convert it")
    if value.dim() != 2 or value.shape[1] == 0:
        raise MemoryBankError(f"{what} must be (rows, dim), got {tuple(value.shape)}; give one vector as vector[None]")
    return value.detach()


def split_embeddings(
    embeddings: Matrix, counts: Sequence[int] | Matrix | None, dtype: torch.dtype, drop_zero: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Split embeddings, checked, into the arrays of a bank by name; and the (M,) int64 rows that were kept."""
    matrix = as_matrix(embeddings, "embeddings")
    norms = checked_norms(matrix, "embedding", zero_allowed=drop_zero)
    kept = torch.nonzero(norms).flatten()
    if len(kept) == 0:
        raise MemoryBankError(f"embeddings of shape {tuple(matrix.shape)} leave the bank no rows")
    all_counts = _checked_counts(counts, len(matrix), matrix.device)
    keys = torch.empty((len(kept), matrix.shape[1]), dtype=dtype, device=matrix.device)
    scales = fill_keys(keys, lambda block: matrix[kept[block]].double() / norms[kept[block], None])
    arrays = {"keys": keys, "norms": norms[kept].float(), "counts": all_counts[kept]}
    return arrays | scales, kept


def checked_norms(matrix: Tensor, what: str, *, zero_allowed: bool = False) -> Tensor:
    """The (n,) float64 norms of the rows, 0 below float32's range; rows of no finite or of zero norm are named."""
    # In float64, so that neither tiny nor huge values are lost in their squares.
    norms = torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in matrix.split(_MOST_ROWS)])
    norms[norms < _SMALLEST_NORM] = 0.0
    if bad := _flagged(~torch.isfinite(norms.float())):
        raise MemoryBankError(f"{what} rows that are not finite: {bad}; find out where they arose")
    if not zero_allowed and (bad := _flagged(norms == 0)):
        remedy = "pass drop_zero_rows=True to drop them" if what == "embedding" else "drop them"
        raise MemoryBankError(f"{what} rows of zero norm, which have no direction: {bad}; {remedy}")
    return norms


def unit_queries(queries: Matrix, dim: int) -> Tensor:
    """Queries as (n, dim) float32 unit rows, where they are, in a new tensor."""
    matrix = as_matrix(queries, "queries")
    if matrix.shape[1] != dim:
        raise MemoryBankError(f"queries have width {matrix.shape[1]}, the bank has {dim}; use their own model's bank")
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


def identical_rows(bank: MemoryBank) -> tuple[Tensor, Tensor]:
    """Return the first row of each group of equal rows, and each row's group."""
    # Scales are left out: equal eight-bit keys have equal scales.
    pairs = zip(bank.keys.cpu().numpy(), bank.norms.cpu().numpy(), strict=True)
    # 128 bits of a digest stand for the row: its bytes would double the memory.
    digests = (hashlib.blake2b(key.tobytes() + norm.tobytes(), digest_size=16) for key, norm in pairs)
    numbers: dict[bytes, int] = {}
    group = [numbers.setdefault(digest.digest(), len(numbers)) for digest in digests]
    first = np.unique(group, return_index=True)[1]
    return torch.from_numpy(first).to(bank.device), torch.tensor(group, device=bank.device)


def fill_keys(keys: Tensor, units: Callable[[slice], Tensor]) -> dict[str, Tensor]:
    """Write unit rows into keys of any dtype, block by block; of int8 return their "scales"."""
    if keys.is_floating_point():
        for block in _slices(len(keys), _MOST_ROWS):
            keys[block] = units(block)
        return {}
    scales = torch.empty(len(keys), dtype=torch.float32, device=keys.device)
    for block in _slices(len(keys), _MOST_ROWS):
        keys[block], scales[block] = quantise(units(block))
    return {"scales": scales}


def _checked_counts(counts: Sequence[int] | Matrix | None, rows: int, device: torch.device) -> Tensor:
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


def _flagged(flags: Tensor) -> str:
    """Name the rows whose flag is set; empty if none is."""
    return first_few(torch.nonzero(flags).flatten().tolist())


def project(queries: Tensor, bank: MemoryBank, temperature: float) -> tuple[Tensor, Tensor]:
    """`softmax(queries @ keys.T / temperature) @ values`, rows repeated by their counts, for (n, dim) unit queries.

    (n, dim) float32 means, and (n,) logarithms of the sums of `count * exp(cosine / temperature)` they were divided by.
    One pass over the bank with the running maximum and sum of the online softmax (Milakov and Gimelshein 2018): at
    temperature 0.01 a fixed shift would underflow. Rows of a block that float32 would lose to rounding for every query
    (see `_negligible`) take no part in the second product: of captions seen by a photo most rows are such.
    """
    count, dim = queries.shape
    parts = [(part, queries[part] / temperature) for part in _slices(count, _QUERIES)]
    peak = queries.new_full((count, 1), -torch.inf)
    mass = queries.new_zeros((count, 1))
    total = queries.new_zeros((count, dim))
    counts = bank.counts.float()
    negligible = _negligible(bank)
    for rows, block in _blocks(bank):
        factors = torch.stack([counts[rows], counts[rows] * bank.norms[rows]])
        for part, scaled in parts:
            logits = linear(scaled, block)
            higher = torch.maximum(peak[part], logits.amax(dim=1, keepdim=True))
            logits -= higher
            shrink = torch.exp(peak[part] - higher)
            logits, values, (repeats, lengths) = _that_matter(logits, block, factors, negligible)
            weights = logits.exp_()
            mass[part] = mass[part] * shrink + weights @ repeats[:, None]
            total[part].mul_(shrink).add_(linear(weights.mul_(lengths), values.T))
            peak[part] = higher
    return total / mass, (peak + mass.log()).flatten()


def _negligible(bank: MemoryBank) -> float:
    """The logit, relative to a query's highest, below which rows are lost to rounding.

    All rows so far below, repeated by their counts, add less than 2**-24 to a sum of at least 1, even if theirs are
    the longest values. The running maximum is no higher than the final one, so the bound holds throughout.
    """
    shortest, longest = map(float, torch.aminmax(bank.norms))
    # In logarithms, because the ratio of two lengths in float32's range may leave that range.
    rows = math.log(float(bank.counts.double().sum()))
    return -(24 * math.log(2) + rows + math.log(longest) - math.log(shortest))


def _that_matter(logits: Tensor, block: Tensor, factors: Tensor, negligible: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n, m), block (m, dim), factors (2, m) without the rows negligible to every query, if that pays."""
    # Elsewhere than on a CPU, asking how many rows there are would halt the queue of work.
    if logits.device.type != "cpu":
        return logits, block, factors
    # Negated, so that rows that are not a number stay and are found at the end.
    kept = torch.nonzero(~(logits.amax(dim=0) < negligible)).flatten()
    if (matter := len(kept)) > _DENSE * len(block):
        return logits, block, factors
    step = max(1, len(block) // _KEPT_SHAPES)
    kept = torch.cat([kept, kept.new_zeros(-matter % step)])
    chosen = logits[:, kept]
    chosen[:, matter:] = -torch.inf  # a weight of exactly 0
    return chosen, block[kept], factors[:, kept]


def nearest(queries: Tensor, bank: MemoryBank, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of highest cosine for each query, best first: (n, k) int64, and (n, k) float32 similarities."""
    best = queries.new_empty((len(queries), 0))
    index = best.long()
    for rows, block in _blocks(bank):
        most = min(k, len(block))
        found = [torch.topk(linear(part, block), most, dim=1) for part in queries.split(_QUERIES)]
        best = torch.cat([best, torch.cat([top.values for top in found])], dim=1)
        index = torch.cat([index, torch.cat([top.indices for top in found]) + rows.start], dim=1)
        best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return index, best


def _block_rows(device: torch.device, dim: int) -> int:
    if device.type != "cpu":
        return _MOST_ROWS
    return min(max(_CPU_BLOCK_BYTES // (4 * dim), _FEWEST_ROWS), _MOST_ROWS)


def _blocks(bank: MemoryBank) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, their directions in float32); a block may be overwritten by the next one."""
    keys = bank.keys
    size = min(_block_rows(keys.device, keys.shape[1]), len(keys))
    # On a CPU float32 is copied too: that streams from memory, and both products then read the cache. It takes 0.6 of
    # the time for one query, 0.95 for a hundred.
    if keys.dtype == torch.float32 and keys.device.type != "cpu":
        for rows in _slices(len(keys), size):
            yield rows, keys[rows]
        return
    # One buffer for all blocks: a fresh allocation each would cost more than the copy.
    buffer = torch.empty((size, keys.shape[1]), dtype=torch.float32, device=keys.device)
    for rows in _slices(len(keys), size):
        block = buffer[: rows.stop - rows.start].copy_(keys[rows])
        yield rows, block if bank.scales is None else block.mul_(bank.scales[rows, None])


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def project_top_k(queries: Tensor, bank: MemoryBank, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """As `project`, of the `top_k` rows that the bank's index finds near each query, or without one of the nearest."""
    index = bank.index
    if index is None or not index.serves(queries.device):
        indices = nearest(queries, bank, top_k)[0]
    else:
        indices = index.search(queries, top_k)  # -1 where it found fewer
        # The lists that a query was looked up in may be empty: then all rows are looked at.
        missed = (indices < 0).all(dim=1).nonzero().flatten()
        if len(missed):
            indices[missed] = nearest(queries[missed], bank, top_k)[0]
    count, dim = queries.shape
    log_mass, means = queries.new_empty(count), queries.new_empty((count, dim))
    for part in _slices(count, max(1, _GATHERED_BYTES // (4 * dim * indices.shape[1]))):
        rows = indices[part].clamp_min(0)
        units = bank.units(rows.flatten()).view(*rows.shape, -1)
        logits = torch.einsum("nd,nkd->nk", queries[part], units) / temperature
        logits = (logits + bank.counts[rows].log()).masked_fill(indices[part] < 0, -torch.inf)
        log_mass[part] = torch.logsumexp(logits, dim=1)
        weights = torch.exp(logits - log_mass[part, None]) * bank.norms[rows]
        means[part] = torch.einsum("nk,nkd->nd", weights, units)
    return means, log_mass
