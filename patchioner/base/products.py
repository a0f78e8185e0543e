"""Products of float32 matrices by oneDNN, which many x86 processors multiply faster with than with what torch takes.

Knows: torch's oneDNN operator and what it can be given. Does not know whose matrices they are. Imports torch, so it is
imported by its own name.

torch multiplies matrices with MKL, and oneDNN only convolutions, linear layers of other types, and on request. On two
cores of an AMD EPYC oneDNN was 1.2 to 1.4 times as fast for products of a block of 1,024 rows of width 768 with 100
rows, 1.3 to 2 times with 2 to 32.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as functional
from torch import Tensor

_X86 = ("x86_64", "AMD64")


def has_onednn() -> bool:
    """Whether torch's oneDNN operators are there, on a processor that gains by them.

    Example:
        >>> has_onednn() in (True, False)
        True
    """
    operators = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )
    return operators and torch.backends.mkldnn.is_available() and platform.machine() in _X86


def is_plain(inputs: Tensor) -> bool:
    """Whether oneDNN's operator takes them: numbers alone, with neither gradients nor a program being compiled."""
    follows = inputs.requires_grad and torch.is_grad_enabled()
    fits = inputs.device.type == "cpu" and inputs.dtype == torch.float32 and inputs.numel() > 0
    return fits and not follows and not torch.compiler.is_compiling()


def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return `inputs @ weight.T` as `torch.nn.functional.linear` does, by oneDNN where that can be.

    Args:
        inputs: (..., k), any device and float type.
        weight: (n, k), the same; its rows may lie in any order in memory.

    Returns:
        (..., n), new.

    Example:
        >>> linear(torch.ones(1, 2), torch.eye(2)).tolist()
        [[1.0, 1.0]]
    """
    if has_onednn() and is_plain(inputs) and is_plain(weight):
        return onednn_linear(inputs, weight, None)
    return functional.linear(inputs, weight)


def onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator itself.

    Args:
        inputs: (..., k), for which `is_plain`.
        weight: (n, k), for which `is_plain`, or packed (`patchioner.base.packed`).
        bias: (n,), or None.
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out
