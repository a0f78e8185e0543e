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

WIDTH, VOCAB = 16, 2 * PIECE + 77


@pytest.fixture(scope="module")
def matrix() -> Tensor:
    return torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def states() -> Tensor:
    return torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def bans(matrix: Tensor, states: Tensor) -> StepBans:
    """Bans the likeliest token of several rows, in different pieces and in both ways."""
    best = (states @ matrix.T).topk(2).indices
    never = sorted({int(best[0, 0]), 3, VOCAB - 1})
    repeats = best[:, :1].clone(), (torch.arange(9) < 5)[:, None]
    return StepBans((never, torch.tensor(never)), repeats, [(7, int(i)) for i in best[7]])


def whole(matrix: Tensor, states: Tensor, bans: StepBans) -> tuple[Tensor, Tensor]:
    logits = functional.linear(states, matrix)
    total = logits.logsumexp(dim=1, keepdim=True)
    bans.apply(logits)
    return logits, logits - total


@pytest.mark.parametrize("given", [True, False])
def test_best_equals_the_whole_product(
    matrix: Tensor, states: Tensor, bans: StepBans, given: bool
) -> None:
    head = GivenLogits(VOCAB) if given else LinearHead(matrix)
    fed = functional.linear(states, matrix) if given else states
    tokens, log_probs = best_tokens(head, fed, bans)
    logits, expected = whole(matrix, states, bans)
    assert torch.equal(tokens, logits.argmax(dim=1))
    torch.testing.assert_close(log_probs, expected.gather(1, tokens[:, None]).squeeze(1))


@pytest.mark.parametrize("count", [1, 6, PIECE + 5, VOCAB + 9])
def test_top_equals_the_whole_product(
    matrix: Tensor, states: Tensor, bans: StepBans, count: int
) -> None:
    log_probs, tokens = top_tokens(LinearHead(matrix), states, bans, count)
    expected = whole(matrix, states, bans)[1].topk(min(count, VOCAB), dim=1)
    torch.testing.assert_close(log_probs, expected.values)
    if count <= 6:
        assert torch.equal(tokens, expected.indices)
    assert all(len(set(row)) == min(count, VOCAB) for row in tokens.tolist())


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_packed_table_gives_the_same_tokens(matrix: Tensor, states: Tensor, rows: int) -> None:
    table = table_if_worth(matrix)
    if table is None:
        pytest.skip("nothing is gained by packing on this processor")
    head = LinearHead(matrix, table=DerivedCache(table_if_worth))
    expected = top_tokens(LinearHead(matrix), states[:rows], FREE, 4)
    with torch.no_grad():
        found = top_tokens(head, states[:rows], FREE, 4)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])


FREE = StepBans(([], torch.tensor([], dtype=torch.int64)))
