"""Decoders that draw on a memory: nearest sentences, their scores, the concepts of captions; folders, bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from decoders import Decoded, DecodeOptions, load_decoder
from decoders.retrieval import (
    ConceptPrompter,
    MeacapDecoder,
    RetrievalDecoder,
    find_concepts,
    likeness,
)
from decoders.scene_graph import Entity, Graph, T5Parser, parse_all
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from tests.decoders.conftest import DIM as WIDTH
from tests.decoders.conftest import THINGS, embed_words
from tests.support.language import language_config, language_tokenizer, spread

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


# MeaCap: concepts of retrieved captions as prompts, batches, its folder.

SHAPE: dict[str, Any] = {"prompt_tokens": 3, "project_tokens": 2, "mapping_layers": 1}
SHORT = DecodeOptions(max_tokens=10)
CAPTIONS = [
    f"a {colour} {thing} {place}"
    for thing in THINGS
    for colour in ("red", "red", "red", "blue")
    for place in ("", "near a chair", "on a street")
]


def caption_vectors() -> Tensor:
    """Captions of one thing lie together, told apart a little by a fixed noise."""
    noise = torch.randn(len(CAPTIONS), WIDTH, generator=torch.Generator().manual_seed(3))
    return embed_words([text.split()[2] for text in CAPTIONS]) + 0.05 * noise


def captioned() -> MemoryBank:
    return MemoryBank(caption_vectors(), CAPTIONS)


def things() -> Tensor:
    return embed_words([*THINGS, "cat dog", "bus kite"])


class Counting:
    """The rule parser, noting what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[Graph]:
        self.asked.append(list(texts))
        return parse_all(texts)


def make(prompter: ConceptPrompter | None = None, **settings: Any) -> MeacapDecoder:
    values = {**SHAPE, **settings}
    decoder = MeacapDecoder.create(
        WIDTH, language_config(), language_tokenizer(), prompter=prompter, **values
    )
    spread(decoder.network, 6.0)
    return decoder


def test_a_memory_smaller_than_the_captions_asked_for() -> None:
    small = MemoryBank(torch.ones(1, 2), ["a red bus on a street"])
    prompts = ConceptPrompter().prompts(torch.ones(2, 2), small)
    assert prompts == ["There are bus, street in image."] * 2
    empty = MemoryBank(torch.ones(1, 2), ["!"])
    assert ConceptPrompter().prompts(torch.ones(1, 2), empty) == ["There are something in image."]


def test_memories_are_lent_and_checked_and_settings_are_saved(tmp_path: Path) -> None:
    decoder = make(ConceptPrompter(captions=7, most=2), prompts="hard")
    first, other = (
        [one.token_ids for one in decoder.generate(things(), SHORT, lent)]
        for lent in (captioned(), MemoryBank(caption_vectors(), CAPTIONS[::-1]))
    )
    assert first != other
    decoder.save(tmp_path, storage="fp32")
    again = load_decoder(tmp_path)
    assert isinstance(again, MeacapDecoder) and again.needs_memory
    assert (again.prompter.limits["captions"], again.prompter.limits["most"]) == (7, 2)
    assert [one.token_ids for one in again.generate(things(), SHORT, captioned())] == first
    assert not make(prompts="soft").needs_memory
    narrow, mute = MemoryBank(torch.ones(1, 3), ["a"]), MemoryBank(caption_vectors())
    for lent, message in ((None, "memory"), (narrow, "3 wide"), (mute, "with texts")):
        with pytest.raises(DecoderError, match=message):
            decoder.generate(things(), SHORT, lent)


def test_a_parser_that_is_a_network_is_kept_by_name(tmp_path: Path) -> None:
    parser = T5Parser("somewhere/parser")
    parser.write = lambda texts: [f"( {text.split()[2]} , is , red )" for text in texts]  # type: ignore[method-assign]
    make(ConceptPrompter(parser)).save(tmp_path)
    again = load_decoder(tmp_path)
    assert isinstance(again, MeacapDecoder)
    kept = again.prompter.parser
    assert isinstance(kept, T5Parser) and kept.model == "somewhere/parser"


def test_what_cannot_be_saved_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Counting"):
        make(ConceptPrompter(Counting())).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"caption": 5}}, "caption"),
        ({"options": {"captions": 0}}, "captions"),
        ({"options": {"min_attribute": 1.5}}, "min_attribute"),
        ({"options": {"merge_above": 2.0}}, "merge_above"),
        ({"parser": {"type": "rule"}}, "rules, t5"),
        ({"similarity": {"type": "words"}, "own_memory": True}, "own_memory"),
        ({"extra": 1}, "extra"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make().save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["concepts"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_decoder(tmp_path)


# Concepts of captions: merging, counting, filtering, order; and how alike names are.


def graphs(*names: str) -> list[Graph]:
    """One graph a caption: "red bus, man" -> a bus with the attribute red, a man."""
    made = []
    for caption in names:
        parts = [part.split() for part in caption.split(",") if part.strip()]
        made.append(tuple(Entity(part[-1], tuple(part[:-1])) for part in parts))
    return made


def found(*names: str, **settings: Any) -> list[str]:
    texts = [caption.replace(",", "") for caption in names]
    return find_concepts(texts, graphs(*names), **settings)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        # What three captions name is kept, in the order of the mean place, at most four,
        (("bus, man", "bus, dog", "man, bus", "cat", "tree"), ["bus"]),
        (("bus, man", "bus, man", "man, bus", "cat", "tree"), ["bus", "man"]),
        (("a, b, c, d, e, f",) * 3, ["a", "b", "c", "d"]),
        (("x, y", "y, x", "y, x"), ["y", "x"]),
        # alike names under the most frequent one;
        (("man", "guy", "guy"), ["guy"]),
        # else fewer votes, then the nearest caption, then nothing.
        (("bus, man", "bus, dog", "cat", "tree", "kite"), ["bus"]),
        (("bus, man", "dog", "cat"), ["bus", "man"]),
        (("", "dog", "cat"), ["dog"]),
        (("", ""), []),
        ((), []),
    ],
)
def test_concepts_are_voted_for(names: tuple[str, ...], wanted: list[str]) -> None:
    assert found(*names) == wanted
    assert found(*names, most=2) == wanted[:2]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("dogs", "dog", 1.0),
        ("hot dog", "dog", 0.8),
        ("puppy", "dog", 0.7),
        ("tennis ball", "ball", 0.8),
        ("tennis ball", "tennis racket", 0.0),
        ("", "dog", 0.0),
    ],
)
def test_names_are_alike_by_their_words(one: str, other: str, expected: float) -> None:
    assert likeness(one, other) == likeness(other, one) == expected


def test_each_text_is_parsed_once_and_a_full_memory_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = Counting()
    prompter = ConceptPrompter(parser, captions=1)
    expected = prompter.prompts(things(), captioned())
    assert prompter.prompts(things(), captioned()) == expected and len(parser.asked) == 1
    monkeypatch.setattr("decoders.retrieval._MOST_GRAPHS", 2)
    assert [prompter.prompts(row[None], captioned())[0] for row in things()] == expected
    assert len(parser.asked) > 1
