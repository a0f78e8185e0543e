"""The network: cached steps equal the full forward pass; the decoder: what it learns, its folder, fewer bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder, load_decoder
from decoders.gpt2 import PrefixGPT2Config
from patchioner.base.errors import CheckpointError, OptionError, PatchionerError


def test_cached_steps_equal_the_full_forward_pass(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    network = wild.network
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, wild.tokenizer.vocab_size, (len(rows), 7), generator=random)
    with torch.no_grad():
        whole = network.logits(network(rows, tokens))
        states, cache = network.start(rows, 8)
        for place in range(7):
            logits = network.head.logits(states, 0, network.head.vocab_size)
            torch.testing.assert_close(logits, whole[:, place], atol=1e-3, rtol=1e-4)
            states = network.step(tokens[:, place], cache)
    logits = network.head.logits(states, 0, network.head.vocab_size)
    torch.testing.assert_close(logits, whole[:, 7], atol=1e-3, rtol=1e-4)


def test_cache_select_repeats_drops_and_reorders(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    network = wild.network
    chosen = torch.tensor([3, 3, 0, 5, 5, 5, 1, 2, 4])
    with torch.no_grad():
        _, cache = network.start(rows[:6], 4)
        cache.select(chosen)  # more rows than before
        grown = network.step(chosen, cache)
        cache.select(torch.tensor([2, 8]))  # fewer
        shrunk = network.step(torch.tensor([7, 9]), cache)
        _, plain = network.start(rows[:6][chosen], 4)
        expected = network.step(chosen, plain)
        full = network(rows[[0, 4]], torch.tensor([[0, 7], [4, 9]]))
    torch.testing.assert_close(grown, expected)
    torch.testing.assert_close(shrunk, full[:, 2], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"heads": 3}, {"layers": 0}, {"dropout": 1.0}, {"width": 2.5}]
)
def test_impossible_shape_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        PrefixGPT2Config(**{"embedding_dim": 4, "vocab_size": 9, "width": 8, **settings})  # type: ignore[arg-type]


SHORT = DecodeOptions(max_tokens=12)


def test_it_says_the_texts_it_was_trained_on(
    trained: PrefixGPT2Decoder, corpus: list[str], embed: object
) -> None:
    captions = trained.generate(embed(corpus[:30]), SHORT)  # type: ignore[operator]
    right = sum(one.text == text for one, text in zip(captions, corpus[:30], strict=True))
    assert right >= 24


def test_loss_equals_the_row_by_row_twin(wild: PrefixGPT2Decoder, rows: Tensor) -> None:
    sequences = wild.sequences(["a red cat", "a kite", "a blue boat near a dog"])
    lengths = torch.tensor([len(s) for s in sequences])
    tokens = torch.zeros(3, int(lengths.max()), dtype=torch.int64)
    total = torch.tensor(0.0)
    with torch.no_grad():
        for i, sequence in enumerate(sequences):
            ids = torch.tensor(sequence)
            tokens[i, : len(ids)] = ids
            logits = wild.network.logits(wild.network(rows[i : i + 1], ids[None, :-1]))[0]
            total += functional.cross_entropy(logits, ids, label_smoothing=0.1, reduction="sum")
        loss = wild.loss(rows[:3], tokens, lengths, label_smoothing=0.1)
    torch.testing.assert_close(loss, total / lengths.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_saved_and_loaded_says_the_same(
    trained: PrefixGPT2Decoder, corpus: list[str], embed: object, tmp_path: Path, storage: str
) -> None:
    trained.save(tmp_path, storage=storage)  # type: ignore[arg-type]
    loaded = load_decoder(tmp_path)
    rows = embed(corpus[:12])  # type: ignore[operator]
    left, right = trained.generate(rows, SHORT), loaded.generate(rows, SHORT)
    assert [one.text for one in left] == [one.text for one in right]
    if storage == "fp32":
        assert left == right
    else:
        tolerance = 0.01 if storage == "fp16" else 0.2
        assert [o.score for o in right] == pytest.approx([o.score for o in left], abs=tolerance)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "pickle"])
def test_damaged_folder_is_refused_by_file(
    fresh: PrefixGPT2Decoder, tmp_path: Path, name: str, damage: str
) -> None:
    fresh.save(tmp_path)
    path = tmp_path / name
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=name):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "prefix_gtp2"}, "prefix_gpt2"),
        ({"type": None}, "type"),
        ({"heads": 5}, "heads"),
        ({"colour": 1}, "colour"),
        ({"layers": 3}, "transformer.h.2"),
    ],
)
def test_wrong_config_is_refused(
    fresh: PrefixGPT2Decoder, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    fresh.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PatchionerError, match=word):
        load_decoder(tmp_path)


def test_tokenizer_of_another_decoder_is_refused(fresh: PrefixGPT2Decoder, tmp_path: Path) -> None:
    fresh.save(tmp_path)
    other = PrefixGPT2Decoder.create(["xyz xyz"], embedding_dim=4, layers=1, width=8, heads=2)
    other.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="different decoders"):
        load_decoder(tmp_path)


# Fewer bits: nearly the same numbers, the original untouched, no row minds its batch.


@pytest.mark.parametrize("precision", ["int8", "bf16"])
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
