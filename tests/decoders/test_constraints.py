"""Banned words: whatever tokens they are cut into, at any place, in any case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.constraints import Constraints, _ban_repeats


class Letters:
    """A vocabulary whose tokens are given texts; 0 ends, 1 is unwritable."""

    def __init__(self, *texts: str) -> None:
        self.texts = ["", "", *texts]
        self.end_id, self.unwritable_ids = 0, (1,)

    def token_texts(self) -> list[str]:
        return self.texts

    def decode(self, token_ids: object) -> str:
        raise NotImplementedError

    def forbidden(self, written: list[str], *banned: str) -> set[str]:
        """Texts of the tokens that may not follow."""
        constraints = Constraints(self, DecodeOptions(banned_words=banned), torch.device("cpu"))
        logits = torch.zeros(1, len(self.texts))
        ids = torch.tensor([[self.texts.index(text) for text in written]], dtype=torch.int64)
        constraints.apply(logits, ids)
        assert logits[0, 1] == -torch.inf
        assert logits[0, 0] == 0, "the end is never a banned word"
        return {self.texts[i] for i in (logits[0] == -torch.inf).nonzero().flatten().tolist()} - {
            ""
        }


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
        logits = torch.zeros(50, 4)
        _ban_repeats(logits, written, size)
        for row, tokens in enumerate(written.tolist()):
            earlier = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
            tail = tokens[len(tokens) - size + 1 :]
            for token in range(4):
                assert (logits[row, token] == -torch.inf) == ((*tail, token) in earlier)
