"""What the processor at hand is fast at.

Knows: torch's questions to the processor. Does not know: what the answer is used for. Imports torch, so it is imported
by its own name.
"""

from __future__ import annotations

import torch


def has_fast_int8(device: torch.device) -> bool:
    """Whether torch multiplies matrices of 8-bit integers there several times faster than float32 (a CPU with VNNI).

    Example:
        >>> has_fast_int8(torch.device("meta"))
        False
    """
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return device.type == "cpu" and hasattr(torch, "_int_mm") and bool(supported and supported())
