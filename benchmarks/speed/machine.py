"""What the machine is and what it can do: matrix products and copies, measured, for the floor beside a timing.

Knows: torch's threads and devices. Does NOT know: models.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from patchioner.base.inference import PackedTable, can_pack

_SIDE, _ELEMENTS, _TRIES = 2048, 2**26, 5


@dataclass(frozen=True)
class Rates:
    """Measured in this process, with its threads.

    Attributes:
        product: multiply-adds a second of a square matrix product.
        copy: bytes a second of a large copy, read and written bytes both counted.

    Example:
        >>> Rates(product=85e9, copy=60e9).seconds(multiply_adds=85e9, size=30e9)
        1.0
    """

    product: float
    copy: float

    def seconds(self, *, multiply_adds: float, size: float) -> float:
        """The least time that the work can take: the longer of arithmetic and of moving `size` bytes."""
        return max(multiply_adds / self.product, size / self.copy)


def measure_rates(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    side: int = _SIDE,
    elements: int = _ELEMENTS,
    tries: int = _TRIES,
) -> Rates:
    """Time a (side, side) product in `dtype` and a copy of `elements` floats; the best of the tries counts.

    Of torch's product and that with a packed matrix the faster one counts.

    Example:
        >>> measure_rates(side=64, elements=1000, tries=1).product > 0
        True
    """
    left = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(left)
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    synchronize = synchronizer(device)
    product = _best(lambda: torch.mm(left, left, out=out), synchronize, tries)
    if can_pack(left):
        table = PackedTable(left, side)
        packed = _best(lambda: table.product(left, 0, side), synchronize, tries)
        product = min(product, packed)
    copy = _best(lambda: target.copy_(source), synchronize, tries)
    return Rates(side**3 / product, 2 * 4 * elements / copy)


def synchronizer(device: str | torch.device) -> Callable[[], None]:
    """What waits until the device has done all that it was told; nothing on the CPU."""
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing


def _nothing() -> None:
    return None


def _best(work: Callable[[], object], synchronize: Callable[[], None], tries: int) -> float:
    best = float("inf")
    for _ in range(tries + 1):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def about_machine() -> dict[str, str]:
    """Versions, threads, cores, system: what stands below every table."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
