"""Coresets: rows of a bank that stand for all of it.

Knows unit rows and multiplicities. Does not know what becomes of the rows that are left out
(`compaction`), nor what their loss costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memory_bank.bank import MemoryBank

_BLOCK = 4096
_POOL = 4096


def k_center(bank: MemoryBank, rows: int, seed: int) -> Tensor:
    """Choose rows so that no row is far from all of them: farthest first (Gonzalez 1985).

    Each next row is the one of lowest cosine with its nearest chosen row. Rows are looked at in
    passes: of the farthest rows of one pass (a pool), as many are chosen as are surely farther than
    any row outside, so the choice is that of one row at a time.

    Args:
        bank: distinct rows; counts play no part.
        rows: how many, at most `len(bank)`.
        seed: of the first row.

    Returns:
        (rows,) int64 row numbers on the bank's device, in order of choice.

    Example:
        >>> bank = MemoryBank(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
        >>> sorted(k_center(bank, 2, seed=0).tolist()) in ([0, 2], [1, 2])
        True
    """
    generator = torch.Generator().manual_seed(seed)
    pending = torch.randint(len(bank), (1,), generator=generator).to(bank.device)
    closest = torch.full((len(bank),), -torch.inf, device=bank.device)
    chosen = pending
    while len(chosen) < rows:
        _come_closer(bank, pending, closest)
        pending = _farthest(bank, closest, rows - len(chosen))
        chosen = torch.cat([chosen, pending])
    return chosen


def _come_closer(bank: MemoryBank, centres: Tensor, closest: Tensor) -> None:
    """Raise each row's cosine with its nearest centre; centres themselves are out of the running."""
    units = bank.units(centres)
    for start in range(0, len(bank), _BLOCK):
        block = slice(start, start + _BLOCK)
        cosines = (bank.units(block) @ units.T).amax(dim=1)
        torch.maximum(closest[block], cosines, out=closest[block])
    closest[centres] = torch.inf


def _farthest(bank: MemoryBank, closest: Tensor, most: int) -> Tensor:
    """Choose the next rows, (n,) int64 with 1 <= n <= most, without looking at all rows between."""
    size = min(_POOL, len(bank) - 1)
    lowest = torch.topk(closest, size + 1, largest=False)
    pool, near = lowest.indices[:size], lowest.values[:size].clone()
    # Cosines with the nearest centre only grow, so no row outside the pool falls below this.
    outside = float(lowest.values[size])
    units = bank.units(pool)
    picked: list[int] = []
    while len(picked) < most:
        at = int(near.argmin())
        if picked and not float(near[at]) < outside:
            break
        picked.append(at)
        near = torch.maximum(near, units @ units[at])
        near[at] = torch.inf
    return pool[torch.tensor(picked, device=pool.device)]


def importance(bank: MemoryBank, rows: int, seed: int) -> Tensor:
    """Draw rows by the sensitivity of lightweight coresets (Bachem, Lucic and Krause 2018).

    A row of count c at distance d from the mean is drawn in proportion to
    `c / sum(c) + c d**2 / sum(c d**2)`, without replacement: two passes over the bank.

    Args:
        bank: distinct rows.
        rows: how many, at most `len(bank)`.
        seed: of the draw.

    Returns:
        (rows,) int64 row numbers on the bank's device.

    Example:
        >>> len(importance(MemoryBank(torch.eye(4)), 2, seed=0))
        2
    """
    counts = bank.counts.double()
    mean = torch.zeros(bank.dim, dtype=torch.float64, device=bank.device)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(bank), _BLOCK)]
    for block in blocks:
        mean += counts[block] @ bank.units(block).double()
    mean /= counts.sum()
    squares = torch.cat([(bank.units(b) - mean.float()).square().sum(dim=1) for b in blocks])
    spread = counts * squares.double()
    # Rows of one direction have no spread; then the counts alone decide.
    shares = counts / counts.sum() + spread / spread.sum().clamp_min(
        torch.finfo(torch.float64).tiny
    )
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(bank), dtype=torch.float64, generator=generator).to(bank.device)
    # The largest of log(share) + Gumbel noise are a draw without replacement.
    noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    return torch.topk(shares.log() + noise, rows).indices
