"""Batches: every text once, little padding, the same order for the same seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from decoders.train import TokenStore, epoch_batches, steps_per_epoch


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=400),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_every_index_once_and_as_many_batches_as_told(
    lengths: list[int], batch: int, epoch: int
) -> None:
    batches = epoch_batches(np.array(lengths), batch, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == steps_per_epoch(len(lengths), batch)
    assert max(map(len, batches)) <= batch


def test_order_depends_on_seed_and_epoch() -> None:
    lengths = np.arange(1, 200)

    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(lengths, 4, seed=seed, epoch=epoch)
        return [int(i) for i in np.concatenate(batches)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_batches_hold_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 30, size=3000)
    batches = epoch_batches(lengths, 16, seed=0, epoch=0)
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.05 * lengths.sum()


def test_store_pads_at_the_end_and_cuts() -> None:
    store = TokenStore([[5, 6, 7, 8], [9], [3, 4]], max_tokens=3)
    tokens, lengths = store.padded(np.array([1, 0, 2]))
    assert tokens.tolist() == [[9, 0, 0], [5, 6, 7], [3, 4, 0]]
    assert lengths.tolist() == [1, 3, 2]
    assert len(store) == 3
