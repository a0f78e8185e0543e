"""The rows of a bank, every check on what enters, and softmax projection and search streamed over banks of any size.

Eight bits move a cosine by about 4e-4 at width 384, a weight at temperature 0.01 by 4 percent. Products in integers
round only what the rows are multiplied with, to 1 part in 32,258: that moves a projection by 1 part in 5,000.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchioner.base.errors import MemoryBankError, OptionError
from patchioner.base.weights import has_fast_int8, int8_product, linear, quantize_rows

if TYPE_CHECKING:
    from memory_bank.index import BankIndex
    from memory_bank.storage import MappedRows

Matrix: TypeAlias = Tensor | NDArray[Any]
Precision = Literal["int8", "float16", "float32"]

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"int8": torch.int8, "float16": torch.float16, "float32": torch.float32}
)
"""The torch dtype of the keys in each precision."""

_QUERIES = 512  # worked on at once; neither this nor the size of a block of rows changes a result
_CPU_BLOCK_BYTES = 6 * 2**20  # of float32, which stays in the cache: 2,048 rows of width 768
_CPU_ROWS = (64, 65536)
_GPU_ROWS = 65536
# One query of 1.8 GB of float32 takes 1.2 to 2 times as long when its pages have to be fetched again.
_RELEASING_QUERIES = 32
_KEPT_SHAPES = 16  # few of them: for each new one oneDNN prepares a millisecond
_GATHERED_BYTES = 2**25
# The largest weight of a block sets the steps for all: more rows of less than half a step would be lost together.
_MOST_INTEGER_ROWS = 4096
_FINER = 254  # steps of the second number in one of the first: what is left is half of one
_DENSE = 0.7  # above this share of rows that matter, gathering them costs more than it saves
_CHECKED_ROWS = 65536
_SMALLEST_NORM = torch.finfo(torch.float32).tiny


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
        keys = self.keys[rows].float()
        return keys if self.scales is None else keys.mul_(self.scales[rows][:, None])

    def named(self) -> dict[str, Tensor]:
        """The arrays by name; `scales` only where there are any."""
        tensors = {"keys": self.keys, "norms": self.norms, "counts": self.counts}
        return tensors if self.scales is None else tensors | {"scales": self.scales}

    def map(self, change: Callable[[Tensor], Tensor]) -> BankArrays:
        """The arrays, each as `change` gives it."""
        changed = {name: change(array) for name, array in self.named().items()}
        return replace(self, mapped=None, **changed)

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> BankArrays:
        """The arrays on this device, the keys in this dtype; None keeps either."""
        moved = self.map(lambda array: array.to(device=device))
        if dtype is None or dtype == moved.keys.dtype:
            return replace(moved, mapped=self.mapped if moved.keys is self.keys else None)
        keys, scales = _stored(moved.units, moved.keys.shape, dtype, moved.keys.device)
        return BankArrays(keys, moved.norms, moved.counts, scales)


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
    for start in range(0, len(matrix), _CHECKED_ROWS):
        block = matrix[start : start + _CHECKED_ROWS].double()
        norms[start : start + _CHECKED_ROWS] = torch.linalg.vector_norm(block, dim=1)
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
    for start in range(0, len(keys), _CHECKED_ROWS):
        block = slice(start, min(start + _CHECKED_ROWS, len(keys)))
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


def project(queries: Tensor, arrays: BankArrays, temperature: float) -> tuple[Tensor, Tensor]:
    """`softmax(queries @ keys.T / temperature) @ values`, rows repeated by their counts, for (n, dim) unit queries.

    (n, dim) float32 means, and (n,) logarithms of the sums of `count * exp(cosine / temperature)` they were divided by.
    One pass over the bank with the running maximum and sum of the online softmax (Milakov and Gimelshein 2018): at
    temperature 0.01 a fixed shift would underflow. Rows of a block that float32 would lose to rounding for every query
    (see `_negligible`) take no part in the second product: of captions seen by a photo most rows are such.
    """
    count, dim = queries.shape
    integers = arrays.scales is not None and has_fast_int8(queries.device)
    parts = [(part, queries[part] / temperature) for part in _slices(count, _QUERIES)]
    asked = [(part, _split(scaled) if integers else scaled) for part, scaled in parts]
    peak = queries.new_full((count, 1), -torch.inf)
    mass = queries.new_zeros((count, 1))
    total = queries.new_zeros((count, dim))
    counts = arrays.counts.float()
    value_factor = counts * (arrays.norms * (1.0 if arrays.scales is None else arrays.scales))
    negligible = _negligible(arrays)
    for rows, block in _blocks(arrays, count, converted=not integers):
        for part, scaled in asked:
            logits = (
                linear(scaled, block) if isinstance(scaled, Tensor) else _product(scaled, block)
            )
            if arrays.scales is not None:
                logits *= arrays.scales[rows]
            higher = torch.maximum(peak[part], logits.amax(dim=1, keepdim=True))
            logits -= higher
            shrink = torch.exp(peak[part] - higher)
            logits, values, mass_factor, factor = _that_matter(
                logits, block, counts[rows], value_factor[rows], negligible
            )
            weights = logits.exp_()
            mass[part] = mass[part] * shrink + weights @ mass_factor[:, None]
            weights = weights.mul_(factor)
            total[part].mul_(shrink).add_(_weighted_sum(weights, values))
            peak[part] = higher
    return total / mass, (peak + mass.log()).flatten()


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    if values.dtype == torch.int8:
        return _product(_split(weights), values.T)
    return linear(weights, values.T)


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split (n, k) rows into `(coarse + fine / 254) * scale`: (2 n, k) int8, coarse then fine, and (n, 1) scales."""
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    largest = rows.abs().amax(dim=1, keepdim=True) if rows.numel() else rows.new_zeros(len(rows), 1)
    scales = largest.clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
    exact = rows / scales
    coarse = exact.round()
    fine = exact.sub_(coarse).mul_(_FINER).round_()
    return torch.cat([coarse, fine]).to(torch.int8), scales


def _product(left: tuple[Tensor, Tensor], right: Tensor) -> Tensor:
    """`left @ right.T` as (n, m) float32 for split rows and (m, k) int8, summed exactly before it is rounded."""
    parts, scales = left
    sums = int8_product(parts, right).float()
    rows = len(scales)
    return sums[:rows].add_(sums[rows:], alpha=1 / _FINER).mul_(scales)


def _negligible(arrays: BankArrays) -> float:
    """The logit, relative to a query's highest, below which rows are lost to rounding.

    All rows so far below, repeated by their counts, add less than 2**-24 to a sum of at least 1, even if theirs are
    the longest values. The running maximum is no higher than the final one, so the bound holds throughout.
    """
    longest, shortest = (float(end) for end in torch.aminmax(arrays.norms)[::-1])
    # In logarithms, because the ratio of two lengths in float32's range may leave that range.
    rows = math.log(float(arrays.counts.sum()))
    return -(24 * math.log(2) + rows + math.log(longest) - math.log(shortest))


def _that_matter(
    logits: Tensor, block: Tensor, counts: Tensor, factors: Tensor, negligible: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the arguments without the rows that are negligible to every query, if that pays."""
    # Elsewhere than on a CPU, asking how many rows there are would halt the queue of work.
    if logits.device.type != "cpu":
        return logits, block, counts, factors
    # Negated, so that rows that are not a number stay and are found at the end.
    kept = torch.nonzero(~(logits.amax(dim=0) < negligible)).flatten()
    if (matter := len(kept)) > _DENSE * len(block):
        return logits, block, counts, factors
    step = max(1, len(block) // _KEPT_SHAPES)
    kept = torch.cat([kept, kept.new_zeros(-matter % step)])
    chosen = logits[:, kept]
    chosen[:, matter:] = -torch.inf  # a weight of exactly 0
    return chosen, block[kept], counts[kept], factors[kept]


def nearest(queries: Tensor, arrays: BankArrays, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of highest cosine for each query, best first: (n, k) int64, and (n, k) float32 similarities."""
    best = queries.new_empty((len(queries), 0))
    index = best.long()
    for rows, block in _blocks(arrays, len(queries)):
        scales = 1.0 if arrays.scales is None else arrays.scales[rows]
        found = [
            torch.topk(linear(queries[part], block) * scales, min(k, len(block)), dim=1)
            for part in _slices(len(queries), _QUERIES)
        ]
        if not found:
            return index.new_empty((0, k)), best.new_empty((0, k))
        best = torch.cat([best, torch.cat([top.values for top in found])], dim=1)
        index = torch.cat([index, torch.cat([top.indices for top in found]) + rows.start], dim=1)
        best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return index, best


def _block_rows(device: torch.device, dim: int) -> int:
    if device.type != "cpu":
        return _GPU_ROWS
    fewest, most = _CPU_ROWS
    return min(max(_CPU_BLOCK_BYTES // (4 * dim), fewest), most)


def _blocks(
    arrays: BankArrays, queries: int, *, converted: bool = True
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, those keys, in float32 if `converted`); a block may be overwritten by the next one.

    Keys of a mapped file leave memory behind it, where there are so many queries that fetching them again costs little
    beside the products.
    """
    keys = arrays.keys
    size = min(_block_rows(keys.device, keys.shape[1]), len(keys))
    if not converted:
        size = min(size, _MOST_INTEGER_ROWS)
    slices = _slices(len(keys), size)
    if arrays.mapped is not None and queries >= _RELEASING_QUERIES:
        slices = arrays.mapped.passing(slices)
    # On a CPU float32 is copied too: that streams from memory, and both products then read the cache. It takes 0.6 of
    # the time for one query, 0.95 for a hundred.
    if not converted or (keys.dtype == torch.float32 and keys.device.type != "cpu"):
        for rows in slices:
            yield rows, keys[rows]
        return
    # One buffer for all blocks: a fresh allocation each would cost more than the copy.
    buffer = torch.empty((size, keys.shape[1]), dtype=torch.float32, device=keys.device)
    for rows in slices:
        yield rows, buffer[: rows.stop - rows.start].copy_(keys[rows])


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def project_top_k(
    queries: Tensor, arrays: BankArrays, index: BankIndex | None, top_k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """As `project`, of the `top_k` rows that the index finds near each query, or without one of the nearest."""
    if index is None or not index.serves(queries.device):
        indices = nearest(queries, arrays, top_k)[0]
    else:
        indices = index.search(queries, top_k)  # -1 where it found fewer
        # The lists that a query was looked up in may be empty: then all rows are looked at.
        missed = (indices < 0).all(dim=1).nonzero().flatten()
        if len(missed):
            indices[missed] = nearest(queries[missed], arrays, top_k)[0]
    count, dim = queries.shape
    log_mass, means = queries.new_empty(count), queries.new_empty((count, dim))
    for part in _slices(count, max(1, _GATHERED_BYTES // (4 * dim * indices.shape[1]))):
        rows = indices[part].clamp_min(0)
        units = arrays.units(rows.flatten()).view(*rows.shape, -1)
        logits = torch.einsum("nd,nkd->nk", queries[part], units) / temperature
        logits = (logits + arrays.counts[rows].log()).masked_fill(indices[part] < 0, -torch.inf)
        log_mass[part] = torch.logsumexp(logits, dim=1)
        weights = torch.exp(logits - log_mass[part, None]) * arrays.norms[rows]
        means[part] = torch.einsum("nk,nkd->nd", weights, units)
    return means, log_mass
