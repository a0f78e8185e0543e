"""Exact softmax projection and exact search, streamed over a bank of any size.

Knows the arrays of a bank. Does not know texts, files, indexes or how rows came to be. Memory stays
bounded whatever the bank: one block of rows in float32 and one block of similarities are alive at a
time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_bank.arrays import BankArrays
from memory_bank.integers import MOST_ROWS, Split, product, split
from patchioner.base.errors import OptionError
from patchioner.base.inference import has_fast_int8, linear

_CPU_BLOCK_BYTES = 6 * 2**20
_CPU_ROWS = (64, 65536)
_GPU_ROWS = 65536
# One query of 1.8 GB of float32 takes 1.2 to 2 times as long when its pages have to be fetched again.
_RELEASING_QUERIES = 32
_KEPT_SHAPES = 16  # few of them: for each new one oneDNN prepares a millisecond
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

    Rows of eight bits take part in integers where the processor has fast ones (module `integers`), at most
    `MOST_ROWS` of them in a block.

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
    asked = [(part, split(scaled) if integers else scaled) for part, scaled in parts]
    peak = queries.new_full((count, 1), -torch.inf)
    mass = queries.new_zeros((count, 1))
    total = queries.new_zeros((count, dim))
    counts = arrays.counts.float()
    value_factor = counts * arrays.value_factors()
    negligible = _negligible(arrays, counts)
    for rows, block in _blocks(arrays, blocks, count, converted=not integers):
        for part, scaled in asked:
            logits = (
                product(scaled, block.T) if isinstance(scaled, Split) else linear(scaled, block)
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
        return product(split(weights), values)
    return linear(weights, values.T)


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
        size = min(size, MOST_ROWS)
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
