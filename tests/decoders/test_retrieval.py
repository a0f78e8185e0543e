"""Decoders that draw on a memory: nearest sentences, their scores, the concepts of captions; folders."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from decoders import Decoded, DecodeOptions, load_decoder
from decoders.retrieval import ConceptPrompter, RetrievalDecoder, T5Parser, find_concepts, likeness
from decoders.scene_graph import Entity, parse_all
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, DecoderError
from tests.decoders.conftest import DIM as WIDTH
from tests.decoders.conftest import THINGS, embed_words, on_language_model, token_ids
from tests.support import MonkeyPatch, randn
from tests.support.language import spread

DIM = 6
TEXTS = [f"sentence number {i} of a memory" for i in range(60)]
VECTORS, ROWS = randn(60, DIM, seed=1), randn(20, DIM, seed=2)
COSINES = torch.nn.functional.normalize(ROWS) @ torch.nn.functional.normalize(VECTORS).T


def ask(rows: Tensor = ROWS, **options: Any) -> list[Decoded]:
    memory = MemoryBank(VECTORS, TEXTS)
    return RetrievalDecoder(DIM).generate(rows, DecodeOptions(**options), memory)


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_the_nearest_sentence_with_its_probability(strategy: str) -> None:
    for alike, caption in zip(COSINES.double(), ask(strategy=strategy), strict=True):
        best = int(alike.argmax())
        assert caption.text == TEXTS[best] and caption.token_ids == (best,)
        wanted = (alike.topk(32).values / 0.01).log_softmax(dim=0)[0]
        assert caption.score == pytest.approx(float(wanted), abs=1e-3)


def test_sampling_draws_among_the_nearest_whatever_the_batch() -> None:
    how: dict[str, Any] = {"strategy": "sample", "temperature": 50.0}
    drawn = token_ids(ask(**how))
    assert drawn != token_ids(ask(**how, seed=1))
    near = COSINES.topk(32, dim=1).indices.tolist()
    assert all(token in near[row] for row, (token,) in enumerate(drawn))
    assert [ask(row[None], **how)[0].token_ids for row in ROWS] == drawn
    assert token_ids(ask(ROWS.flip(0), **how)) == drawn[::-1]
    assert token_ids(ask(strategy="sample", temperature=1e-6)) == token_ids(ask())


def test_banned_words_pass_over_to_the_next_sentence() -> None:
    order = COSINES.argsort(dim=1, descending=True).tolist()
    forbidden = {near[0] for near in order}
    captions = ask(banned_words=tuple(f"number {i}" for i in sorted(forbidden)))
    for near, caption in zip(order, captions, strict=True):
        assert caption.token_ids[0] == next(i for i in near if i not in forbidden)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "one two three four"), ({"max_tokens": 3}, "one one"), ({"max_tokens": 1}, "one"),
        ({"max_tokens": 2, "no_repeat_ngram": 1}, "one"),
        ({"max_tokens": 3, "min_tokens": 3}, "one two three"),
    ],
)  # fmt: skip
def test_limits_count_words_of_whole_sentences(options: dict[str, Any], said: str) -> None:
    texts = ["one two three four", "one one", "one two three", "one"]
    memory = MemoryBank(torch.tensor([[1, i / 10] for i in range(4)]), texts)
    row = torch.tensor([[1.0, 0.0]])
    assert RetrievalDecoder(2).generate(row, DecodeOptions(**options), memory)[0].text == said


def test_the_folder_has_no_weights(tmp_path: Path) -> None:
    RetrievalDecoder(DIM).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    again: Any = load_decoder(tmp_path)
    assert again.embedding_dim == DIM and again.needs_memory and str(again.device) == "cpu"


def test_bad_memories() -> None:
    full = MemoryBank(VECTORS, TEXTS)
    for dim, bank, message in (
        (DIM, None, "memory"), (DIM, MemoryBank(VECTORS), "with texts"), (3, full, "6 wide"),
    ):  # fmt: skip
        with pytest.raises(DecoderError, match=message):
            RetrievalDecoder(dim).generate(VECTORS[:, :dim], memory=bank)


SHORT = DecodeOptions(max_tokens=10)
PLACES = ("", "near a chair", "on a street")
SAID = [(thing, colour) for thing in THINGS for colour in ("red", "red", "red", "blue")]
CAPTIONS = [f"a {colour} {thing} {place}" for thing, colour in SAID for place in PLACES]
# Captions of one thing lie together, told apart a little by a fixed noise.
NOISE = 0.05 * randn(len(CAPTIONS), WIDTH, seed=3)
NEAR = embed_words([text.split()[2] for text in CAPTIONS]) + NOISE
CAPTIONED = MemoryBank(NEAR, CAPTIONS)
ASKED = embed_words([*THINGS, "cat dog", "bus kite"])


def make(prompter: ConceptPrompter | None = None, **settings: Any) -> Any:
    decoder = on_language_model("meacap", prompter=prompter, **settings)
    spread(decoder.network, 6.0)
    return decoder


def test_a_memory_smaller_than_the_captions_asked_for() -> None:
    for text, said in (("a red bus on a street", "bus, street"), ("!", "something")):
        small = MemoryBank(torch.ones(1, 2), [text])
        prompts = ConceptPrompter().prompts(torch.ones(2, 2), small)
        assert prompts == [f"There are {said} in image."] * 2


def test_memories_are_lent_and_settings_are_saved(tmp_path: Path) -> None:
    decoder = make(ConceptPrompter(captions=7), prompts="hard")
    first = token_ids(decoder.generate(ASKED, SHORT, CAPTIONED))
    assert first != token_ids(decoder.generate(ASKED, SHORT, MemoryBank(NEAR, CAPTIONS[::-1])))
    decoder.save(tmp_path, storage="fp32")
    again: Any = load_decoder(tmp_path)
    assert again.needs_memory and not make(prompts="soft").needs_memory
    assert again.prompter.captions == 7
    assert token_ids(again.generate(ASKED, SHORT, CAPTIONED)) == first


def test_a_parser_is_kept_by_name_and_a_foreign_one_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="foreign"):
        make(ConceptPrompter(Mock(name="foreign"))).save(tmp_path)
    assert not list(tmp_path.iterdir())
    make(ConceptPrompter(T5Parser("somewhere/parser"))).save(tmp_path)
    again: Any = load_decoder(tmp_path)
    assert isinstance(again.prompter.parser, T5Parser)
    assert again.prompter.parser.model == "somewhere/parser"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [  # what three captions name is kept, in the order of the mean place, at most four,
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
    graphs = [tuple(Entity(one.strip(), ()) for one in name.split(",") if one) for name in names]
    assert find_concepts([name.replace(",", "") for name in names], graphs) == wanted


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("dogs", "dog", 1.0), ("hot dog", "dog", 0.8), ("puppy", "dog", 0.7), ("big puppy", "dog", 0.0),
        ("", "dog", 0.0), ("tennis ball", "ball", 0.8), ("tennis ball", "tennis racket", 0.0),
    ],
)  # fmt: skip
def test_names_are_alike_by_their_words(one: str, other: str, expected: float) -> None:
    assert likeness(one, other) == likeness(other, one) == expected


def test_each_text_is_parsed_once_and_a_full_memory_begins_anew(monkeypatch: MonkeyPatch) -> None:
    parser = Mock(side_effect=parse_all)
    prompter = ConceptPrompter(parser, captions=1)
    expected = prompter.prompts(ASKED, CAPTIONED)
    assert prompter.prompts(ASKED, CAPTIONED) == expected and parser.call_count == 1
    monkeypatch.setattr("decoders.retrieval._MOST_GRAPHS", 2)
    assert [prompter.prompts(row[None], CAPTIONED)[0] for row in ASKED] == expected
    assert parser.call_count > 1
