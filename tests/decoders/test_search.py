"""The loop against plain, slow, uncached twins; batches; limits; draws; bans; bad input."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from decoders import Decoded, DecodeOptions, PrefixGPT2Decoder
from decoders.head import Constraints
from decoders.search import Hypothesis, can_capture, draw, graph_search, greedy_search
from patchioner.base.errors import DecoderError, OptionError
from tests.support.letters import Letters, constraints_of

GREEDY = DecodeOptions(max_tokens=12)
BEAM = DecodeOptions(strategy="beam", beam_width=3, max_tokens=9)
SAMPLE = DecodeOptions(strategy="sample", max_tokens=12, temperature=1.5, top_p=0.9, seed=4)
ALL = [GREEDY, BEAM, replace(BEAM, length_penalty=1.0), SAMPLE]


def plain_log_probs(
    decoder: PrefixGPT2Decoder, row: Tensor, written: list[int], min_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """The network's own log-probabilities of the next token, and those with the bans applied."""
    tokens = torch.tensor([written], dtype=torch.int64)
    with torch.no_grad():
        own = decoder.network.logits(decoder.network(row[None], tokens))[0, -1].log_softmax(0)
    allowed = own.clone()
    allowed[list(decoder.unwritable_ids)] = -torch.inf
    if len(written) < min_tokens:
        allowed[decoder.tokenizer.end_id] = -torch.inf
    return own, allowed


def plain_greedy(
    decoder: PrefixGPT2Decoder, row: Tensor, options: DecodeOptions
) -> tuple[list[int], list[float]]:
    written: list[int] = []
    values: list[float] = []
    while len(written) < options.max_tokens:
        own, allowed = plain_log_probs(decoder, row, written, options.min_tokens)
        token = int(allowed.argmax())
        written.append(token)
        values.append(float(own[token]))
        if token == decoder.tokenizer.end_id:
            break
    return written, values


def plain_beam(decoder: PrefixGPT2Decoder, row: Tensor, options: DecodeOptions) -> list[int]:
    """Beam search over Python lists, one hypothesis at a time."""
    width, live, done = options.beam_width, [(0.0, list[int]())], list[tuple[float, list[int]]]()
    for step in range(options.max_tokens):
        found = []
        for total, written in live:
            _, allowed = plain_log_probs(decoder, row, written, options.min_tokens)
            found += [(total + float(v), [*written, t]) for t, v in enumerate(allowed)]
        found = sorted(found, key=lambda pair: -pair[0])[: 2 * width]
        for rank, (total, written) in enumerate(found):
            if written[-1] == decoder.tokenizer.end_id and rank < width and total > -torch.inf:
                done.append((total / (step + 1) ** options.length_penalty, written))
        live = [pair for pair in found if pair[1][-1] != decoder.tokenizer.end_id][:width]
        if len(done) >= width:
            break
    return max(done or live, key=lambda pair: pair[0])[1]


def same(left: list[Decoded], right: list[Decoded]) -> bool:
    return [(d.text, d.token_ids) for d in left] == [(d.text, d.token_ids) for d in right]


@pytest.mark.parametrize("options", [GREEDY, replace(GREEDY, min_tokens=6)])
def test_greedy_equals_the_uncached_twin(
    wild: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions
) -> None:
    decoded = wild.generate(rows, options)
    lengths = {len(one.token_ids) for one in decoded}
    assert len(lengths) > 2, "the toy decoder must end rows at different steps"
    for row, one in zip(rows, decoded, strict=True):
        tokens, values = plain_greedy(wild, row, options)
        assert list(one.token_ids) == tokens
        assert one.log_probs == pytest.approx(values, abs=1e-3)
        assert one.score == pytest.approx(sum(values) / len(values), abs=1e-3)
        assert one.text == wild.tokenizer.decode(tokens)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("minimum", [0, 4])
def test_beam_equals_the_plain_twin(
    wild: PrefixGPT2Decoder, rows: Tensor, penalty: float, minimum: int
) -> None:
    options = replace(BEAM, length_penalty=penalty, min_tokens=minimum)
    for row, one in zip(rows[:8], wild.generate(rows[:8], options), strict=True):
        assert list(one.token_ids) == plain_beam(wild, row, options)
        own = [
            float(plain_log_probs(wild, row, list(one.token_ids[:i]))[0][token])
            for i, token in enumerate(one.token_ids)
        ]
        assert one.log_probs == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_beam_of_width_one_equals_greedy(
    wild: PrefixGPT2Decoder, rows: Tensor, penalty: float
) -> None:
    beam = DecodeOptions(strategy="beam", beam_width=1, max_tokens=12, length_penalty=penalty)
    assert same(wild.generate(rows, beam), wild.generate(rows, GREEDY))


@pytest.mark.parametrize("options", ALL)
def test_a_caption_does_not_depend_on_its_batch(
    wild: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions
) -> None:
    together = wild.generate(rows, options)
    alone = [wild.generate(row[None], options)[0] for row in rows]
    backwards = wild.generate(rows.flip(0), options)[::-1]
    one_at_a_time = wild.generate(rows, replace(options, batch_memory_mb=1e-6))
    assert same(together, alone)
    assert same(together, backwards)
    assert same(together, one_at_a_time)


@pytest.mark.parametrize("options", ALL)
def test_equal_embeddings_get_equal_captions_and_one_pass(
    wild: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    start = wild.network.start

    def counting(part: Tensor, most: int) -> object:
        seen.append(len(part))
        return start(part, most)

    monkeypatch.setattr(wild.network, "start", counting)
    decoded = wild.generate(torch.cat([rows[:3], rows[:3]]), options)
    assert seen == [3]
    assert decoded[:3] == decoded[3:]


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize("limits", [(0, 1), (5, 9), (9, 9)])
def test_length_limits_hold(
    wild: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions, limits: tuple[int, int]
) -> None:
    low, high = limits
    for one in wild.generate(rows, replace(options, min_tokens=low, max_tokens=high)):
        words = [token for token in one.token_ids if token != wild.tokenizer.end_id]
        assert low <= len(words) <= len(one.token_ids) <= high
        assert wild.tokenizer.end_id not in one.token_ids[:-1]
        assert one.token_ids[-1] == wild.tokenizer.end_id or len(one.token_ids) == high
        assert len(one.log_probs) == len(one.token_ids)


def test_cold_or_narrow_sampling_equals_greedy(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    greedy = wild.generate(rows, GREEDY)
    assert same(wild.generate(rows, replace(SAMPLE, temperature=1e-4)), greedy)
    assert same(wild.generate(rows, replace(SAMPLE, temperature=1.0, top_p=1e-6)), greedy)


def test_more_tokens_than_positions_is_refused(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    with pytest.raises(DecoderError, match="21.*20"):
        wild.generate(rows, DecodeOptions(max_tokens=21))


def test_bad_embeddings_are_refused(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    assert wild.generate(torch.empty(0, wild.embedding_dim)) == []
    broken = rows.clone()
    broken[7, 3] = torch.nan
    for bad, message in (
        (broken, "row 7"),
        (torch.zeros(12), "shape"),
        (torch.zeros(2, 5), "shape"),
        (torch.zeros(2, 12, dtype=torch.int64), "int64"),
    ):
        with pytest.raises(DecoderError, match=message):
            wild.generate(bad)


def test_decoding_touches_neither_input_nor_global_random_state(
    wild: PrefixGPT2Decoder, rows: Tensor
) -> None:
    before, state = rows.clone(), torch.get_rng_state()
    for options in ALL:
        wild.generate(rows, options)
    assert torch.equal(rows, before)
    assert torch.equal(torch.get_rng_state(), state)


LOGITS = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()


def frequencies(top_p: float, count: int = 4000) -> list[float]:
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(LOGITS.expand(count, 4), uniforms, top_p)
    return (torch.bincount(tokens, minlength=4) / count).tolist()


def test_the_nucleus_is_the_smallest_set_renormalised() -> None:
    np.testing.assert_allclose(frequencies(1.0), [0.1, 0.5, 0.15, 0.25], atol=1e-3)
    np.testing.assert_allclose(frequencies(0.7), [0, 2 / 3, 0, 1 / 3], atol=1e-3)
    np.testing.assert_allclose(frequencies(0.4), [0, 1, 0, 0])
    # Extreme uniforms stay inside.
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, -torch.inf, 0.0]])
    uniforms = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    assert set(draw(logits, uniforms, 1.0).tolist()) <= {0, 2}


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
        ([], "cat" * 40_000, set()),
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


# Options that make no sense are refused by name.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "bean"),
        ("max_tokens", 0),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("min_tokens", 31),
        ("beam_width", 0),
        ("seed", -1),
        ("seed", 2**128),
        ("length_penalty", -0.5),
        ("length_penalty", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("batch_memory_mb", 0),
        ("banned_words", ["cat"]),
        ("banned_words", ("cat", " ")),
        ("banned_words", "cat"),
    ],
)
def test_bad_decode_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        DecodeOptions(**{name: value})  # type: ignore[arg-type]


# Steps of fixed shape give the tokens of the ordinary search: buckets, padding, late looks, reuse.

STEADY, CPU = DecodeOptions(max_tokens=19), torch.device("cpu")


@torch.inference_mode()
def both(
    decoder: PrefixGPT2Decoder, rows: Tensor, options: DecodeOptions
) -> tuple[list[Hypothesis], list[Hypothesis]]:
    given = rows, Constraints(decoder, options, CPU)
    return graph_search(decoder.network, *given), greedy_search(decoder.network, *given)


@pytest.mark.parametrize("count", [1, 3, 24])
@pytest.mark.parametrize(
    "options",
    [STEADY, replace(STEADY, no_repeat_ngram=2, min_tokens=6), replace(STEADY, max_tokens=1)],
)
def test_it_equals_the_ordinary_search(
    wild: PrefixGPT2Decoder, rows: Tensor, count: int, options: DecodeOptions
) -> None:
    steady, ordinary = both(wild, rows[:count], options)
    assert [one.token_ids for one in steady] == [one.token_ids for one in ordinary]
    for left, right in zip(steady, ordinary, strict=True):
        assert left.log_probs == pytest.approx(right.log_probs, abs=1e-3)


def test_steps_are_reused_and_forget_what_they_read(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    first = both(wild, rows[:8], STEADY)[0]
    other = both(wild, rows[8:16], STEADY)[0]
    again, ordinary = both(wild, rows[:8], STEADY)
    assert first == again
    assert [one.token_ids for one in other] != [one.token_ids for one in again]
    assert [one.token_ids for one in again] == [one.token_ids for one in ordinary]


def test_moved_weights_get_new_steps(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    twin = copy.deepcopy(wild)
    both(twin, rows[:4], STEADY)
    with torch.no_grad():
        weight = twin.network.transformer.wte.weight
        weight.data = weight.flip(1).contiguous()
    steady, ordinary = both(twin, rows[:4], STEADY)
    assert [one.token_ids for one in steady] == [one.token_ids for one in ordinary]


def test_banned_words_are_left_to_the_ordinary_search(wild: PrefixGPT2Decoder) -> None:
    assert can_capture(wild.network, Constraints(wild, STEADY, CPU))
    banned = Constraints(wild, replace(STEADY, banned_words=("cat",)), CPU)
    assert not can_capture(wild.network, banned)
