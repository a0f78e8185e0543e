"""Banned words: whatever tokens they are cut into, at any place, in any case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from tests.support.letters import Letters, constraints_of

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
