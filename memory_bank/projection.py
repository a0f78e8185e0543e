"""Exact softmax projection and exact search, streamed over a bank of any size.

Knows unit rows, their norms and counts as plain tensors. Does not know texts, files or how rows
came to be. Memory stays bounded whatever the bank: one block of rows in float32 and one block of
similarities are alive at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patchioner_base.errors import OptionError


@dataclass(frozen=True)
class Blocks:
    """How much is worked on at once; the result does not depend on it (beyond rounding).

    Args:
        rows: bank rows per block. None: 4,096 on a CPU (the block stays in its cache), 65,536 else.
        queries: queries per block.
    """

    rows: int | None = None
    queries: int = 512

    def __post_init__(self) -> None:
        for name, size in (("rows", self.rows), ("queries", self.queries)):
            if size is not None and size < 1:
                raise OptionError(f"Blocks({name}={size}): a block holds at least 1")

    def rows_on(self, device: torch.device) -> int:
        """Return the rows per block on this device."""
        return self.rows or (4096 if device.type == "cpu" else 65536)


def project(
    queries: Tensor,
    keys: Tensor,
    norms: Tensor,
    counts: Tensor,
    temperature: float,
    blocks: Blocks,
) -> Tensor:
    """Return `softmax(queries @ keys.T / temperature) @ (keys * norms)`, rows repeated by `counts`.

    One pass over the bank with the running maximum and sum of the online softmax (Milakov and
    Gimelshein 2018): at temperature 0.01 a fixed shift would underflow.

    Args:
        queries: (n, dim) float32, unit rows.
        keys: (N, dim) float16 or float32, unit rows, on the device of the queries.
        norms: (N,) float32, the length of each value: value = key * norm.
        counts: (N,) float32, how often each row occurs.
        temperature: positive.
        blocks: the block sizes.

    Returns:
        (n, dim) float32, not normalised.
    """
    count, dim = queries.shape
    scaled = queries / temperature
    peak = queries.new_full((count, 1), -torch.inf)
    mass = queries.new_zeros((count, 1))
    total = queries.new_zeros((count, dim))
    mass_factor = counts[:, None]
    value_factor = counts * norms
    for rows, block in _float_blocks(keys, blocks):
        for part in _slices(count, blocks.queries):
            logits = scaled[part] @ block.T
            higher = torch.maximum(peak[part], logits.amax(dim=1, keepdim=True))
            shrink = torch.exp(peak[part] - higher)
            weights = logits.sub_(higher).exp_()
            mass[part] = mass[part] * shrink + weights @ mass_factor[rows]
            total[part] = total[part] * shrink + weights.mul_(value_factor[rows]) @ block
            peak[part] = higher
    return total / mass


def nearest(queries: Tensor, keys: Tensor, k: int, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return the k rows of highest cosine for each query, best first.

    Args:
        queries: (n, dim) float32, unit rows.
        keys: (N, dim) float16 or float32, unit rows, N >= k.
        k: how many.
        blocks: the block sizes.

    Returns:
        indices (n, k) int64 and similarities (n, k) float32. Equal similarities come in any order.
    """
    best = queries.new_empty((len(queries), 0))
    index = best.long()
    for rows, block in _float_blocks(keys, blocks):
        found = [
            torch.topk(queries[part] @ block.T, min(k, len(block)), dim=1)
            for part in _slices(len(queries), blocks.queries)
        ]
        if not found:
            return best.new_empty((0, k)), index.new_empty((0, k))
        best = torch.cat([best, torch.cat([top.values for top in found])], dim=1)
        index = torch.cat([index, torch.cat([top.indices for top in found]) + rows.start], dim=1)
        best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return index, best


def _float_blocks(keys: Tensor, blocks: Blocks) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, those rows in float32); a yielded block is overwritten by the next one."""
    size = min(blocks.rows_on(keys.device), len(keys))
    if keys.dtype == torch.float32:
        for rows in _slices(len(keys), size):
            yield rows, keys[rows]
        return
    # One buffer for all blocks: a fresh allocation each would cost more than the conversion.
    buffer = torch.empty((size, keys.shape[1]), dtype=torch.float32, device=keys.device)
    for rows in _slices(len(keys), size):
        yield rows, buffer[: rows.stop - rows.start].copy_(keys[rows])


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
