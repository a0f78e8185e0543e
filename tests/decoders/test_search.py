"""From states to captions, against plain, slow, uncached twins; batches; draws; bans."""

import copy
from dataclasses import replace
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions
from decoders import PrefixGPT2Decoder as GPT2
from decoders.search import Constraints, StepBans, draw, top_tokens
from patchioner.base.weights import has_onednn
from tests.decoders.conftest import CORPUS, ROWS, embed_words, make_decoder, token_ids

CPU, GREEDY = torch.device("cpu"), DecodeOptions(max_tokens=12)
BEAM = DecodeOptions(strategy="beam", beam_width=3, max_tokens=9)
SAMPLE = DecodeOptions(strategy="sample", max_tokens=12, temperature=1.5, top_p=0.9, seed=4)


@torch.no_grad()
def plain_log_probs(decoder: GPT2, row: Tensor, written: list[int]) -> Tensor:
    tokens = torch.tensor([written], dtype=torch.int64)
    return decoder.network.logits(decoder.network(row[None], tokens))[0, -1].log_softmax(0)


def plain_beam(decoder: GPT2, row: Tensor, options: DecodeOptions) -> list[int]:
    """Beam search over Python lists, one hypothesis at a time; greedy is a beam of one."""
    width = options.beam_width if options.strategy == "beam" else 1
    live, done = [(0.0, list[int]())], list[tuple[float, list[int]]]()
    for step in range(options.max_tokens):
        found = []
        for total, written in live:
            allowed = plain_log_probs(decoder, row, written)
            allowed[list(decoder.tokenizer.unwritable_ids)] = -torch.inf
            if len(written) < options.min_tokens:
                allowed[decoder.tokenizer.end_id] = -torch.inf
            found += [(total + float(v), [*written, t]) for t, v in enumerate(allowed)]
        found = sorted(found, key=lambda pair: -pair[0])[: 2 * width]
        for rank, (total, written) in enumerate(found):
            if written[-1] == decoder.tokenizer.end_id and rank < width and total > -torch.inf:
                done.append((total / (step + 1) ** options.length_penalty, written))
        live = [pair for pair in found if pair[1][-1] != decoder.tokenizer.end_id][:width]
        if len(done) >= width:
            break
    return max(done or live, key=lambda pair: pair[0])[1]


PENALTY = replace(BEAM, length_penalty=1.0)


@pytest.mark.parametrize(
    "options", [GREEDY, BEAM, PENALTY, *(replace(o, min_tokens=4) for o in (GREEDY, BEAM, PENALTY))]
)
def test_captions_are_those_of_the_uncached_twin(wild: GPT2, options: DecodeOptions) -> None:
    rows = ROWS if options.strategy == "greedy" else ROWS[:8]
    captions = wild.generate(rows, options)
    if options == GREEDY:
        assert len(set(map(len, token_ids(captions)))) > 2, "rows must end at different steps"
    for row, one in zip(rows, captions, strict=True):
        tokens = plain_beam(wild, row, options)
        assert list(one.token_ids) == tokens and one.text == wild.tokenizer.decode(tokens)
        values = [float(plain_log_probs(wild, row, tokens[:i])[t]) for i, t in enumerate(tokens)]
        assert one.log_probs == pytest.approx(values, abs=1e-3)
        assert one.score == pytest.approx(sum(values) / len(values), abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        *(replace(BEAM, beam_width=1, max_tokens=12, length_penalty=p) for p in (0.0, 0.7, 2.0)),
        replace(SAMPLE, temperature=1e-4),
        replace(SAMPLE, temperature=1.0, top_p=1e-6),
    ],
)
def test_a_beam_of_one_and_narrow_sampling_are_greedy(wild: GPT2, options: DecodeOptions) -> None:
    assert token_ids(wild.generate(ROWS, options)) == token_ids(wild.generate(ROWS, GREEDY))


@pytest.mark.parametrize("memory", [512.0, 1e-6])
def test_many_draws_are_those_of_seeds_that_follow(wild: GPT2, memory: float) -> None:
    rows, options = ROWS[[0, 1, 0, 2]], replace(SAMPLE, batch_memory_mb=memory)
    each = [wild.generate(rows, replace(options, seed=4 + place)) for place in range(3)]
    drawn = wild.draw(rows, replace(options, strategy="greedy"), None, None, 3)
    assert list(map(token_ids, drawn)) == list(map(token_ids, zip(*each, strict=True)))
    assert len({one.text for one in drawn[0]}) == 3


@pytest.mark.parametrize("options", [GREEDY, BEAM, PENALTY, SAMPLE])
def test_no_row_minds_its_batch_and_equal_ones_are_read_once(wild: GPT2, options: Any) -> None:
    rows, random = ROWS[:12].clone(), torch.get_rng_state()
    together = token_ids(wild.generate(rows, options))
    assert together == [wild.generate(row[None], options)[0].token_ids for row in rows]
    assert together == token_ids(wild.generate(rows.flip(0), options))[::-1]
    assert together == token_ids(wild.generate(rows, replace(options, batch_memory_mb=1e-6)))
    assert torch.equal(rows, ROWS[:12]) and torch.equal(torch.get_rng_state(), random)
    with patch.object(wild.network, "start", side_effect=wild.network.start) as start:
        decoded = wild.generate(torch.cat([rows[:3], rows[:3]]), options)
    assert len(start.call_args.args[0]) == 3 and decoded[:3] == decoded[3:]


@pytest.mark.parametrize(
    ("top_p", "expected"), [(1.0, [0.1, 0.5, 0.15, 0.25]), (0.7, [0, 2 / 3, 0, 1 / 3]), (0.4, [0, 1, 0, 0])]
)
def test_the_nucleus_is_the_smallest_set_renormalised(top_p: float, expected: list[float]) -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().expand(4000, 4)
    uniforms = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = torch.bincount(draw(logits, uniforms, top_p), minlength=4) / 4000
    np.testing.assert_allclose(found, expected, atol=1e-3)
    extremes = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    holed = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(2, 3)
    assert set(draw(holed, extremes, top_p).tolist()) <= {0, 2}


TEXTS = ["", "", " cat", " c", "at", "t", " ca", " cats", " bat", " red", " car", "ch", "cat ", "!"]


def ban(logits: Tensor, written: Tensor, **options: Any) -> Tensor:
    """Logits before the next token of `TEXTS`, of which 0 ends and 1 is unwritable."""
    vocabulary = Mock(end_ids=(0,), unwritable_ids=(1,), token_texts=Mock(return_value=TEXTS))
    Constraints(vocabulary, DecodeOptions(**options), CPU).at(written).apply(logits)
    return logits == -torch.inf


@pytest.mark.parametrize(
    ("written", "banned", "forbidden"),
    [
        ([], "cat", {" cat", "cat "}), ([" red"], "CAT", {" cat"}), ([" c"], "cat", {" cat", "at"}),
        ([" ca"], "cat", {" cat", "t"}), ([" c", "at"], "cat", {" cat"}), ([" bat"], "at", set()),
        ([" red"], "red car", {" car"}), ([], "cat" * 40_000, set()), ([], "red car", set()),
        ([" red", " cat"], "red  car", set()), ([" bat", "!"], "cat", {" cat", "cat "}),
    ],
)  # fmt: skip
def test_tokens_that_complete_the_word(written: list[str], banned: str, forbidden: Any) -> None:
    tokens = torch.tensor([[TEXTS.index(text) for text in written]], dtype=torch.int64)
    found = ban(torch.zeros(1, len(TEXTS)), tokens, banned_words=(banned,))[0].tolist()
    assert found[:2] == [False, True]  # the end is never a banned word
    assert {text for text, is_banned in zip(TEXTS, found, strict=True) if is_banned and text} == forbidden


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_banned_words_are_not_written(trained: GPT2, strategy: Any) -> None:
    rows, options = embed_words(CORPUS), DecodeOptions(strategy, max_tokens=12)
    free = " ".join(one.text for one in trained.generate(rows, options))
    assert "cat" in free.split()
    assert "red bus" in free
    for one in trained.generate(rows, replace(options, banned_words=("Cat", "red bus"))):
        assert "cat" not in one.text.split()
        assert "red bus" not in one.text
        assert one.text


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_written_twice(size: int) -> None:
    written = torch.randint(0, 4, (50, 9), generator=torch.Generator().manual_seed(5))
    found = ban(torch.zeros(50, 4), written, no_repeat_ngram=size)
    for row, tokens in enumerate(written.tolist()):
        earlier = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
        tail = tokens[len(tokens) - size + 1 :]
        assert found[row].tolist() == [t == 1 or (*tail, t) in earlier for t in range(4)]


@pytest.mark.parametrize("count", [1, 6, 400])
@torch.no_grad()
def test_top_tokens_are_the_networks_own_and_not_banned(wild: GPT2, count: int) -> None:
    states = wild.network.start(ROWS, 2)[0]
    logits = wild.network.logits(states)
    best = logits.argmax(dim=1)
    repeats = best[:, None], (torch.arange(len(ROWS)) < 5)[:, None]
    bans = StepBans(torch.tensor([3, int(best[9])]), repeats, [(7, int(best[7]))])
    found = top_tokens(wild.network, states, bans, count)
    log_probs = logits.log_softmax(dim=1)
    log_probs[:, [3, int(best[9])]] = -torch.inf
    log_probs[range(5), best[:5]] = log_probs[7, best[7]] = -torch.inf
    expected = log_probs.topk(min(count, logits.shape[1]), dim=1)
    torch.testing.assert_close(found[0], expected.values)
    assert count > 6 or torch.equal(found[1], expected.indices)


def test_an_inference_copy_packs_its_output_matrix_and_copies_of_it_do_not(wild: GPT2) -> None:
    twin = wild.to("cpu")
    assert token_ids(twin.generate(ROWS, GREEDY)) == token_ids(wild.generate(ROWS, GREEDY))
    assert wild.network._table is None and copy.deepcopy(twin.network)._table is None
    large = make_decoder(width=256)
    assert (large.to("cpu").network._table is not None) == has_onednn()
    assert token_ids(large.to("cpu").generate(ROWS, GREEDY)) == token_ids(large.generate(ROWS, GREEDY))
