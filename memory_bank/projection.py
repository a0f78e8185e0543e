"""Softmax projection and search, streamed over a bank of any size: one block of rows and similarities at a time.

Rows of eight bits take part in integers where the CPU has fast ones: only what they are multiplied with is rounded, to
1 part in 32,258 of the largest of its row (two numbers of eight bits, sums exact). At temperature 0.01 that moves a
projection by 1 part in 5,000, where storing the rows in eight bits moved it by 1 in 25; it takes half the time. At
worst `rows of a block / 64,516` of the nearest row's weight are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from memory_bank.index import BankIndex
from memory_bank.rows import BankArrays
from patchioner.base.inference import has_fast_int8, int8_product, linear

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


def project(queries: Tensor, arrays: BankArrays, temperature: float) -> tuple[Tensor, Tensor]:
    """`softmax(queries @ keys.T / temperature) @ values`, rows repeated by their counts, for (n, dim) unit queries.

    (n, dim) float32 means, and (n,) logarithms of the sums of `count * exp(cosine / temperature)` they were divided by.

    One pass over the bank with the running maximum and sum of the online softmax (Milakov and
    Gimelshein 2018): at temperature 0.01 a fixed shift would underflow.

    Rows of a block that no query of the block gives a weight above 2**-24 of the smallest total
    possible, all of them together, take no part in the second product (see `_negligible`): the sum
    in float32 would lose them to rounding. Of captions seen by a photo most rows are such.
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
    largest = (
        rows.abs().amax(dim=1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
    )
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
    fewest, most = _CPU_ROWS
    return (
        _GPU_ROWS if device.type != "cpu" else min(max(_CPU_BLOCK_BYTES // (4 * dim), fewest), most)
    )


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
    queries: Tensor,
    arrays: BankArrays,
    index: BankIndex | None,
    top_k: int,
    temperature: float,
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
