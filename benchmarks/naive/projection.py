"""The memory projection as published: one expression over the whole bank.

Knows: rows and queries. Does NOT know blocks, stored norms or multiplicities; that is the point of it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.01


def project(queries: Tensor, rows: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Unit vectors of `softmax(cos(queries, rows) / temperature) @ rows`.

    The rows are normalised into a second array of their size, and the (n, N) similarities and their softmax are alive
    together (Li et al. 2023, DeCap, equation 4; the order of work as published).

    Args:
        queries: (n, dim) float32, not zero.
        rows: (N, dim) float32, raw: longer rows weigh more.
        temperature: positive.

    Returns:
        (n, dim) float32, unit rows.

    Example:
        >>> import torch
        >>> project(torch.tensor([[5.0, 0.1]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])).round(decimals=3)
        tensor([[1., 0.]])
    """
    queries = queries / queries.norm(dim=-1, keepdim=True)
    keys = rows / rows.norm(dim=-1, keepdim=True)
    similarity = queries @ keys.T
    weights = (similarity / temperature).softmax(dim=-1)
    return functional.normalize(weights @ rows, dim=-1)
