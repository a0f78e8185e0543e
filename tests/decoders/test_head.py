"""Tokens from pieces of the vocabulary equal those from all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.head import (
    BLOCK,
    PIECE,
    CandidatePruning,
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


# The screen finds the token that the exact product finds, whatever is done to mislead it.

FREE = StepBans(([], torch.tensor([], dtype=torch.int64)))


def exact(matrix: Tensor, states: Tensor, bans: StepBans = FREE) -> Tensor:
    logits = states.double() @ matrix.double().T
    bans.apply(logits)
    return logits.argmax(dim=1)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.sampled_from([1, 3, 130]),
    vocab=st.sampled_from([5, BLOCK, 70, 2100]),
    width=st.sampled_from([3, 24, 64]),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_it_never_errs(seed: int, rows: int, vocab: int, width: int, spread: float) -> None:
    """Rows of very different lengths, a mean far from zero, dimensions that stick out."""
    lengths = torch.exp(spread * numbers(seed, vocab, 1))
    matrix = numbers(seed + 1, vocab, width) * lengths + 2 * numbers(seed + 2, width)
    states = numbers(seed + 3, rows, width)
    states[:, 0] *= math.exp(2 * spread)
    found = CandidatePruning(matrix).best(states, FREE)
    if found is not None:
        assert torch.equal(found, exact(matrix, states))


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.0])
def test_near_ties_are_decided_right_or_left_to_the_product(gap: float) -> None:
    """Two tokens in different blocks that 8 bits cannot tell apart."""
    matrix, states = numbers(3, 3000, 48), numbers(4, 20, 48)
    for row, state in enumerate(states):
        strong = 8 * state / state.norm()
        matrix[40 * row] = strong
        matrix[2999 - 40 * row] = strong * (1 + gap)
    found = CandidatePruning(matrix).best(states, FREE)
    if gap >= 1e-5:
        assert found is not None
        assert torch.equal(found, exact(matrix, states))
    elif gap == 0.0:
        assert found is None


def test_bans_hold() -> None:
    matrix, states = numbers(5, 2100, 32), numbers(6, 140, 32)
    best = exact(matrix, states)
    never = sorted(set(best[:9].tolist()) | {2099})
    repeats = best[:, None].clone(), (torch.arange(140) % 3 == 0)[:, None]
    bans = StepBans((never, torch.tensor(never)), repeats, [(139, int(best[139]))])
    found = CandidatePruning(matrix).best(states, bans)
    assert found is not None
    assert torch.equal(found, exact(matrix, states, bans))
    assert not torch.equal(found, best)


@pytest.mark.parametrize("broken", ["states", "matrix"])
def test_what_is_not_a_number_is_left_to_the_product(broken: str) -> None:
    """No comparison holds for it: the row would get whatever lay in memory."""
    matrix, states = numbers(1, 500, 8), numbers(2, 3, 8)
    (states[1] if broken == "states" else matrix[70])[2] = math.nan
    assert CandidatePruning(matrix).best(states, FREE) is None
    head = LinearHead(matrix, DerivedCache(CandidatePruning))
    assert torch.equal(head.best(states, FREE), (states @ matrix.T).argmax(dim=1))


@pytest.fixture
def screened(wild: PrefixGPT2Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the toy vocabulary be screened; counts the screens that are made."""
    made: list[int] = []

    class Counted(CandidatePruning):
        def __init__(self, matrix: Tensor) -> None:
            made.append(len(matrix))
            super().__init__(matrix)

    monkeypatch.setattr(wild.network, "candidates", DerivedCache(Counted))
    return made


@pytest.mark.parametrize("ngram", [0, 2])
def test_the_engine_gives_the_same_tokens_without_scores(
    wild: PrefixGPT2Decoder, rows: Tensor, screened: list[int], ngram: int
) -> None:
    options = DecodeOptions(max_tokens=12, no_repeat_ngram=ngram, banned_words=("cat",))
    with_scores = wild.generate(rows, options)
    assert not screened
    without = wild.generate(rows, DecodeOptions(**{**vars(options), "scores": False}))
    assert [one.token_ids for one in without] == [one.token_ids for one in with_scores]
    assert len({len(one.token_ids) for one in without}) > 2
    assert all(math.isnan(one.score) for one in without)
    assert len(screened) == 1


def test_a_screen_is_made_anew_when_the_weights_change(
    wild: PrefixGPT2Decoder, rows: Tensor, screened: list[int]
) -> None:
    options = DecodeOptions(max_tokens=6, scores=False)
    before = wild.generate(rows, options)
    wild.generate(rows, options)
    assert len(screened) == 1
    weight = wild.network.transformer.wte.weight
    with torch.no_grad():
        weight.neg_()
    try:
        expected = wild.generate(rows, DecodeOptions(max_tokens=6))
        after = wild.generate(rows, options)
    finally:
        with torch.no_grad():
            weight.neg_()
    assert [one.token_ids for one in after] == [one.token_ids for one in expected]
    assert [one.token_ids for one in after] != [one.token_ids for one in before]
    assert len(screened) == 2
