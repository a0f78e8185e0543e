"""Sampling draws from the nucleus, with the right frequencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.search import close_ranks, draw, row_uniforms
from tests.support.letters import Letters, constraints_of

LOGITS = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()


def frequencies(top_p: float, count: int = 4000) -> list[float]:
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(LOGITS.expand(count, 4), uniforms, top_p)
    return (torch.bincount(tokens, minlength=4) / count).tolist()


def test_whole_distribution() -> None:
    np.testing.assert_allclose(frequencies(1.0), [0.1, 0.5, 0.15, 0.25], atol=1e-3)


def test_nucleus_keeps_the_smallest_set_and_renormalises() -> None:
    np.testing.assert_allclose(frequencies(0.7), [0, 2 / 3, 0, 1 / 3], atol=1e-3)
    np.testing.assert_allclose(frequencies(0.4), [0, 1, 0, 0])


def test_extreme_uniforms_stay_inside() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, -torch.inf, 0.0]])
    uniforms = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    assert set(draw(logits, uniforms, 1.0).tolist()) <= {0, 2}


def test_uniforms_belong_to_the_row_and_grow_without_changing() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    few, many = row_uniforms(rows, 4, seed=1), row_uniforms(rows.flip(0), 9, seed=1)
    np.testing.assert_array_equal(few, many[::-1, :4])
    assert len(np.unique(few)) == 12


def test_ranks_close_with_as_few_moves_as_there_are_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        going = torch.rand(40, generator=generator) < share
        kept = close_ranks(going)
        assert sorted(kept.tolist()) == going.nonzero().flatten().tolist()
        moved = int((kept != torch.arange(len(kept))).sum())
        assert moved == int((~going[: len(kept)]).sum())


# Banned words: whatever tokens they are cut into, at any place, in any case.


WORDS = Letters(" cat", " c", "at", "t", " ca", " cats", " bat", " red", " car", "ch", "cat ", "!")


@pytest.mark.parametrize(
    ("written", "banned", "forbidden"),
    [
        ([], "cat", {" cat", "cat "}),
        ([" red"], "CAT", {" cat"}),
        ([" c"], "cat", {" cat", "at"}),
        ([" ca"], "cat", {" cat", "t"}),
        ([" c", "at"], "cat", {" cat"}),
        ([" bat"], "at", set()),
        ([" red"], "red car", {" car"}),
        ([], "red car", set()),
        ([" red", " cat"], "red  car", set()),
        ([" bat", "!"], "cat", {" cat", "cat "}),
    ],
)
def test_tokens_that_complete_the_word_are_forbidden(
    written: list[str], banned: str, forbidden: set[str]
) -> None:
    assert WORDS.forbidden(written, banned) == forbidden


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_banned_words_are_not_written(
    trained: PrefixGPT2Decoder, corpus: list[str], embed: object, strategy: str
) -> None:
    rows: Tensor = embed(corpus)  # type: ignore[operator]
    options = DecodeOptions(strategy=strategy, max_tokens=12)  # type: ignore[arg-type]
    free = " ".join(one.text for one in trained.generate(rows, options))
    assert "cat" in free.split()
    assert "red bus" in free
    bans = replace(options, banned_words=("Cat", "red bus"))
    for one in trained.generate(rows, bans):
        assert "cat" not in one.text.split()
        assert "red bus" not in one.text
        assert one.text


def test_no_ngram_is_written_twice() -> None:
    """Against a plain loop over all earlier n-grams."""
    generator = torch.Generator().manual_seed(5)
    written = torch.randint(0, 4, (50, 9), generator=generator)
    for size in (1, 2, 3):
        options = DecodeOptions(no_repeat_ngram=size)
        constraints = constraints_of(Letters("a", "b"), options)
        logits = torch.zeros(50, 4)
        constraints.at(written).apply(logits)
        for row, tokens in enumerate(written.tolist()):
            earlier = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
            tail = tokens[len(tokens) - size + 1 :]
            for token in range(4):
                banned = token == 1 or (*tail, token) in earlier
                assert (logits[row, token] == -torch.inf) == banned
