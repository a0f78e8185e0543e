"""What the decoder learns, its folder, fewer bits; that cached steps are the full forward pass: test_search.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional

from decoders import DecodeOptions, PrefixGPT2Decoder, load_decoder
from tests.decoders.conftest import CORPUS, ROWS, SHORT, embed_words


@torch.no_grad()
def test_loss_equals_the_row_by_row_twin(wild: PrefixGPT2Decoder) -> None:
    texts = ["a red cat", "a kite", "a blue boat near a dog"]
    rows, total = list(map(torch.tensor, wild.sequences(texts))), torch.tensor(0.0)
    for i, ids in enumerate(rows):
        logits = wild.network.logits(wild.network(ROWS[i : i + 1], ids[None, :-1]))[0]
        total += functional.cross_entropy(logits, ids, label_smoothing=0.1, reduction="sum")
    tokens, lengths = (
        torch.nn.utils.rnn.pad_sequence(rows, True),
        torch.tensor(list(map(len, rows))),
    )
    loss = wild.loss(ROWS[:3], tokens, lengths, label_smoothing=0.1)
    torch.testing.assert_close(loss, total / lengths.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("storage", "tolerance"), [("fp32", 0), ("fp16", 0.01), ("int8", 0.2)])
def test_it_says_the_texts_it_was_trained_on_and_loaded_again_the_same(
    trained: PrefixGPT2Decoder, tmp_path: Path, storage: Any, tolerance: float
) -> None:
    rows = embed_words(CORPUS[:30])
    captions = trained.generate(rows, SHORT)
    assert sum(one.text == text for one, text in zip(captions, CORPUS, strict=False)) >= 24
    trained.save(tmp_path, storage=storage)
    loaded = load_decoder(tmp_path).generate(rows, SHORT)
    assert [one.text for one in loaded] == [one.text for one in captions]
    assert [o.score for o in loaded] == pytest.approx([o.score for o in captions], abs=tolerance)


@pytest.mark.parametrize(
    ("precision", "strategy"), [("int8", "greedy"), ("int8", "beam"), ("bf16", "sample")]
)
def test_with_fewer_bits_it_says_nearly_the_same(
    trained: PrefixGPT2Decoder, precision: Any, strategy: Any
) -> None:
    rows = embed_words(CORPUS)
    state = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    options = DecodeOptions(strategy, max_tokens=12, temperature=0.5)
    before = trained.generate(rows, options)
    after = trained.quantized(precision).generate(rows, options)
    same = sum(one.text == other.text for one, other in zip(before, after, strict=True))
    assert same >= 0.9 * len(rows)
    assert sum(abs(a.score - b.score) for a, b in zip(before, after, strict=True)) < 0.1 * len(rows)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, state[name])
