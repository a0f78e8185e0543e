"""The network: cached steps equal the full forward pass; causality; names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decoders import PrefixGPT2Decoder
from decoders.gpt2 import PrefixGPT2Config
from patchioner.base.errors import OptionError


def test_cached_steps_equal_the_full_forward_pass(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    network = wild.network
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, wild.tokenizer.vocab_size, (len(rows), 7), generator=random)
    with torch.no_grad():
        whole = network.logits(network(rows, tokens))
        states, cache = network.start(rows, 8)
        for place in range(7):
            logits = network.head.logits(states, 0, network.head.vocab_size)
            torch.testing.assert_close(logits, whole[:, place], atol=1e-3, rtol=1e-4)
            states = network.step(tokens[:, place], cache)
    logits = network.head.logits(states, 0, network.head.vocab_size)
    torch.testing.assert_close(logits, whole[:, 7], atol=1e-3, rtol=1e-4)


def test_cache_select_repeats_drops_and_reorders(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    network = wild.network
    chosen = torch.tensor([3, 3, 0, 5, 5, 5, 1, 2, 4])
    with torch.no_grad():
        _, cache = network.start(rows[:6], 4)
        cache.select(chosen)  # more rows than before
        grown = network.step(chosen, cache)
        cache.select(torch.tensor([2, 8]))  # fewer
        shrunk = network.step(torch.tensor([7, 9]), cache)
        _, plain = network.start(rows[:6][chosen], 4)
        expected = network.step(chosen, plain)
        full = network(rows[[0, 4]], torch.tensor([[0, 7], [4, 9]]))
    torch.testing.assert_close(grown, expected)
    torch.testing.assert_close(shrunk, full[:, 2], atol=1e-3, rtol=1e-4)


def test_later_tokens_do_not_reach_back(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    with torch.no_grad():
        short = wild.network(rows, torch.full((len(rows), 2), 9))
        longer = wild.network(rows, torch.tensor([[9, 9, 4, 1]]).expand(len(rows), 4))
    torch.testing.assert_close(longer[:, :3], short, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"heads": 3}, {"layers": 0}, {"dropout": 1.0}, {"width": 2.5}]
)
def test_impossible_shape_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        PrefixGPT2Config(**{"embedding_dim": 4, "vocab_size": 9, "width": 8, **settings})  # type: ignore[arg-type]
