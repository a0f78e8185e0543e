"""The key-value cache of the prefix GPT-2: one block, written in place.

Knows: keys and values of the positions read so far, and how rows are kept, repeated or moved.
Does NOT know: layers of a network, tokens, strategies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the positions already read, in one block sized to the need.

    Args:
        layers, rows, heads, capacity, head_dim: the block is (layers, 2, capacity, rows, heads,
            head_dim): what a step adds lies together, and memory for places that are never reached
            is never touched.
        like: a tensor of the block's dtype and device.
    """

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        heads: int,
        capacity: int,
        head_dim: int,
        like: Tensor,
    ) -> None:
        shape = (layers, 2, capacity, rows, heads, head_dim)
        self._block = torch.empty(shape, dtype=like.dtype, device=like.device)
        self._rows = rows
        self.length = 0

    mask: Tensor | None = None
    """(1, capacity) bool, which places a query may see; None where the cache gives back no others."""

    def places(self, count: int) -> slice | Tensor:
        """The positions of the next `count` inputs."""
        return slice(self.length, self.length + count)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (rows, heads, new, head_dim) keys and values; give back all of them so far."""
        end = self.length + keys.shape[2]
        block = self._block[layer, :, :end, : self._rows].permute(0, 2, 3, 1, 4)
        block[0, :, :, self.length :] = keys
        block[1, :, :, self.length :] = values
        return block[0], block[1]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has now added."""
        self.length += positions

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be repeated (beams) or left out (ended).

        Only rows that change places are copied: in a beam most hypotheses extend themselves, and
        greedy search fills the places of ended rows from the end of the batch.
        """
        count = int(rows.shape[0])
        if count > self._block.shape[3]:
            self._grow(rows)
        else:
            places = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
            if len(places):
                read = self._block[:, :, : self.length]
                read.index_copy_(3, places, read.index_select(3, rows[places]))
        self._rows = count

    def _grow(self, rows: Tensor) -> None:
        shape = list(self._block.shape)
        shape[3] = len(rows)
        kept = self._block[:, :, : self.length].index_select(3, rows)
        self._block = self._block.new_empty(shape)
        self._block[:, :, : self.length] = kept


class FixedCache(KeyValueCache):
    """A cache whose shape never changes: all places are given back, and a mask hides those not yet read.

    How far it has read is a number on the device, so that a step can be replayed as a graph.

    Args:
        shape: as of `KeyValueCache`. Rows stay: `select` is not for this one.
    """

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self._block.zero_()  # a hidden place has weight 0, and 0 times a stray NaN would be NaN
        device = self._block.device
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._all = torch.arange(self._block.shape[2], device=device)[None]
        self.mask = self._all <= self._position

    def places(self, count: int) -> Tensor:
        """The position (1,) of the next input; there is one at a time."""
        return self._position

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put in (rows, heads, 1, head_dim) keys and values; give back those of all places."""
        if layer == 0:
            torch.le(self._all, self._position, out=self.mask)
        self._block[layer, 0].index_copy_(0, self._position, keys.permute(2, 0, 1, 3))
        self._block[layer, 1].index_copy_(0, self._position, values.permute(2, 0, 1, 3))
        block = self._block[layer].permute(0, 2, 3, 1, 4)
        return block[0], block[1]

    def advance(self, positions: int) -> None:
        """Count the position that every layer has now added."""
        self._position += positions

    def restart(self) -> None:
        """Forget what was read."""
        self._position.zero_()
