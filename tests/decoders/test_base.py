"""What holds for every decoder: options, embeddings, shapes and folders that make no sense are refused by name."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoders import DecodeOptions, PrefixGPT2Decoder, TrainOptions, load_decoder
from decoders.retrieval import RetrievalDecoder
from decoders.viecap import EntityPrompter
from patchioner.base.errors import DecoderError, OptionError, PatchionerError
from tests.decoders.conftest import ROWS, THINGS, make_decoder, on_language_model
from tests.support.tiny import change_config


def test_bad_embeddings_and_too_many_tokens(wild: PrefixGPT2Decoder) -> None:
    assert wild.generate(torch.empty(0, wild.embedding_dim)) == []
    broken = ROWS.clone()
    broken[7, 3] = torch.nan
    refused: list[tuple[Any, str]] = [(broken, "row 7"), (torch.zeros(12), "shape")]
    refused += [(torch.zeros(2, 5), "shape"), (torch.zeros(2, 12).long(), "int64")]
    for bad, message in (*refused, (np.zeros((2, 12)), "give a tensor")):
        with pytest.raises(DecoderError, match=message):
            wild.generate(bad)
    with pytest.raises(DecoderError, match="21.*20"):
        wild.generate(ROWS, DecodeOptions(max_tokens=21))


def make(kind: str, **settings: Any) -> Any:
    if kind == "prefix_gpt2":
        return make_decoder(**settings)
    return on_language_model(kind, **settings)


def entities(**settings: Any) -> EntityPrompter:
    return EntityPrompter(["cat", "bus"], torch.eye(2), **settings)


GPT2, LM, VIECAP = (partial(make, kind) for kind in ("prefix_gpt2", "prefix_lm", "viecap"))


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (DecodeOptions, "strategy", ["bean"]), (DecodeOptions, "max_tokens", [0, 2.5, True]),
        (DecodeOptions, "min_tokens", [-1, 31]), (DecodeOptions, "beam_width", [0]),
        (DecodeOptions, "seed", [-1, 2**128]), (DecodeOptions, "length_penalty", [-0.5, math.nan]),
        (DecodeOptions, "temperature", [0.0, math.inf]), (DecodeOptions, "top_p", [0.0, 1.5, np.ones(2)]),
        (DecodeOptions, "batch_memory_mb", [0]),
        (DecodeOptions, "banned_words", [["cat"], ("cat", " "), "cat"]),
        (TrainOptions, "batch", [0, 2.5]), (TrainOptions, "learning_rate", [0.0, math.nan]),
        (TrainOptions, "noise_sigma", [-0.1]), (TrainOptions, "label_smoothing", [1.0]),
        (TrainOptions, "seed", [2**64]), (TrainOptions, "validation_share", [1.0]),
        (TrainOptions, "steps", [0, 2.5]), (TrainOptions, "decay", ["none"]),
        (TrainOptions, "epochs", [True]),
        (entities, "temperature", [0.0]), (entities, "top_k", [0]), (entities, "threshold", [1.5]),
        (RetrievalDecoder, "embedding_dim", [0]),
        (GPT2, "heads", [5]), (GPT2, "layers", [0]), (GPT2, "dropout", [1.0]), (GPT2, "width", [2.5]),
        (LM, "tune", ["some"]), (LM, "prompt_tokens", [0]),
        (VIECAP, "mapping_heads", [5]), (VIECAP, "mapping_layers", [0]),
        (VIECAP, "hard_tokens", [0]),
    ],
)  # fmt: skip
def test_impossible_values(make: Any, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(OptionError, match=name.removeprefix("mapping_")):
            make(**{name: value})


def test_impossible_prompts() -> None:
    for make, tokens in ((LM, {"prompt_tokens": 300}), (VIECAP, {"hard_tokens": 200})):
        with pytest.raises(OptionError, match="positions"):
            make(**tokens)


def concepts(**values: Any) -> dict[str, Any]:
    return {"concepts": {"parser": {"type": "rules"}, **values}}


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("prefix_gpt2", {"type": "prefix_gtp2"}, "prefix_gpt2"), ("prefix_gpt2", {"type": None}, "type"),
        ("prefix_gpt2", {"colour": 1}, "colour"), ("prefix_gpt2", {"layers": 3}, "transformer.h.2"),
        ("prefix_gpt2", {}, "different decoders"), ("prefix_lm", {"prompt_tokens": 5}, "mapper.output"),
        ("prefix_lm", {"tune": "lora"}, "tune"), ("viecap", {"colour": 1}, "colour"),
        ("viecap", {"prompts": "loud"}, "prompts"), ("viecap", {"mapping_layers": 2}, "transformer.layers.1"),
        ("viecap", {"end_ids": [9999]}, "end_ids"), ("viecap", {"entities": {"names": THINGS, "warmth": 1}}, "warmth"),
        ("viecap", {"entities": {"names": THINGS[1:]}}, "entities.safetensors.*names"),
        ("viecap", {"language_model": {"model_type": "gtp2"}}, "gtp2"),
        ("viecap", {"end_ids": None, "language_model": None}, "language"),
        ("meacap", concepts(captions=1.5), "captions"), ("meacap", concepts(extra=1), "extra"),
        ("meacap", concepts(parser={"type": "rule"}), "'rules', 't5'"),
    ],
)  # fmt: skip
def test_a_config_or_tokenizer_of_something_else(tmp_path: Path, kind: str, change: dict[str, Any], word: str) -> None:
    make(kind).save(tmp_path)
    change_config(tmp_path, **change)
    if not change:
        other = PrefixGPT2Decoder.create(["xyz xyz"], embedding_dim=4, layers=1, width=8, heads=2)
        other.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(PatchionerError, match=word):
        load_decoder(tmp_path)
