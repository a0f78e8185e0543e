"""A tiny corpus and tiny decoders: one random but decisive, one trained for seconds."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders import PrefixGPT2Decoder, TrainOptions, train_decoder

DIM = 12
COLOURS = ["red", "blue", "green", "yellow", "black"]
THINGS = ["cat", "dog", "bus", "car", "kite", "boat"]
PAIRS = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]


def quick(**values: Any) -> TrainOptions:
    """Options of a training that takes seconds."""
    usual = dict(batch=15, learning_rate=5e-3, warmup_steps=5, noise_sigma=0.01, label_smoothing=0)
    return TrainOptions(**{**usual, "validation_share": 0.0, "validate_every": 1000, **values})


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return PAIRS + [f"{text} near a {thing}" for text in PAIRS for thing in THINGS[:2]]


def embed_words(texts: list[str]) -> Tensor:
    """Bag of words: the sum of a fixed random vector of each word."""
    rows = torch.zeros(len(texts), DIM)
    for row, text in zip(rows, texts, strict=True):
        for word in text.split():
            generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            row += torch.randn(DIM, generator=generator)
    return rows


@pytest.fixture(scope="session")
def embed() -> object:
    return embed_words


def make_decoder(corpus: list[str], **settings: object) -> PrefixGPT2Decoder:
    values: dict[str, object] = dict(
        embedding_dim=DIM, layers=2, width=24, heads=2, vocab_size=300, positions=20, dropout=0.1
    )
    return PrefixGPT2Decoder.create(corpus, **{**values, **settings})  # type: ignore[arg-type]


@pytest.fixture
def fresh(corpus: list[str]) -> PrefixGPT2Decoder:
    return make_decoder(corpus)


@pytest.fixture(scope="session")
def wild(corpus: list[str]) -> PrefixGPT2Decoder:
    """Random weights, large enough that its choices differ from row to row and step to step."""
    decoder = make_decoder(corpus)
    with torch.no_grad():
        for parameter in decoder.network.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(12)
        # A likely end, so that rows end at different steps.
        decoder.network.transformer.wte.weight[decoder.tokenizer.end_id] *= 2
    return decoder


@pytest.fixture(scope="session")
def trained(corpus: list[str]) -> PrefixGPT2Decoder:
    decoder = make_decoder(corpus, dropout=0.0, width=48)
    options = quick(steps=220, batch=90, warmup_steps=20, noise_sigma=0.02)
    train_decoder(decoder, corpus, embed_words(corpus), options)
    return decoder


@pytest.fixture(scope="session")
def rows() -> Tensor:
    return torch.randn(24, DIM, generator=torch.Generator().manual_seed(5))
