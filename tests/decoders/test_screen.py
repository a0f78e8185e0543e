"""The screen finds the token that the exact product finds, whatever is done to mislead it."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.constraints import StepBans
from decoders.head import BLOCK, LinearHead, MadeOf, Screen, screen_if_worth, worth_screening

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
    found = Screen(matrix).best(states, FREE)
    if found is not None:
        assert torch.equal(found, exact(matrix, states))


def test_ordinary_rows_are_decided() -> None:
    matrix, states = numbers(1, 6000, 64), numbers(2, 150, 64)
    found = Screen(matrix).best(states, FREE)
    assert found is not None
    assert torch.equal(found, exact(matrix, states))


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.0])
def test_near_ties_are_decided_right_or_left_to_the_product(gap: float) -> None:
    """Two tokens in different blocks that 8 bits cannot tell apart."""
    matrix, states = numbers(3, 3000, 48), numbers(4, 20, 48)
    for row, state in enumerate(states):
        strong = 8 * state / state.norm()
        matrix[40 * row] = strong
        matrix[2999 - 40 * row] = strong * (1 + gap)
    found = Screen(matrix).best(states, FREE)
    if gap >= 1e-5:
        assert found is not None
        assert torch.equal(found, exact(matrix, states))
    elif gap == 0.0:
        assert found is None


def test_a_screen_without_the_bound_would_err() -> None:
    """To show that the tests above can fail: the 8-bit sums alone choose wrongly."""
    matrix, states = numbers(3, 3000, 48), numbers(4, 20, 48)
    for row, state in enumerate(states):
        matrix[40 * row] = 8 * state / state.norm()
        matrix[2999 - 40 * row] = matrix[40 * row] * 1.001
    screen = Screen(matrix)
    sums = screen._sums(
        (states / states.abs().amax(1, keepdim=True) * 127).round().to(torch.int8), FREE
    )[0]
    logits = (sums * screen._scales[:, None]).flatten(1)[:, :3000]
    assert not torch.equal(logits.argmax(dim=1), exact(matrix, states))


def test_bans_hold() -> None:
    matrix, states = numbers(5, 2100, 32), numbers(6, 140, 32)
    best = exact(matrix, states)
    never = sorted(set(best[:9].tolist()) | {2099})
    repeats = best[:, None].clone(), (torch.arange(140) % 3 == 0)[:, None]
    bans = StepBans((never, torch.tensor(never)), repeats, ([139], [int(best[139])]))
    found = Screen(matrix).best(states, bans)
    assert found is not None
    assert torch.equal(found, exact(matrix, states, bans))
    assert not torch.equal(found, best)


def test_states_that_hide_everything_are_left_to_the_product() -> None:
    """All tokens alike, or all banned."""
    assert Screen(torch.ones(500, 8)).best(numbers(1, 3, 8), FREE) is None
    every = StepBans((list(range(500)), torch.arange(500)))
    assert Screen(numbers(2, 500, 8)).best(numbers(1, 3, 8), every) is None
    zero = Screen(numbers(2, 500, 8)).best(torch.zeros(2, 8), FREE)
    assert zero is None


def test_the_head_falls_back_on_the_product() -> None:
    matrix, states = torch.ones(500, 8), numbers(1, 3, 8)
    head = LinearHead(matrix, lambda: Screen(matrix))
    assert head.best(states, FREE).tolist() == [0, 0, 0]


@pytest.mark.parametrize("broken", ["states", "matrix"])
def test_what_is_not_a_number_is_left_to_the_product(broken: str) -> None:
    """No comparison holds for it: the row would get whatever lay in memory."""
    matrix, states = numbers(1, 500, 8), numbers(2, 3, 8)
    (states[1] if broken == "states" else matrix[70])[2] = math.nan
    assert Screen(matrix).best(states, FREE) is None
    head = LinearHead(matrix, lambda: Screen(matrix))
    assert torch.equal(head.best(states, FREE), (states @ matrix.T).argmax(dim=1))


def test_a_row_without_candidates_does_not_make_up_for_one_with_two() -> None:
    """As many candidates as rows, and still not one for each."""
    matrix, states = torch.zeros(3, 2), torch.ones(2, 2)
    matrix[:2] = 1.0
    states[1] = math.nan
    assert Screen(matrix).best(states, FREE) is None


@pytest.fixture
def screened(wild: PrefixGPT2Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the toy vocabulary be screened; counts the screens that are made."""
    made: list[int] = []

    class Counted(Screen):
        def __init__(self, matrix: Tensor) -> None:
            made.append(len(matrix))
            super().__init__(matrix)

    monkeypatch.setattr("decoders.head.worth_screening", lambda matrix: True)
    monkeypatch.setattr("decoders.head.Screen", Counted)
    monkeypatch.setattr(wild.network, "screens", MadeOf(screen_if_worth))
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


def test_only_large_float32_matrices_on_a_cpu_are_screened() -> None:
    assert not worth_screening(torch.zeros(300, 16))
    assert not worth_screening(torch.zeros(50_000, 128, dtype=torch.bfloat16))
    assert not worth_screening(torch.empty(50_000, 128, device="meta"))


def test_threads_make_one_screen(
    wild: PrefixGPT2Decoder, rows: Tensor, screened: list[int]
) -> None:
    found: list[list[str]] = []

    def caption() -> None:
        found.append(
            [one.text for one in wild.generate(rows, DecodeOptions(max_tokens=10, scores=False))]
        )

    threads = [threading.Thread(target=caption) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(screened) == 1
    assert found == [found[0]] * 4


def test_neither_a_copy_nor_moved_weights_keep_the_screen_alive(
    wild: PrefixGPT2Decoder, rows: Tensor, screened: list[int]
) -> None:
    """It holds the old matrix in float32: more than all of a network in fewer bits."""
    twin = copy.deepcopy(wild)
    twin.generate(rows, DecodeOptions(max_tokens=4, scores=False))
    assert len(screened) == 1
    assert twin.network.screens._made is not None
    for few in (copy.deepcopy(twin), twin.quantized("bf16"), twin.quantized("int8")):
        assert few.network.screens._made is None
    twin.network.to("cpu", torch.bfloat16)
    assert twin.network.screens._made is None
