"""Unit rows in eight bits: integers -127 to 127 and one scale a row.

Knows unit rows as tensors. Does not know norms, counts, banks or files.

What the rounding does: a step is `max|row| / 127`, so the error of a row has the length
`step * sqrt(dim / 12)` and points nowhere in particular. The cosine with another unit vector moves
by about `step / sqrt(12)`: 4e-4 at width 384 where the largest element is 0.17, which at
temperature 0.01 is a weight off by 4 percent, of random sign from row to row. It can never move by
more than `step * sqrt(dim) / 2`, the length of half a step in each element.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 127  # -128 stays unused: rows are rounded alike on both sides of 0


def quantise(units: Tensor) -> tuple[Tensor, Tensor]:
    """Round unit rows to eight bits.

    Args:
        units: (n, dim) float rows of length 1.

    Returns:
        keys (n, dim) int8 and scales (n,) float32, such that `keys * scales` has unit rows again.

    Example:
        >>> keys, scales = quantise(torch.tensor([[0.6, -0.8]]))
        >>> keys.tolist()
        [[95, -127]]
    """
    largest = units.abs().amax(dim=1, keepdim=True)
    keys = (units * (_LEVELS / largest)).round_()
    # The length is that of the rounded row, not the step: cosines stay cosines, norms stay norms.
    lengths = torch.linalg.vector_norm(keys.double(), dim=1)
    return keys.to(torch.int8), (1 / lengths).float()


def dequantise(keys: Tensor, scales: Tensor) -> Tensor:
    """Return `keys * scales` as (n, dim) float32 unit rows, in a new tensor.

    Example:
        >>> keys = torch.tensor([[3, -4]], dtype=torch.int8)
        >>> [round(number, 4) for number in dequantise(keys, torch.tensor([0.2]))[0].tolist()]
        [0.6, -0.8]
    """
    return keys.float().mul_(scales[:, None])
