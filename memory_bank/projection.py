"""Softmax projection and search, streamed over a bank of any size: one block of rows and similarities at a time.

Rows of eight bits take part in integers where the CPU has fast ones: only what they are multiplied with is rounded, to
1 part in 32,258 of the largest of its row (two numbers of eight bits, sums exact). At temperature 0.01 that moves a
projection by 1 part in 5,000, where storing the rows in eight bits moved it by 1 in 25; it takes half the time. At
worst `rows of a block / 64,516` of the nearest row's weight are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_bank.index import BankIndex
from memory_bank.rows import BankArrays
from patchioner.base.errors import OptionError
from patchioner.base.inference import has_fast_int8, int8_product, linear

_CPU_BLOCK_BYTES = 6 * 2**20
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


@dataclass(frozen=True)
class Blocks:
    """How much is worked on at once; the result does not depend on it (beyond rounding).

    Args:
        rows: bank rows per block. None: on a CPU what makes 6 MiB of float32, which stays in its
            cache (2,048 rows of width 768); else 65,536.
        queries: queries per block.
    """

    rows: int | None = None
    queries: int = 512

    def __post_init__(self) -> None:
        for name, size in (("rows", self.rows), ("queries", self.queries)):
            if size is not None and size < 1:
                raise OptionError(f"Blocks({name}={size}): a block holds at least 1")

    def rows_on(self, device: torch.device, dim: int) -> int:
        """Return the rows per block on this device, for rows of this width."""
        if self.rows is not None:
            return self.rows
        if device.type != "cpu":
            return _GPU_ROWS
        fewest, most = _CPU_ROWS
        return min(max(_CPU_BLOCK_BYTES // (4 * dim), fewest), most)


@dataclass(frozen=True)
class Weighted:
    """Weighted means of values, and what the weights were divided by.

    Args:
        means: (n, dim) float32, not normalised.
        log_mass: (n,) float32, the logarithm of the sum of `count * exp(cosine / temperature)`
            over the rows that took part.
    """

    means: Tensor
    log_mass: Tensor


def project(queries: Tensor, arrays: BankArrays, temperature: float, blocks: Blocks) -> Weighted:
    """Return `softmax(queries @ keys.T / temperature) @ values`, rows repeated by their counts.

    One pass over the bank with the running maximum and sum of the online softmax (Milakov and
    Gimelshein 2018): at temperature 0.01 a fixed shift would underflow.

    Rows of a block that no query of the block gives a weight above 2**-24 of the smallest total
    possible, all of them together, take no part in the second product (see `_negligible`): the sum
    in float32 would lose them to rounding. Of captions seen by a photo most rows are such.

    Args:
        queries: (n, dim) float32, unit rows, on the device of the arrays.
        arrays: the bank.
        temperature: positive.
        blocks: the block sizes.

    Returns:
        The means and masses, on the device of the arrays.
    """
    count, dim = queries.shape
    integers = arrays.scales is not None and has_fast_int8(queries.device)
    parts = [(part, queries[part] / temperature) for part in _slices(count, blocks.queries)]
    asked = [(part, _split(scaled) if integers else scaled) for part, scaled in parts]
    peak = queries.new_full((count, 1), -torch.inf)
    mass = queries.new_zeros((count, 1))
    total = queries.new_zeros((count, dim))
    counts = arrays.counts.float()
    value_factor = counts * arrays.value_factors()
    negligible = _negligible(arrays, counts)
    for rows, block in _blocks(arrays, blocks, count, converted=not integers):
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
    return Weighted(total / mass, (peak + mass.log()).flatten())


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


def _negligible(arrays: BankArrays, counts: Tensor) -> float:
    """Return the logit, relative to a query's highest, below which rows are lost to rounding.

    A row so far below adds less than exp(that) to a sum of at least 1, and all rows, repeated by
    their counts, less than 2**-24 of it, even if theirs are the longest values and the rest are the
    shortest. The running maximum is no higher than the final one, so the bound holds throughout.
    """
    longest, shortest = (float(end) for end in torch.aminmax(arrays.norms)[::-1])
    # In logarithms, because the ratio of two lengths in float32's range may leave that range.
    rows = math.log(float(counts.double().sum()))
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


def nearest(queries: Tensor, arrays: BankArrays, k: int, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return the k rows of highest cosine for each query, best first.

    Args:
        queries: (n, dim) float32, unit rows, on the device of the arrays.
        arrays: the bank, of at least k rows.
        k: how many.
        blocks: the block sizes.

    Returns:
        indices (n, k) int64 and similarities (n, k) float32. Equal similarities come in any order.
    """
    best = queries.new_empty((len(queries), 0))
    index = best.long()
    for rows, block in _blocks(arrays, blocks, len(queries)):
        scales = None if arrays.scales is None else arrays.scales[rows]
        found = [
            torch.topk(_cosines(queries[part], block, scales), min(k, len(block)), dim=1)
            for part in _slices(len(queries), blocks.queries)
        ]
        if not found:
            return best.new_empty((0, k)), index.new_empty((0, k))
        best = torch.cat([best, torch.cat([top.values for top in found])], dim=1)
        index = torch.cat([index, torch.cat([top.indices for top in found]) + rows.start], dim=1)
        best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return index, best


def _cosines(queries: Tensor, block: Tensor, scales: Tensor | None) -> Tensor:
    cosines = linear(queries, block)
    return cosines if scales is None else cosines.mul_(scales)


def _blocks(
    arrays: BankArrays, blocks: Blocks, queries: int, *, converted: bool = True
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, those keys, in float32 if `converted`); a block may be overwritten by the next one.

    Keys of a mapped file leave memory behind it, where there are so many queries that fetching them again costs little
    beside the products.
    """
    keys = arrays.keys
    size = min(blocks.rows_on(keys.device, keys.shape[1]), len(keys))
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


@dataclass(frozen=True)
class Candidates:
    """Rows chosen for each query, compared with it exactly.

    Args:
        indices: (n, k) int64; -1 where there is none.
        logits: (n, k) float32, cosine / temperature + log(count); -inf where there is none.
        furthest: (n,) float32, the lowest cosine among them.
        counts: (n,) float64, how many rows they stand for.
    """

    indices: Tensor
    logits: Tensor
    furthest: Tensor
    counts: Tensor


def find_rows(
    queries: Tensor, arrays: BankArrays, index: BankIndex | None, top_k: int, blocks: Blocks
) -> Tensor:
    """Return the rows that the index finds near each query, or without one the nearest: (n, top_k) int64.

    Args:
        queries: (n, dim) float32 unit rows, on the device of the arrays.
        arrays: the bank.
        index: over its rows, or None.
        top_k: 1 .. rows.
        blocks: of the exact search.

    Returns:
        Row numbers; -1 where the index found fewer, but never in a whole row.
    """
    if index is None or not index.serves(queries.device):
        return nearest(queries, arrays, top_k, blocks)[0]
    found = index.search(queries, top_k)
    # The lists that a query was looked up in may be empty: then all rows are looked at.
    missed = (found < 0).all(dim=1).nonzero().flatten()
    if len(missed):
        found[missed] = nearest(queries[missed], arrays, top_k, blocks)[0]
    return found


def compare(queries: Tensor, arrays: BankArrays, indices: Tensor, temperature: float) -> Candidates:
    """Compare each query with its own candidates, in float32.

    Args:
        queries: (n, dim) float32 unit rows, on the device of the arrays.
        arrays: the bank.
        indices: (n, k) int64 row numbers; -1 where there is none.
        temperature: positive.
    """
    cosines = queries.new_empty(indices.shape)
    for part in _parts(indices, queries.shape[1]):
        rows = indices[part].clamp_min(0)
        units = arrays.units(rows.flatten()).view(*rows.shape, -1)
        cosines[part] = torch.einsum("nd,nkd->nk", queries[part], units)
    absent = indices < 0
    counts = arrays.counts[indices.clamp_min(0)].double().masked_fill(absent, 0.0)
    logits = cosines / temperature + counts.log().float()
    furthest = cosines.masked_fill(absent, torch.inf).amin(dim=1)
    return Candidates(indices, logits.masked_fill(absent, -torch.inf), furthest, counts.sum(dim=1))


def project_candidates(arrays: BankArrays, chosen: Candidates) -> Weighted:
    """Return the softmax-weighted means of the candidates' values: (n, dim) float32, with masses."""
    log_mass = torch.logsumexp(chosen.logits, dim=1)
    weights = torch.exp(chosen.logits - log_mass[:, None])
    means = weights.new_empty((len(weights), arrays.keys.shape[1]))
    for part in _parts(chosen.indices, means.shape[1]):
        rows = chosen.indices[part].clamp_min(0)
        values = arrays.values(rows.flatten()).view(*rows.shape, -1)
        means[part] = torch.einsum("nk,nkd->nd", weights[part], values)
    return Weighted(means, log_mass)


def least_mass(
    chosen: Candidates, found: Weighted, arrays: BankArrays, temperature: float
) -> Tensor:
    """Return a lower bound (n,) of the share of the softmax held, if the candidates are the nearest.

    Every other row is then no nearer than the furthest candidate: with S the candidates' sum, R the
    number of other rows and c that cosine, the share is at least S / (S + R exp(c / temperature)).

    Args:
        chosen: the candidates, which must be the nearest rows.
        found: their projection.
        arrays: the bank.
        temperature: positive.
    """
    others = (arrays.counts.double().sum() - chosen.counts).clamp_min(0.0)
    furthest = chosen.furthest / temperature + others.log().float()
    return torch.sigmoid(found.log_mass - furthest)


def _parts(indices: Tensor, dim: int) -> list[slice]:
    """Split queries so that the gathered rows of one part stay small."""
    size = max(1, _GATHERED_BYTES // max(1, 4 * indices.shape[1] * dim))
    return [slice(start, start + size) for start in range(0, len(indices), size)]
