"""Steps of fixed shape give the tokens of the ordinary search: buckets, padding, late looks, reuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.head import Constraints
from decoders.search import Hypothesis, can_capture, graph_search, greedy_search

GREEDY = DecodeOptions(max_tokens=19)
CPU = torch.device("cpu")


@torch.inference_mode()
def both(
    decoder: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions
) -> tuple[list[Hypothesis], list[Hypothesis]]:
    given = rows, Constraints(decoder, options, CPU)
    return graph_search(decoder.network, *given), greedy_search(decoder.network, *given)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 24])
@pytest.mark.parametrize(
    "options",
    [GREEDY, replace(GREEDY, no_repeat_ngram=2, min_tokens=6), replace(GREEDY, max_tokens=1)],
)
def test_it_equals_the_ordinary_search(
    wild: PrefixGPT2Decoder, rows: Tensor, count: int, options: DecodeOptions
) -> None:
    steady, ordinary = both(wild, rows[:count], options)
    assert [one.token_ids for one in steady] == [one.token_ids for one in ordinary]
    for left, right in zip(steady, ordinary, strict=True):
        assert left.log_probs == pytest.approx(right.log_probs, abs=1e-3)


def test_steps_are_reused_and_forget_what_they_read(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    first = both(wild, rows[:8], GREEDY)[0]
    other = both(wild, rows[8:16], GREEDY)[0]
    again, ordinary = both(wild, rows[:8], GREEDY)
    assert first == again
    assert [one.token_ids for one in other] != [one.token_ids for one in again]
    assert [one.token_ids for one in again] == [one.token_ids for one in ordinary]


def test_moved_weights_get_new_steps(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    twin = copy.deepcopy(wild)
    both(twin, rows[:4], GREEDY)
    with torch.no_grad():
        weight = twin.network.transformer.wte.weight
        weight.data = weight.flip(1).contiguous()
    steady, ordinary = both(twin, rows[:4], GREEDY)
    assert [one.token_ids for one in steady] == [one.token_ids for one in ordinary]


def test_banned_words_are_left_to_the_ordinary_search(wild: PrefixGPT2Decoder) -> None:
    assert can_capture(wild.network, Constraints(wild, GREEDY, CPU))
    banned = Constraints(wild, replace(GREEDY, banned_words=("cat",)), CPU)
    assert not can_capture(wild.network, banned)
