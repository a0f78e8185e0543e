"""The retrieval decoder: nearest sentence, its score, options, folder, bad input."""

from __future__ import annotations

import json
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
from decoders.meacap import CaptionMemory
from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, DecoderError, OptionError

Ask: TypeAlias = Callable[..., list[Decoded]]
DIM = 6
TEXTS = [f"sentence number {i} of a memory" for i in range(60)]


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return torch.randn(60, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(20, DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=["bank", "captions"])
def ask(request: pytest.FixtureRequest, vectors: Tensor) -> Ask:
    memory = (MemoryBank if request.param == "bank" else CaptionMemory)(vectors, TEXTS)
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


def test_sampling_draws_among_the_nearest(ask: Ask, vectors: Tensor, rows: Tensor) -> None:
    options = DecodeOptions(strategy="sample", temperature=50.0)
    drawn = [
        [one.token_ids[0] for one in ask(rows, replace(options, seed=seed))] for seed in range(12)
    ]
    near = cosines(vectors, rows).topk(8, dim=1).indices.tolist()
    assert all(row in near[i] for draw in drawn for i, row in enumerate(draw))
    assert len({tuple(draw) for draw in drawn}) == 12, "the seed changes nothing"
    greedy = [one.token_ids for one in ask(rows)]
    sharp = ask(rows, DecodeOptions(strategy="sample", temperature=1e-6))
    narrow = ask(rows, replace(options, top_p=1e-9))
    assert [one.token_ids for one in sharp] == [one.token_ids for one in narrow] == greedy


def test_banned_words_pass_over_to_the_next_sentence(
    ask: Ask, vectors: Tensor, rows: Tensor
) -> None:
    order = cosines(vectors, rows).argsort(dim=1, descending=True).tolist()
    banned = DecodeOptions(banned_words=tuple(f"number {i[0]}" for i in order))
    forbidden = {i[0] for i in order}
    for near, caption in zip(order, ask(rows, banned), strict=True):
        assert caption.token_ids[0] == next(i for i in near if i not in forbidden)


def test_words_are_banned_whole_and_in_any_case() -> None:
    decoder = RetrievalDecoder(2)
    memory = CaptionMemory(torch.tensor([[1.0, 0.0], [1, 0.1]]), ["A  Hot\tDog", "a hot doggy"])
    row = torch.tensor([[1.0, 0.0]])
    assert (
        decoder.generate(row, DecodeOptions(banned_words=("hot dog",)), memory)[0].text
        == "a hot doggy"
    )
    with pytest.raises(DecoderError, match="none of the 2 sentences"):
        decoder.generate(row, DecodeOptions(banned_words=("HOT",)), memory)


def test_the_search_widens_until_a_sentence_will_do(vectors: Tensor, rows: Tensor) -> None:
    decoder = RetrievalDecoder(DIM, candidates=1)
    far = int(cosines(vectors, rows[:1])[0].argmin())
    texts = ["a much longer sentence than that"] * 60
    texts[far] = "short one"
    memory = MemoryBank(vectors, texts)
    assert decoder.generate(rows[:1], DecodeOptions(max_tokens=3), memory)[0].text == "short one"


def test_limits_count_words_of_whole_sentences() -> None:
    decoder = RetrievalDecoder(2)
    texts = ["one two three four", "one two three", "one one", "one"]
    memory = CaptionMemory(torch.tensor([[1, i / 10] for i in range(4)]), texts)
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


def test_a_config_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    config = {"type": "retrieval", "embedding_dim": 4, "candidate": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="candidate"):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, DIM), "zero"),
        (torch.full((1, DIM), math.nan), "not finite"),
        (torch.ones(2, DIM + 1), "shape"),
        (torch.ones(DIM), "shape"),
        (torch.ones(2, DIM, dtype=torch.int64), "float"),
    ],
)
def test_bad_embeddings(ask: Ask, bad: Tensor, message: str) -> None:
    with pytest.raises(DecoderError, match=message):
        ask(bad)


def test_two_memories_serve_one_decoder(vectors: Tensor, rows: Tensor) -> None:
    decoder = RetrievalDecoder(DIM)
    first, second = MemoryBank(vectors, TEXTS), MemoryBank(vectors.flip(0), TEXTS)
    said = decoder.generate(rows, memory=first)
    assert decoder.generate(rows, memory=second) != said == decoder.generate(rows, memory=first)


def test_bad_memories(vectors: Tensor) -> None:
    decoder = RetrievalDecoder(DIM)
    with pytest.raises(DecoderError, match="no texts"):
        decoder.generate(vectors, memory=MemoryBank(vectors))
    with pytest.raises(DecoderError, match="6 wide"):
        RetrievalDecoder(3).generate(vectors[:, :3], memory=MemoryBank(vectors, TEXTS))


@pytest.mark.parametrize(
    "settings", [{"candidates": 0}, {"temperature": 0.0}, {"temperature": math.nan}]
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        RetrievalDecoder(4, **settings)
