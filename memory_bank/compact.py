"""Making a bank smaller: rows become fewer, each with the count of those it stands for.

What the loss of rows costs is to be measured, e.g. by `python -m benchmarks.bank`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from memory_bank.bank import MemoryBank
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.progress import progress

CompactionMethod = Literal["k-means", "importance"]

_BLOCK = 512  # rows per product; with 16k centroids the similarities then take 33 MB
_SMALLEST_NORM = 1e-6  # a mean of unit vectors shorter than this has no direction of its own


class _Clusters(NamedTuple):
    """A partition of rows: (N,) cluster of each row, and its cosine with the centroid."""

    label: Tensor
    similarity: Tensor


def compact(
    bank: MemoryBank,
    rows: int,
    *,
    seed: int = 0,
    iterations: int = 5,
    method: CompactionMethod = "k-means",
) -> MemoryBank:
    """Shrink a bank to `rows` rows, in the same precision. Equal rows are merged first.

    "k-means" is spherical k-means weighted by multiplicity: Lloyd's algorithm on the unit keys (Dhillon and Modha
    2001), with exact assignment. A cluster becomes one row: the weighted mean of its members' values, the sum of their
    counts, and the text of the member nearest to its centroid. "importance" keeps rows as they are, with their texts,
    drawn by the sensitivity of lightweight coresets (Bachem, Lucic and Krause 2018); each other row's count goes to
    the kept row of highest cosine.

    Args:
        bank: left untouched; its device does the work (`bank.to("cuda")` for a large one).
        rows: size of the result; a bank with no more distinct rows is only merged.
        seed: of the choice of starting rows, or of the draw.
        iterations: of "k-means", most rounds of assigning and averaging.

    Raises:
        OptionError, UnknownNameError: `rows` or `iterations` below 1; an unknown method.

    Example:
        >>> bank = MemoryBank(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
        >>> sorted(compact(bank, 2).counts.tolist())
        [1, 2]
    """
    if rows < 1 or iterations < 1:
        raise OptionError(f"rows={rows}, iterations={iterations}: both must be at least 1")
    if method not in get_args(CompactionMethod):
        raise UnknownNameError.among("method", str(method), get_args(CompactionMethod))
    distinct = bank.merge_duplicates()
    if rows >= len(distinct):
        return distinct
    with torch.no_grad():
        if method != "k-means":
            return _keep(distinct, _importance(distinct, rows, seed))
        clusters = _cluster(distinct, rows, seed, iterations)
        return _merge_clusters(distinct, clusters, rows)


def _cluster(bank: MemoryBank, rows: int, seed: int, iterations: int) -> _Clusters:
    start = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:rows]
    centroids = bank.units(start.to(bank.device))
    clusters = _fill_empty(_assign(bank, centroids, "clustering 1"), rows)
    for iteration in range(2, iterations + 1):
        centroids, before = _centroids(bank, clusters, centroids), clusters.label
        clusters = _fill_empty(_assign(bank, centroids, f"clustering {iteration}"), rows)
        if torch.equal(clusters.label, before):
            break
    return clusters


def _keep(bank: MemoryBank, chosen: Tensor) -> MemoryBank:
    """Keep the chosen rows, in the bank's order, with the counts of those nearest to them."""
    chosen = chosen.sort().values
    clusters = _assign(bank, bank.units(chosen), "assigning")
    # Of two rows of one direction and unlike lengths, each still stands for itself.
    clusters.label[chosen] = torch.arange(len(chosen), device=bank.device)
    counts = torch.zeros(len(chosen), dtype=torch.int64, device=bank.device)
    counts.index_add_(0, clusters.label, bank.counts)
    return bank.take(chosen, counts)


def _assign(bank: MemoryBank, centroids: Tensor, description: str) -> _Clusters:
    """Give every row to the centroid of highest cosine."""
    similarity = torch.empty(len(bank), dtype=torch.float32, device=bank.device)
    label = torch.empty(len(bank), dtype=torch.int64, device=bank.device)
    starts = range(0, len(bank), _BLOCK)
    for start in progress(starts, description=description, unit="block"):
        block = slice(start, start + _BLOCK)
        best = torch.max(bank.units(block) @ centroids.T, dim=1)
        similarity[block], label[block] = best.values, best.indices
    return _Clusters(label, similarity)


def _fill_empty(clusters: _Clusters, count: int) -> _Clusters:
    """Give each empty cluster the worst-served row of a cluster that keeps others."""
    label = clusters.label.cpu().numpy().copy()
    similarity = clusters.similarity.cpu().numpy().copy()
    sizes = np.bincount(label, minlength=count)
    empty = np.flatnonzero(sizes == 0).tolist()
    worst = iter(np.argsort(similarity, kind="stable").tolist()) if empty else iter(())
    for cluster in empty:
        row = next(row for row in worst if sizes[label[row]] > 1)
        sizes[label[row]] -= 1
        sizes[cluster] += 1
        label[row], similarity[row] = cluster, 1.0
    device = clusters.label.device
    return _Clusters(torch.from_numpy(label).to(device), torch.from_numpy(similarity).to(device))


def _sums(bank: MemoryBank, clusters: _Clusters, factors: Tensor, rows: int) -> Tensor:
    """The sum of each cluster's unit rows times their factors, (rows, dim) float32."""
    sums = torch.zeros((rows, bank.dim), dtype=torch.float32, device=bank.device)
    for start in range(0, len(bank), _BLOCK):
        block = slice(start, start + _BLOCK)
        sums.index_add_(0, clusters.label[block], bank.units(block) * factors[block, None])
    return sums


def _centroids(bank: MemoryBank, clusters: _Clusters, previous: Tensor) -> Tensor:
    """Return the normalised weighted sums of the clusters' keys, (rows, dim) float32."""
    sums = _sums(bank, clusters, bank.counts, len(previous))
    lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    # Members that cancel out leave no direction: such a cluster keeps its centroid.
    return torch.where(lengths > _SMALLEST_NORM, sums / lengths.clamp_min(_SMALLEST_NORM), previous)


def _merge_clusters(bank: MemoryBank, clusters: _Clusters, rows: int) -> MemoryBank:
    counts = torch.zeros(rows, dtype=torch.int64, device=bank.device)
    counts.index_add_(0, clusters.label, bank.counts)
    values = _sums(bank, clusters, bank.counts * bank.norms, rows) / counts[:, None]
    nearest = _representatives(clusters, rows)
    cancelled = torch.linalg.vector_norm(values, dim=1) <= _SMALLEST_NORM * bank.norms[nearest]
    kept = bank.units(nearest) * bank.norms[nearest, None]
    values = torch.where(cancelled[:, None], kept, values)
    texts = None if bank.texts is None else [bank.texts[row] for row in nearest.tolist()]
    return MemoryBank(values, texts, counts, dtype=bank.dtype)


def _representatives(clusters: _Clusters, rows: int) -> Tensor:
    """Return for each cluster the row nearest to its centroid, (rows,) int64."""
    order = np.argsort(clusters.similarity.cpu().numpy(), kind="stable")
    nearest = np.empty(rows, dtype=np.int64)
    # Later assignments win, and the best rows come last.
    nearest[clusters.label.cpu().numpy()[order]] = order
    return torch.from_numpy(nearest).to(clusters.label.device)


def _importance(bank: MemoryBank, rows: int, seed: int) -> Tensor:
    """Draw rows by the sensitivity of lightweight coresets (Bachem, Lucic and Krause 2018).

    A row of count c at distance d from the mean is drawn in proportion to
    `c / sum(c) + c d**2 / sum(c d**2)`, without replacement: two passes over the bank.
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
    uniform = torch.rand(
        len(bank), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    # The largest of log(share) + Gumbel noise are a draw without replacement.
    noise = -torch.log(-torch.log(uniform.to(bank.device).clamp(1e-300, 1 - 1e-16)))
    return torch.topk(shares.log() + noise, rows).indices
