"""Projection onto a few rows per query, and how much of the softmax those rows hold.

Knows arrays, candidates and the exact projection it is judged by. Does not know how an index finds
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memory_bank.arrays import BankArrays
from memory_bank.index import BankIndex
from memory_bank.projection import Blocks, Weighted, nearest

_GATHERED_BYTES = 2**25


@dataclass(frozen=True)
class Candidates:
    """Rows chosen for each query, compared with it exactly.

    Args:
        indices: (n, k) int64; -1 where there is none.
        logits: (n, k) float32, cosine / temperature + log(count); -inf where there is none.
        furthest: (n,) float32, the lowest cosine among them.
        counts: (n,) float64, how many rows they stand for.
    """

    indices: Tensor
    logits: Tensor
    furthest: Tensor
    counts: Tensor


def find_rows(
    queries: Tensor, arrays: BankArrays, index: BankIndex | None, top_k: int, blocks: Blocks
) -> Tensor:
    """Return the rows that the index finds near each query, or without one the nearest: (n, top_k) int64.

    Args:
        queries: (n, dim) float32 unit rows, on the device of the arrays.
        arrays: the bank.
        index: over its rows, or None.
        top_k: 1 .. rows.
        blocks: of the exact search.

    Returns:
        Row numbers; -1 where the index found fewer, but never in a whole row.
    """
    if index is None:
        return nearest(queries, arrays, top_k, blocks)[0]
    found = index.search(queries, top_k)
    # The lists that a query was looked up in may be empty: then all rows are looked at.
    missed = (found < 0).all(dim=1).nonzero().flatten()
    if len(missed):
        found[missed] = nearest(queries[missed], arrays, top_k, blocks)[0]
    return found


def compare(queries: Tensor, arrays: BankArrays, indices: Tensor, temperature: float) -> Candidates:
    """Compare each query with its own candidates, in float32.

    Args:
        queries: (n, dim) float32 unit rows, on the device of the arrays.
        arrays: the bank.
        indices: (n, k) int64 row numbers; -1 where there is none.
        temperature: positive.
    """
    cosines = queries.new_empty(indices.shape)
    for part in _parts(indices, queries.shape[1]):
        rows = indices[part].clamp_min(0)
        units = arrays.units(rows.flatten()).view(*rows.shape, -1)
        cosines[part] = torch.einsum("nd,nkd->nk", queries[part], units)
    absent = indices < 0
    counts = arrays.counts[indices.clamp_min(0)].double().masked_fill(absent, 0.0)
    logits = cosines / temperature + counts.log().float()
    furthest = cosines.masked_fill(absent, torch.inf).amin(dim=1)
    return Candidates(indices, logits.masked_fill(absent, -torch.inf), furthest, counts.sum(dim=1))


def project_candidates(arrays: BankArrays, chosen: Candidates) -> Weighted:
    """Return the softmax-weighted means of the candidates' values: (n, dim) float32, with masses."""
    log_mass = torch.logsumexp(chosen.logits, dim=1)
    weights = torch.exp(chosen.logits - log_mass[:, None])
    means = weights.new_empty((len(weights), arrays.keys.shape[1]))
    for part in _parts(chosen.indices, means.shape[1]):
        rows = chosen.indices[part].clamp_min(0)
        values = arrays.values(rows.flatten()).view(*rows.shape, -1)
        means[part] = torch.einsum("nk,nkd->nd", weights[part], values)
    return Weighted(means, log_mass)


def least_mass(
    chosen: Candidates, found: Weighted, arrays: BankArrays, temperature: float
) -> Tensor:
    """Return a lower bound (n,) of the share of the softmax held, if the candidates are the nearest.

    Every other row is then no nearer than the furthest candidate: with S the candidates' sum, R the
    number of other rows and c that cosine, the share is at least S / (S + R exp(c / temperature)).

    Args:
        chosen: the candidates, which must be the nearest rows.
        found: their projection.
        arrays: the bank.
        temperature: positive.
    """
    others = (arrays.counts.double().sum() - chosen.counts).clamp_min(0.0)
    furthest = chosen.furthest / temperature + others.log().float()
    return torch.sigmoid(found.log_mass - furthest)


def _parts(indices: Tensor, dim: int) -> list[slice]:
    """Split queries so that the gathered rows of one part stay small."""
    size = max(1, _GATHERED_BYTES // max(1, 4 * indices.shape[1] * dim))
    return [slice(start, start + size) for start in range(0, len(indices), size)]
