"""The least arithmetic and the fewest bytes that the work needs, part by part.

Knows: multiply-adds and bytes of backbone, pooling, projection and decoding at given sizes. Does NOT know clocks or how
anything is computed: a floor is that of float32 arithmetic on every weight and row, each read once where that suffices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.speed.machine import Rates

PARTS = ("backbone", "pooling", "projection", "decoding")


@dataclass(frozen=True)
class Work:
    """An amount of work.

    Attributes:
        multiply_adds: one multiplication and one addition each.
        size: bytes to be read at least.
    """

    multiply_adds: float
    size: float

    def floor(self, rates: Rates) -> float:
        """Seconds at the machine's measured rates."""
        return rates.seconds(multiply_adds=self.multiply_adds, size=self.size)


def backbone_work(backbone: Any, patches: int) -> Work:
    """One pass of a plain timm vision transformer over one image of that many patches.

    Per block, with T tokens of width w: every weight once for each token, and 2 T^2 w for the attention.

    Example:
        >>> backbone_work(backbone, 1369).multiply_adds / 1e9  # doctest: +SKIP
        152.5
    """
    vit = backbone.vit
    tokens = patches + int(vit.num_prefix_tokens)
    dense = sum(weight.numel() for weight in vit.blocks.parameters() if weight.dim() == 2)
    attention = 2 * len(vit.blocks) * tokens**2 * int(vit.embed_dim)
    stem = patches * vit.patch_embed.proj.weight.numel()
    weights = sum(weight.numel() for weight in vit.parameters())
    return Work(tokens * dense + attention + stem, 4 * weights)


def pooling_work(regions: int, patches: int, dim: int) -> Work:
    """One weighted sum of all patches for each region.

    Example:
        >>> pooling_work(2, 3, 4)
        Work(multiply_adds=24, size=48)
    """
    return Work(regions * patches * dim, 4 * patches * dim)


def projection_work(queries: int, rows: int, dim: int, *, row_bytes: int | None = None) -> Work:
    """All similarities and the weighted sum; the bank is read once, `row_bytes` a row (float32 if None).

    Example:
        >>> projection_work(2, 3, 4)
        Work(multiply_adds=48, size=48)
    """
    return Work(2 * queries * rows * dim, rows * (4 * dim if row_bytes is None else row_bytes))


def decoding_work(network: Any, lengths: list[int]) -> Work:
    """Greedy decoding with a cache: each token through all layers and the output matrix once, weights read each step.

    Args:
        network: `decoders`' prefix GPT-2.
        lengths: tokens of each caption, the end token included; all are decoded side by side.

    Example:
        >>> decoding_work(network, [30] * 100).multiply_adds / 1e9  # doctest: +SKIP
        200.9
    """
    config = network.config
    dense = sum(
        weight.numel() for weight in network.transformer.h.parameters() if weight.dim() == 2
    )
    output = config.vocab_size * config.width
    prefix = network.prefix.weight.numel()
    # At its t-th position a row attends to t: twice the width for each, in every layer.
    attended = sum(length * (length + 1) // 2 for length in lengths)
    adds = (
        sum(lengths) * (dense + output)
        + len(lengths) * prefix
        + 2 * config.layers * config.width * attended
    )
    return Work(adds, max(lengths, default=0) * 4 * (dense + output))


def total_floor(works: list[Work], rates: Rates) -> float:
    """Seconds of works that follow one another.

    Example:
        >>> total_floor([Work(10, 0), Work(0, 40)], Rates(product=10, copy=20))
        3.0
    """
    return sum(work.floor(rates) for work in works)
