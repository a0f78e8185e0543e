"""Tokens from pieces of the vocabulary equal those from all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders import DecodeOptions
from decoders.constraints import StepBans
from decoders.head import (
    PIECE,
    GivenLogits,
    LinearHead,
    best_tokens,
    pieces,
    table_if_worth,
    top_tokens,
)
from tests.support.letters import Letters, constraints_of

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
    return StepBans((never, torch.tensor(never)), repeats, ([7, 7], [int(i) for i in best[7]]))


def whole(matrix: Tensor, states: Tensor, bans: StepBans) -> tuple[Tensor, Tensor]:
    logits = functional.linear(states, matrix)
    total = logits.logsumexp(dim=1, keepdim=True)
    bans.apply(logits)
    return logits, logits - total


def test_pieces_cover_the_vocabulary_once(matrix: Tensor) -> None:
    found = [token for first, last in pieces(LinearHead(matrix), 9) for token in range(first, last)]
    assert found == list(range(VOCAB))
    assert list(pieces(LinearHead(matrix), 1)) == [(0, VOCAB)]


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_best_equals_the_whole_product(
    matrix: Tensor, states: Tensor, bans: StepBans, scores: bool, given: bool
) -> None:
    head = GivenLogits(VOCAB) if given else LinearHead(matrix)
    fed = functional.linear(states, matrix) if given else states
    tokens, log_probs = best_tokens(head, fed, bans, scores=scores)
    logits, expected = whole(matrix, states, bans)
    assert torch.equal(tokens, logits.argmax(dim=1))
    if scores:
        torch.testing.assert_close(log_probs, expected.gather(1, tokens[:, None]).squeeze(1))
    else:
        assert bool(log_probs.isnan().all())


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


def test_of_equal_logits_the_first_is_taken() -> None:
    matrix = torch.zeros(VOCAB, WIDTH)
    matrix[[5, PIECE - 1, PIECE, VOCAB - 1]] = 1.0
    free = StepBans(([], torch.tensor([], dtype=torch.int64)))
    tokens, _ = best_tokens(LinearHead(matrix), torch.ones(4, WIDTH), free)
    assert tokens.tolist() == [5] * 4


def test_some_rows_of_the_bans(states: Tensor, bans: StepBans) -> None:
    every = torch.zeros(9, VOCAB)
    some = torch.zeros(4, VOCAB)
    bans.apply(every)
    bans.rows(4, 8).apply(some)
    assert torch.equal(some, every[4:8])


def test_bans_of_integers_are_the_least() -> None:
    options = DecodeOptions(no_repeat_ngram=1, banned_words=("b",))
    bans = constraints_of(Letters("!", "b"), options).at(torch.tensor([[2]]))
    sums = torch.zeros(1, 4, dtype=torch.int32)
    bans.apply(sums)
    least = torch.iinfo(torch.int32).min
    assert sums.tolist() == [[0, least, least, least]]


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_packed_table_gives_the_same_tokens(
    matrix: Tensor, states: Tensor, bans: StepBans, rows: int
) -> None:
    table = table_if_worth(matrix)
    if table is None:
        pytest.skip("nothing is gained by packing on this processor")
    head, some = LinearHead(matrix, table=lambda: table), bans.rows(0, rows)
    expected = top_tokens(LinearHead(matrix), states[:rows], some, 4)
    with torch.no_grad():
        found = top_tokens(head, states[:rows], some, 4)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])


def test_a_head_in_training_leaves_its_table_alone(matrix: Tensor, states: Tensor) -> None:
    def unwanted() -> None:
        raise AssertionError("asked for")

    head = LinearHead(matrix, table=unwanted)
    assert torch.equal(head.logits(states, 0, PIECE), states @ matrix[:PIECE].T)
