"""The retrieval decoder: nearest sentence, its score, options, folder, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from decoders import Decoded, DecodeOptions, load_decoder
from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner.base.errors import DecoderError, OptionError

Ask: TypeAlias = Callable[..., list[Decoded]]
DIM = 6
TEXTS = [f"sentence number {i} of a memory" for i in range(60)]


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return torch.randn(60, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(20, DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def ask(vectors: Tensor) -> Ask:
    memory = MemoryBank(vectors, TEXTS)
    return partial(RetrievalDecoder(DIM, candidates=8).generate, memory=memory)


def cosines(vectors: Tensor, rows: Tensor) -> Tensor:
    units = torch.nn.functional.normalize
    return units(rows, dim=1) @ units(vectors, dim=1).T


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_the_nearest_sentence_with_its_probability(
    ask: Ask, vectors: Tensor, rows: Tensor, strategy: str
) -> None:
    options = DecodeOptions(strategy=strategy)  # type: ignore[arg-type]
    for row, caption in zip(rows, ask(rows, options), strict=True):
        alike = cosines(vectors, row[None])[0].double()
        best = int(alike.argmax())
        assert caption.text == TEXTS[best] and caption.token_ids == (best,)
        wanted = (alike.topk(8).values / 0.01).log_softmax(dim=0)[0]
        assert caption.score == pytest.approx(float(wanted), abs=1e-3)
        assert caption.score <= 0


@pytest.mark.parametrize("strategy", ["greedy", "sample"])
def test_a_row_does_not_depend_on_the_batch(ask: Ask, rows: Tensor, strategy: str) -> None:
    options = DecodeOptions(strategy=strategy, temperature=20.0)  # type: ignore[arg-type]
    together = [one.text for one in ask(rows, options)]
    alone = [ask(row[None], options)[0].text for row in rows]
    assert together == alone
    assert [one.text for one in ask(rows.flip(0), options)] == together[::-1]


def test_banned_words_pass_over_to_the_next_sentence(
    ask: Ask, vectors: Tensor, rows: Tensor
) -> None:
    order = cosines(vectors, rows).argsort(dim=1, descending=True).tolist()
    banned = DecodeOptions(banned_words=tuple(f"number {i[0]}" for i in order))
    forbidden = {i[0] for i in order}
    for near, caption in zip(order, ask(rows, banned), strict=True):
        assert caption.token_ids[0] == next(i for i in near if i not in forbidden)


def test_limits_count_words_of_whole_sentences() -> None:
    decoder = RetrievalDecoder(2)
    texts = ["one two three four", "one two three", "one one", "one"]
    memory = MemoryBank(torch.tensor([[1, i / 10] for i in range(4)]), texts)
    row = torch.tensor([[1.0, 0.0]])

    def said(**settings: Any) -> str:
        return decoder.generate(row, DecodeOptions(**settings), memory)[0].text

    assert said() == "one two three four"
    assert said(max_tokens=3) == "one two three"
    assert said(max_tokens=2) == "one one"
    assert said(max_tokens=2, no_repeat_ngram=1) == "one"
    assert said(max_tokens=3, min_tokens=3) == "one two three"


def test_the_folder_has_no_weights(rows: Tensor, tmp_path: Path) -> None:
    RetrievalDecoder(DIM, candidates=8).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    again = load_decoder(tmp_path)
    assert isinstance(again, RetrievalDecoder)
    assert (again.embedding_dim, again.candidates, again.temperature) == (DIM, 8, 0.01)
    assert again.needs_memory and str(again.device) == "cpu"
    with pytest.raises(DecoderError, match="memory"):
        again.generate(rows)


def test_sampling_draws_among_the_nearest(ask: Ask, vectors: Tensor, rows: Tensor) -> None:
    options = DecodeOptions(strategy="sample", temperature=50.0)
    drawn = [[one.token_ids[0] for one in ask(rows, replace(options, seed=s))] for s in (0, 1)]
    near = cosines(vectors, rows).topk(8, dim=1).indices.tolist()
    assert all(row in near[i] for draw in drawn for i, row in enumerate(draw))
    assert drawn[0] != drawn[1]
    sharp = ask(rows, replace(options, temperature=1e-6))
    assert [one.token_ids for one in sharp] == [one.token_ids for one in ask(rows)]


def test_bad_memories_and_settings(vectors: Tensor) -> None:
    for dim, bank in ((DIM, MemoryBank(vectors)), (3, MemoryBank(vectors, TEXTS))):
        with pytest.raises(DecoderError, match="with texts" if dim == DIM else "6 wide"):
            RetrievalDecoder(dim).generate(vectors[:, :dim], memory=bank)
    for name, value in (("candidates", 0), ("temperature", 0.0), ("temperature", math.nan)):
        with pytest.raises(OptionError, match=name):
            RetrievalDecoder(4, **{name: value})  # type: ignore[arg-type]
