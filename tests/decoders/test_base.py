"""What holds for every decoder: options, embeddings, shapes and folders that make no sense are refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoders import DecodeOptions, PrefixGPT2Decoder, load_decoder
from patchioner.base.errors import DecoderError, OptionError, PatchionerError
from tests.decoders.conftest import ROWS, make_decoder, on_language_model
from tests.support.tiny import change_config


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("strategy", ["bean"]), ("max_tokens", [0, 2.5, True]), ("min_tokens", [-1, 31]), ("beam_width", [0]),
        ("seed", [-1, 2**128]), ("length_penalty", [-0.5, math.nan]), ("temperature", [0.0, math.inf]),
        ("top_p", [0.0, 1.5]), ("batch_memory_mb", [0]), ("banned_words", [["cat"], ("cat", " "), "cat"]),
    ],
)  # fmt: skip
def test_bad_decode_options(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(OptionError, match=name):
            DecodeOptions(**{name: value})


def test_bad_embeddings_and_too_many_tokens(wild: PrefixGPT2Decoder) -> None:
    assert wild.generate(torch.empty(0, wild.embedding_dim)) == []
    broken: Any = ROWS.clone()
    broken[7, 3] = torch.nan
    for bad, message in (
        (broken, "row 7"),
        (torch.zeros(12), "shape"),
        (torch.zeros(2, 5), "shape"),
        (torch.zeros(2, 12, dtype=torch.int64), "int64"),
        (np.zeros((2, 12)), "give a tensor"),
    ):
        with pytest.raises(DecoderError, match=message):
            wild.generate(bad)
    with pytest.raises(DecoderError, match="21.*20"):
        wild.generate(ROWS, DecodeOptions(max_tokens=21))


def make(kind: str, **settings: Any) -> Any:
    if kind == "prefix_gpt2":
        return make_decoder(**settings)
    return on_language_model(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        ("prefix_gpt2", {"heads": 5}, "heads"),
        ("prefix_gpt2", {"layers": 0}, "layers"),
        ("prefix_gpt2", {"dropout": 1.0}, "dropout"),
        ("prefix_gpt2", {"width": 2.5}, "width"),
        ("prefix_lm", {"mapper": "mpl"}, "mapper"),
        ("prefix_lm", {"tune": "some"}, "tune"),
        ("prefix_lm", {"prompt_tokens": 0}, "prompt_tokens"),
        ("prefix_lm", {"prompt_tokens": 300}, "positions"),
        ("prefix_lm", {"mapper": "transformer", "mapping_heads": 5}, "heads"),
        ("prefix_lm", {"mapper": "transformer", "mapping_layers": 0}, "layers"),
        ("prefix_lm", {"keep": "reference"}, "no place to refer to"),
        ("prefix_lm", {"tune": "lora", "lora_targets": ("none_such",)}, "lora_targets"),
        ("prefix_lm", {"tokenizer": None}, "needs a tokenizer"),
        ("viecap", {"hard_tokens": 0}, "hard_tokens"),
        ("viecap", {"entity_masking": 2.0}, "entity_masking"),
        ("viecap", {"hard_tokens": 200}, "positions"),
    ],
)
def test_impossible_shapes(kind: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        make(kind, **settings)


def concepts(**values: Any) -> dict[str, Any]:
    """Of a `meacap` configuration."""
    return {"concepts": {"options": {}, "parser": {"type": "rules"}, **values}}


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("prefix_gpt2", {"type": "prefix_gtp2"}, "prefix_gpt2"),
        ("prefix_gpt2", {"type": None}, "type"),
        ("prefix_gpt2", {"heads": 5}, "heads"),
        ("prefix_gpt2", {"colour": 1}, "colour"),
        ("prefix_gpt2", {"layers": 3}, "transformer.h.2"),
        ("prefix_gpt2", {}, "different decoders"),
        ("prefix_lm", {"lora_rank": 3}, "lora_A"),
        ("prefix_lm", {"tune": "frozen"}, "unexpected"),
        ("viecap", {"colour": 1}, "colour"),
        ("viecap", {"prompts": "loud"}, "prompts"),
        ("viecap", {"mapping_layers": 2}, "transformer.layers.1"),
        ("viecap", {"end_ids": [9999]}, "end_ids"),
        ("viecap", {"language_model": {"model_type": "gtp2"}}, "gtp2"),
        ("viecap", {"entities": {"warmth": 1}}, "warmth"),
        ("viecap", {"end_ids": None, "language_model": None}, "language"),
        ("meacap", concepts(options={"caption": 5}), "caption"),
        ("meacap", concepts(options={"captions": 0}), "captions"),
        ("meacap", concepts(options={"min_attribute": 1.5}), "min_attribute"),
        ("meacap", concepts(options={"merge_above": 2.0}), "merge_above"),
        ("meacap", concepts(parser={"type": "rule"}), "rules, t5"),
        ("meacap", concepts(similarity={"type": "words"}, own_memory=True), "own_memory"),
        ("meacap", concepts(extra=1), "extra"),
    ],
)
def test_a_config_or_tokenizer_of_something_else(
    tmp_path: Path, kind: str, change: dict[str, Any], word: str
) -> None:
    make(kind, **{"tune": "lora"} if kind == "prefix_lm" else {}).save(tmp_path)
    change_config(tmp_path, **change)
    if not change:
        other = PrefixGPT2Decoder.create(["xyz xyz"], embedding_dim=4, layers=1, width=8, heads=2)
        other.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(PatchionerError, match=word):
        load_decoder(tmp_path)
