"""Products of 8-bit numbers: rows scaled one by one, sums exact.

Knows: how rows are rounded to int8, and the product for them.
Does NOT know: what the numbers are for (`screen`, `quantized`), nor whether it is fast (`patchioner.base.inference`).
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 8 bits with a scale of its own (symmetric, to the nearest).

    Args:
        rows: (n, k) float.

    Returns:
        (n, k) int8 in -127..127, and (n,) float32 scales: `values * scales[:, None]` is near `rows`.

    Example:
        >>> quantize_rows(torch.tensor([[1.0, -0.5]]))[0].tolist()
        [[127, -64]]
    """
    rows = rows.float()
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    scales = rows.abs().amax(dim=1).clamp(min=1e-30) / LARGEST
    return (rows / scales[:, None]).round().clamp_(-LARGEST, LARGEST).to(torch.int8), scales


def int8_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` exactly, as int32.

    Args:
        left: (n, k) int8; right: (m, k) int8, on the same device. k at most 133,000.
    """
    if left.device.type == "cpu" and hasattr(torch, "_int_mm"):
        return torch._int_mm(left, right.t())
    # Accelerators restrict the shapes of theirs; float64 holds every sum exactly.
    return (left.double() @ right.double().t()).to(torch.int32)
