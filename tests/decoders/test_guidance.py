"""Guided decoding against plain code that scores one prefix at a time."""

import math
import pickle
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.guidance import PLAUSIBLE, REPEATED, Guide, GuidedNetwork, Words
from patchioner.base.errors import DecoderError
from tests.decoders.conftest import token_ids
from tests.support.tiny import tiny_decoder

# Pieces that the tiny tokenizer has whole; copied as another process would get them.
WORDS = pickle.loads(pickle.dumps(Words(["snow", "fen", "gre", "unicorn"])))
OPTIONS = DecodeOptions(max_tokens=9)


def guided(rows: int = 6, contrast: float = 0.7) -> tuple[PrefixGPT2Decoder, Tensor, Guide]:
    decoder = tiny_decoder(seed=3)
    draw = torch.Generator().manual_seed(1)
    embeddings, around = torch.randn(2, rows, decoder.embedding_dim, generator=draw)
    around[1::2] = around[0]  # regions of one photo, whose surroundings are read once
    evidence = 3 * torch.randn(rows, 4, generator=draw)
    return decoder, embeddings, Guide(around, WORDS, evidence, contrast)


def log_probs(decoder: PrefixGPT2Decoder, embedding: Tensor, tokens: list[int]) -> Tensor:
    """Of the token after a prefix, read anew."""
    network = decoder.network
    states, cache = network.start(embedding[None], 30)
    for token in tokens:
        states = network.step(torch.tensor([token]), cache)
    return network.logits(states)[0].log_softmax(dim=0)


@torch.inference_mode()
def naive(
    decoder: PrefixGPT2Decoder, embedding: Tensor, around: Tensor, evidence: Tensor, contrast: float
) -> tuple[list[int], list[float]]:
    texts, words = decoder.tokenizer.token_texts(), list(enumerate(WORDS.words))
    forms = {f" {word}{end}": place for place, word in words for end in ("", "s", "es")}
    tokens, found = list[int](), list[float]()
    while len(tokens) < OPTIONS.max_tokens and not set(tokens) & set(decoder.tokenizer.end_ids):
        near, far = (log_probs(decoder, side, tokens) for side in (embedding, around))
        scores = near + contrast * (near - far)
        said = {forms.get(texts[token]) for token in tokens}
        for token, text in enumerate(texts):
            if text in forms:
                place = forms[text]
                scores[token] += REPEATED if place in said else float(evidence[place])
        scores[near < near.max() + math.log(PLAUSIBLE)] = -math.inf
        scores[list(decoder.tokenizer.unwritable_ids)] = -math.inf
        tokens.append(int(scores.argmax()))
        found.append(float(scores.max()))
    return tokens, found


@torch.inference_mode()
def test_tokens_and_scores_are_those_of_plain_code() -> None:
    decoder, embeddings, guide = guided()
    fast = decoder.generate(embeddings, OPTIONS, guide=guide)
    for row, one in enumerate(fast):
        sides = embeddings[row], guide.around[row], guide.evidence[row]
        tokens, scores = naive(decoder, *sides, guide.contrast)
        assert list(one.token_ids) == tokens
        assert one.log_probs == pytest.approx(scores, abs=1e-4)
    assert token_ids(fast) != token_ids(decoder.generate(embeddings, OPTIONS))


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, strategy="beam", beam_width=3, batch_memory_mb=0.01)])
def test_rows_do_not_depend_on_one_another(options: DecodeOptions) -> None:
    decoder, embeddings, guide = guided()

    def written(rows: list[int], evidence: list[int]) -> list[tuple[int, ...]]:
        own = replace(guide, around=guide.around[rows], evidence=guide.evidence[evidence])
        return token_ids(decoder.generate(embeddings[rows], options, guide=own))

    together = written([*range(6)], [*range(6)])
    assert together == [written([row], [row])[0] for row in range(6)]
    # Equal embeddings with other evidence are other rows.
    assert written([0, 0], [0, 1]) == [together[0], written([0], [1])[0]]


@torch.inference_mode()
def test_a_neutral_word_is_worth_what_it_stands_in_for() -> None:
    decoder, embeddings, guide = guided(contrast=0.0)
    texts = [*decoder.tokenizer.token_texts()[:-5], " person", " man", " woman", " group", " six"]
    vocabulary = Mock(token_texts=Mock(return_value=texts))
    bare = replace(guide, evidence=torch.zeros_like(guide.evidence), neutral=True, several=1.5)
    network = GuidedNetwork(decoder.network, vocabulary, bare)
    rows = torch.cat([embeddings, bare.around, bare.evidence], dim=1)
    found, _ = network.start(rows, 9)
    probable = torch.stack([log_probs(decoder, row, []) for row in embeddings])
    person, man, woman, group, six = range(len(texts) - 5, len(texts))
    probable[:, group] -= 1.5
    probable[:, six] = -torch.inf
    probable = probable.log_softmax(dim=1)
    together = probable[:, [person, man, woman]].logsumexp(dim=1)
    possible = together > probable.max(dim=1).values + math.log(PLAUSIBLE)
    assert possible.any()
    torch.testing.assert_close(found[possible, person], together[possible], atol=1e-4, rtol=0)
    assert (found[:, [man, woman, six]] < -1e3).all()


def test_words_are_found_in_texts_and_tokens() -> None:
    assert WORDS.in_text("two Fens and gres, a fen in the snow") == [1, 1, 0]
    decoder = tiny_decoder()
    tokens, places = WORDS.tokens(decoder.tokenizer)
    texts = decoder.tokenizer.token_texts()
    expected = [(texts.index(f" {word}"), WORDS.words.index(word)) for word in WORDS.words[:3]]
    assert sorted(zip(tokens.tolist(), places.tolist(), strict=True)) == sorted(expected)


def test_guides_of_other_rows_or_widths_are_refused() -> None:
    decoder, embeddings, guide = guided()
    around, evidence = guide.around, guide.evidence
    for wrong in (
        replace(guide, around=around[:2]),
        replace(guide, around=around[:, :8]),
        replace(guide, evidence=evidence[:, :2]),
        replace(guide, evidence=evidence * math.nan),
    ):
        with pytest.raises(DecoderError):
            decoder.generate(embeddings, OPTIONS, guide=wrong)
