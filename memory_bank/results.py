"""What searches of a bank answer.

Knows shapes. Does not know how the answers are found.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """The rows of a bank nearest to each query, best first.

    Args:
        indices: (n, k) int64 row numbers.
        similarities: (n, k) float32 cosines.
        texts: for each query its k texts; None if the bank has no texts.
    """

    indices: Tensor
    similarities: Tensor
    texts: tuple[tuple[str, ...], ...] | None


@dataclass(frozen=True)
class Approximation:
    """A projection onto the `top_k` rows that were found nearest, and what it left out.

    Args:
        embeddings: (n, dim) float32, as `MemoryBank.project(top_k=...)` gives them.
        mass: (n,) float32 in 0..1: the share of the full softmax that those rows hold.
        exact: whether `mass` is that share, by the exact projection; else it is a lower bound.
    """

    embeddings: Tensor
    mass: Tensor
    exact: bool
