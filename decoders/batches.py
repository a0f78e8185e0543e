"""Training batches: which texts go together at which step, and their padded tokens.

Knows: the seeded, resumable order and the bucketing by length.
Does NOT know: networks, embeddings, losses.

The order is a pure function of (seed, epoch), so a resumed run reads on where it stopped without
having stored anything but its step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BATCHES = 64


class TokenStore:
    """Many token sequences in one flat array.

    Args:
        sequences: token ids of each text.
        max_tokens: longer sequences are cut, and so lose their end token.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], *, max_tokens: int) -> None:
        cut = [sequence[:max_tokens] for sequence in sequences]
        self.lengths: NDArray[np.int64] = np.array([len(s) for s in cut], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._flat = np.fromiter(
            (t for s in cut for t in s), dtype=np.int32, count=int(self._starts[-1])
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens (n, t) int64, padded with 0 at the end, and lengths (n,) int64."""
        lengths = self.lengths[indices]
        columns = np.arange(lengths.max())
        places = self._starts[indices][:, None] + columns
        inside = columns < lengths[:, None]
        tokens = np.where(inside, self._flat[np.where(inside, places, 0)], 0)
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(lengths)


def steps_per_epoch(texts: int, batch: int) -> int:
    """Batches in one pass over the texts, the last, smaller one included."""
    return -(-texts // batch)


def epoch_batches(
    lengths: NDArray[np.int64], batch: int, *, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Indices of every batch of an epoch, each index once.

    Texts are shuffled, sorted by length within buckets of many batches (so that a batch holds
    little padding), and the batches are shuffled again.

    Example:
        >>> batches = epoch_batches(np.array([3, 9, 3, 8]), 2, seed=0, epoch=0)
        >>> sorted(map(int, np.concatenate(batches)))
        [0, 1, 2, 3]
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    bucket = batch * BUCKET_BATCHES
    batches = []
    for first in range(0, len(order), bucket):
        part = order[first : first + bucket]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch] for i in range(0, len(part), batch)]
    return [batches[i] for i in random.permutation(len(batches))]
