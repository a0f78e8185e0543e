"""Fewer bits: nearly the same numbers, the original untouched, no row minds its batch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder
from decoders.prefix_gpt2 import Int8Linear
from patchioner.base.errors import DecoderError, OptionError

SHORT = DecodeOptions(max_tokens=12)
PRECISIONS = ["int8", "bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_a_trained_decoder_says_nearly_the_same(
    trained: PrefixGPT2Decoder, corpus: list[str], embed: object, precision: str, strategy: str
) -> None:
    rows: Tensor = embed(corpus)  # type: ignore[operator]
    state = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    few = trained.quantized(precision)  # type: ignore[arg-type]
    options = DecodeOptions(strategy, max_tokens=12, temperature=0.5)  # type: ignore[arg-type]
    before, after = trained.generate(rows, options), few.generate(rows, options)
    same = sum(one.text == other.text for one, other in zip(before, after, strict=True))
    assert same >= 0.9 * len(rows)
    assert sum(abs(a.score - b.score) for a, b in zip(before, after, strict=True)) < 0.1 * len(rows)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_caption_does_not_depend_on_its_batch(
    trained: PrefixGPT2Decoder, corpus: list[str], embed: object, precision: str
) -> None:
    few = trained.quantized(precision)  # type: ignore[arg-type]
    rows: Tensor = embed(corpus[:8])  # type: ignore[operator]
    together = few.generate(rows, SHORT)
    alone = [few.generate(row[None], SHORT)[0] for row in rows]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_int8_layer_is_near_the_float_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 40)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        inputs = torch.randn(3, 5, 64, generator=generator)
        out, expected = Int8Linear(layer.weight, layer.bias)(inputs), layer(inputs)
    assert out.shape == expected.shape
    assert float((out - expected).norm() / expected.norm()) < 0.02


def test_int8_takes_a_quarter_of_the_memory(corpus: list[str]) -> None:
    wide = PrefixGPT2Decoder.create(
        corpus, embedding_dim=12, layers=2, width=64, heads=2, vocab_size=300
    )

    def size(decoder: PrefixGPT2Decoder) -> int:
        tensors = decoder.network.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    assert size(wide.quantized("bf16")) == size(wide) / 2
    assert size(wide.quantized("int8")) < 0.4 * size(wide)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_moving_keeps_the_precision(trained: PrefixGPT2Decoder, precision: str) -> None:
    few = trained.quantized(precision)  # type: ignore[arg-type]
    kinds = [tensor.dtype for tensor in few.network.state_dict().values()]
    few.to("cpu", torch.float32)
    assert [tensor.dtype for tensor in few.network.state_dict().values()] == kinds


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fewer_bits_are_not_saved_and_the_original_still_is(
    trained: PrefixGPT2Decoder, tmp_path: Path, precision: str
) -> None:
    with pytest.raises(DecoderError, match="save the one"):
        trained.quantized(precision).save(tmp_path)  # type: ignore[arg-type]
    trained.save(tmp_path)


def test_unknown_precision_is_refused(trained: PrefixGPT2Decoder) -> None:
    with pytest.raises(OptionError, match="int4.*int8, bf16"):
        trained.quantized("int4")  # type: ignore[arg-type]


def test_int8_logits_of_many_places(trained: PrefixGPT2Decoder, rows: Tensor) -> None:
    few = trained.quantized("int8").network
    with torch.no_grad():
        hidden = few(rows, torch.zeros(len(rows), 2, dtype=torch.int64))
        logits = few.logits(hidden)
    assert logits.shape == (len(rows), 3, trained.network.config.vocab_size)
    assert math.isfinite(float(logits.sum()))
