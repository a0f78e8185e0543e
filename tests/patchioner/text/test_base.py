"""The text towers' contract and the BERT tower: a plain twin, batches, cuts, folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.text import BertSettings, BertTower, load_tower
from tests.support.tiny import TEXTS, change_config, tiny_tokenizer, tiny_tower

MIXED = ["a red cat", "a blue dog in the snow near a fence", "kite", "a bus", "zebra", "a red cat"]


def plain_twin(tower: BertTower, text: str) -> Tensor:
    """One sentence, one head at a time, with softmax written out (BERT, arXiv 1810.04805)."""
    ids = tower.tokenizer.encode(text).ids
    x = tower.tokens.weight[ids] + tower.positions.weight[: len(ids)]
    x = F.layer_norm(x, x.shape[1:], tower.norm.weight, tower.norm.bias, 1e-12)
    for layer in tower.layers:
        size = x.shape[1] // layer.heads
        query, key, value = (x @ layer.qkv.weight.T + layer.qkv.bias).split(x.shape[1], dim=1)
        mixed = []
        for head in range(layer.heads):
            own = slice(head * size, (head + 1) * size)
            scores = query[:, own] @ key[:, own].T / math.sqrt(size)
            mixed.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, own])
        x = layer.attention_norm(x + layer.attention_out(torch.cat(mixed, dim=1)))
        inner = layer.inner(x)
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = layer.output_norm(x + layer.outer(gelu))
    mean = x.mean(0)
    return tower.project_out(torch.tanh(tower.project_in(mean / mean.norm())))


def test_it_equals_the_plain_twin() -> None:
    tower = tiny_tower()
    with torch.no_grad():
        expected = torch.stack([plain_twin(tower, text) for text in MIXED])
    torch.testing.assert_close(tower.encode(MIXED), expected, rtol=1e-4, atol=1e-5)


def test_a_text_does_not_depend_on_its_batch_and_order_is_kept() -> None:
    tower = tiny_tower()
    alone = torch.cat([tower.encode([text]) for text in MIXED])
    for batch in (1, 2, 256):
        torch.testing.assert_close(tower.encode(MIXED, batch=batch), alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tower.encode(MIXED[::-1]), alone.flip(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(alone[0], alone[-1])
    assert not torch.allclose(alone[0], alone[1])


def test_padding_and_truncation_of_a_foreign_tokenizer_are_switched_off() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(3)
    settings = tiny_tower().settings
    tower = BertTower(settings, tokenizer)
    assert tower.token_ids(MIXED) == tiny_tower().token_ids(MIXED)
    assert tokenizer.padding is not None  # the caller's own is left alone


def test_long_texts_are_cut_with_a_warning_and_keep_their_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tower = tiny_tower(max_tokens=6)
    (ids,) = tower.token_ids(["a red cat on a table"])
    end = tower.tokenizer.token_to_id("[SEP]")
    assert ids == [*tower.tokenizer.encode("a red cat on").ids[:5], end]
    assert "1 of 1 texts are longer than 6 tokens" in caplog.text


@pytest.mark.parametrize("text", ["", " \n\t", None, 3, "a \ud83d cat"])
def test_blank_texts_are_refused_by_index(text: Any) -> None:
    with pytest.raises(TextError, match="text 1 is"):
        tiny_tower().encode(["a cat", text])


def test_a_single_string_is_refused_and_no_text_gives_no_row() -> None:
    with pytest.raises(TextError, match="wrap it in a list"):
        tiny_tower().encode("a cat")
    assert tiny_tower().encode([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers"),
        ({"width": "32"}, "'32'"),
        ({"width": 33}, "33.*2 heads"),
        ({"max_tokens": 1}, "max_tokens"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    shape = {"vocabulary": 10, "dim": 4, "width": 32, "heads": 2, "layers": 1}
    with pytest.raises(OptionError, match=message):
        BertSettings(**{**shape, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tower().save(tmp_path / "tower", storage="fp32")
    return tmp_path / "tower"


def test_a_tower_comes_back_as_it_was(folder: Path) -> None:
    torch.manual_seed(99)
    loaded, original = load_tower(folder), tiny_tower()
    assert loaded.settings == original.settings
    assert not loaded.training
    assert torch.equal(loaded.encode(TEXTS), original.encode(TEXTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "bart"}, "'bert'"),
        ({"type": {}}, "'bert'"),
        ({"wdth": 32}, "wdth"),
        ({"width": "wide"}, "wide"),
        ({"heads": 7}, "7 heads"),
        ({"vocabulary": 5}, "pieces.*5"),
        ({"projection": 47}, r"project_in\.weight is \(48, 32\).*\(47, 32\)"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_tower(folder)


@pytest.mark.parametrize("content", [None, "", "{}", "{"])
def test_a_missing_or_corrupt_tokenizer_is_refused(folder: Path, content: str | None) -> None:
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tower"):
        load_tower(folder)
