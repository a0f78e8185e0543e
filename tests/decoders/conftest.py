"""A tiny corpus and tiny decoders: one random but decisive, one trained for seconds."""

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DECODERS, DecodeOptions, PrefixGPT2Decoder, TrainOptions, train_decoder
from decoders.language_model import build_language_model
from decoders.viecap import EntityPrompter
from tests.support import randn
from tests.support.language import language_config, language_tokenizer, spread

DIM = 12
COLOURS = ["red", "blue", "green", "yellow", "black"]
THINGS = ["cat", "dog", "bus", "car", "kite", "boat"]
PAIRS = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]
CORPUS = PAIRS + [f"{text} near a {thing}" for text in PAIRS for thing in THINGS[:2]]
ROWS = randn(24, DIM, seed=5)
SHORT = DecodeOptions(max_tokens=12)


def quick(**values: Any) -> TrainOptions:
    """Options of a training that takes seconds."""
    usual = dict(batch=15, learning_rate=5e-3, warmup_steps=5, noise_sigma=0.01, label_smoothing=0)
    return TrainOptions(**{**usual, "validation_share": 0.0, "validate_every": 1000, **values})


def embed_words(texts: list[str]) -> Tensor:
    """Bag of words: the sum of a fixed random vector of each word."""
    words = [[randn(DIM, seed=zlib.crc32(word.encode())) for word in text.split()] for text in texts]
    return torch.stack([sum(row, torch.zeros(DIM)) for row in words])


def weights(decoder: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.module.parameters()])


def token_ids(captions: Any) -> list[tuple[int, ...]]:
    return [one.token_ids for one in captions]


VECTORS = F.normalize(embed_words(THINGS), dim=1)


def make_decoder(**settings: Any) -> PrefixGPT2Decoder:
    usual = dict(layers=2, width=24, heads=2, vocab_size=300, positions=20, dropout=0.1)
    return PrefixGPT2Decoder.create(CORPUS, **{"embedding_dim": DIM, **usual, **settings})


def on_language_model(kind: str = "prefix_lm", model: str = "gpt2", **settings: Any) -> Any:
    """An untrained decoder of a kind before a tiny language model."""
    mapper = {"prompt_tokens": 3, "project_tokens": 2, "mapping_layers": 1}
    shape: dict[str, Any] = {"prompt_tokens": 4} if kind == "prefix_lm" else mapper
    if kind == "viecap":
        settings = {"prompter": EntityPrompter(THINGS, VECTORS, temperature=0.1), **settings}
    own = {name: settings.pop(name) for name in ("prompter",) if name in settings}
    tokenizer, make = settings.pop("tokenizer", language_tokenizer()), DECODERS.get(kind)
    config = make.CONFIG(DIM, **{**shape, **settings})  # type: ignore[attr-defined]
    network: Any = build_language_model(language_config(model))
    return make(network, tokenizer, config, **own)  # type: ignore[call-arg]


@pytest.fixture(scope="session")
def wild() -> PrefixGPT2Decoder:
    """Random weights, large enough that its choices differ from row to row and step to step."""
    decoder = make_decoder()
    spread(decoder.network, 12)
    with torch.no_grad():  # a likely end, so that rows end at different steps
        decoder.network.transformer.wte.weight[decoder.tokenizer.end_id] *= 2
    return decoder


@pytest.fixture(scope="session")
def trained() -> PrefixGPT2Decoder:
    decoder = make_decoder(dropout=0.0, width=48, layers=1)
    options = quick(steps=220, batch=90, warmup_steps=20, noise_sigma=0.02)
    train_decoder(decoder, CORPUS, embed_words(CORPUS), options)
    return decoder
