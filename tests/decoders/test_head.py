"""Tokens from pieces of the vocabulary equal those from all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.head import (
    PIECE,
    DerivedCache,
    GivenLogits,
    LinearHead,
    StepBans,
    best_tokens,
    table_if_worth,
    top_tokens,
)
from tests.support import randn

WIDTH, VOCAB = 16, 2 * PIECE + 77
MATRIX, STATES = randn(VOCAB, WIDTH, seed=1), randn(9, WIDTH, seed=2)
FREE = StepBans(([], torch.tensor([], dtype=torch.int64)))


def bans() -> StepBans:
    """Bans the likeliest token of several rows, in different pieces and in both ways."""
    best = (STATES @ MATRIX.T).topk(2).indices
    never = sorted({int(best[0, 0]), 3, VOCAB - 1})
    repeats = best[:, :1].clone(), (torch.arange(9) < 5)[:, None]
    return StepBans((never, torch.tensor(never)), repeats, [(7, int(i)) for i in best[7]])


def whole() -> Tensor:
    logits = functional.linear(STATES, MATRIX)
    total = logits.logsumexp(dim=1, keepdim=True)
    bans().apply(logits)
    return logits - total


@pytest.mark.parametrize("given", [True, False])
def test_best_equals_the_whole_product(given: bool) -> None:
    head = GivenLogits(VOCAB) if given else LinearHead(MATRIX)
    fed = functional.linear(STATES, MATRIX) if given else STATES
    tokens, log_probs = best_tokens(head, fed, bans())
    expected = whole().max(dim=1)
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(log_probs, expected.values)


@pytest.mark.parametrize("count", [1, 6, PIECE + 5, VOCAB + 9])
def test_top_equals_the_whole_product(count: int) -> None:
    log_probs, tokens = top_tokens(LinearHead(MATRIX), STATES, bans(), count)
    expected = whole().topk(min(count, VOCAB), dim=1)
    torch.testing.assert_close(log_probs, expected.values)
    if count <= 6:
        assert torch.equal(tokens, expected.indices)
    assert all(len(set(row)) == min(count, VOCAB) for row in tokens.tolist())


@pytest.mark.parametrize("rows", [1, 2, 9])
@torch.no_grad()
def test_a_packed_table_gives_the_same_tokens(rows: int) -> None:
    if table_if_worth(MATRIX) is None:
        pytest.skip("nothing is gained by packing on this processor")
    head = LinearHead(MATRIX, table=DerivedCache(table_if_worth))
    found = top_tokens(head, STATES[:rows], FREE, 4)
    expected = top_tokens(LinearHead(MATRIX), STATES[:rows], FREE, 4)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])
