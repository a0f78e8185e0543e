"""The text towers' contract, the BERT tower and Talk2DINO's: plain twins, batches, cuts, folders, published files."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, TextError
from patchioner.text import BertTower, Talk2DinoTower, load_talk2dino_weights, load_tower
from tests.support import attend
from tests.support.tiny import TEXTS, change_config, tiny_tokenizer, tiny_tower

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
MIXED = ["a red cat", "a blue dog in the snow near a fence", "kite", "a bus", "zebra", "a red cat"]


def plain_twin(tower: Any, text: str) -> Any:
    """One sentence, one head at a time, with softmax written out (BERT, arXiv 1810.04805)."""
    ids = tower.tokenizer.encode(text).ids
    x = tower.tokens.weight[ids] + tower.positions.weight[: len(ids)]
    x = F.layer_norm(x, x.shape[1:], tower.norm.weight, tower.norm.bias, 1e-12)
    for layer in tower.layers:
        query, key, value = (x @ layer.qkv.weight.T + layer.qkv.bias).split(x.shape[1], dim=1)
        mixed, _ = attend(query, key, value, layer.heads)
        x = layer.attention_norm(x + layer.attention_out(mixed))
        inner = layer.inner(x)
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = layer.output_norm(x + layer.outer(gelu))
    mean = x.mean(0)
    return tower.project_out(torch.tanh(tower.project_in(mean / mean.norm())))


def test_it_equals_the_plain_twin_whatever_the_batch() -> None:
    tower = tiny_tower()
    with torch.no_grad():
        expected = torch.stack([plain_twin(tower, text) for text in MIXED])
    close(tower.encode(MIXED), expected)
    for batch in (1, 2):
        close(tower.encode(MIXED[::-1], batch=batch), expected.flip(0))
    assert not torch.allclose(expected[0], expected[1])


def test_padding_and_truncation_of_a_foreign_tokenizer_are_switched_off() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(3)
    tower = BertTower(tiny_tower().settings, tokenizer)
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


@pytest.mark.parametrize("content", [None, "", "{}", "{"])
def test_a_missing_or_corrupt_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    tiny_tower().save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_tower(tmp_path)


TEXT_DIM, WIDTH, DIM = 10, 14, 12


def published(*, linear: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors by the authors' names."""
    torch.manual_seed(0)
    state = {
        "linear_layer.weight": torch.randn(WIDTH, TEXT_DIM).to(dtype),
        "linear_layer.bias": torch.randn(WIDTH).to(dtype),
    }
    if linear:
        return state
    second = torch.randn(DIM, WIDTH).to(dtype), torch.randn(DIM).to(dtype)
    return {**state, "hidden_layers.0.weight": second[0], "hidden_layers.0.bias": second[1]}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("hidden_layers.0", "linear_layer2"): t for name, t in state.items()}


def written(folder: Path, state: Any, name: str = "vitb_mlp_infonce.pth") -> Path:
    path = folder / name
    torch.save(OrderedDict(state) if isinstance(state, dict) else state, path)
    return path


@pytest.mark.parametrize("linear", [False, True])
def test_the_tower_is_the_formula_written_out(tmp_path: Path, linear: bool) -> None:
    state = published(linear=linear)
    inner = tiny_tower(dim=TEXT_DIM)
    tower = Talk2DinoTower.from_weights(inner, load_talk2dino_weights(written(tmp_path, state)))
    features = inner.encode(TEXTS)
    expected = features @ state["linear_layer.weight"].T + state["linear_layer.bias"]
    if not linear:
        expected = expected.tanh() @ state["hidden_layers.0.weight"].T
        expected = expected + state["hidden_layers.0.bias"]
    encoded = tower.encode(TEXTS)
    assert (encoded.dtype, tower.dim) == (torch.float32, WIDTH if linear else DIM)
    torch.testing.assert_close(encoded, expected)


def test_both_styles_of_names_and_safetensors_and_halves_are_read(tmp_path: Path) -> None:
    state = published()
    new = load_talk2dino_weights(written(tmp_path, state))
    save_file(state, tmp_path / "safe.safetensors")
    for path, error in (
        (written(tmp_path, renamed(state), "old.pth"), 0),
        (tmp_path / "safe.safetensors", 0),
        (written(tmp_path, published(dtype=torch.float16), "half.pth"), 1e-2),
    ):
        torch.testing.assert_close(load_talk2dino_weights(path), new, rtol=error, atol=error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_layer.bias": None}, r"missing linear_layer\.bias"),
        ({"hidden_layers.0.weight": None}, r"missing hidden_layers\.0\.weight"),
        ({"hidden_layers.1.weight": torch.ones(2, 2)}, r"unexpected hidden_layers\.1"),
        (renamed(published()), r"unexpected linear_layer2\.bias, linear_layer2"),
        ({"linear_layer.bias": torch.ones(3)}, r"linear_layer\.bias is \(3,\).*\(14,\)"),
        ({"hidden_layers.0.weight": torch.ones(DIM, 5)}, r"0\.weight is \(12, 5\).*\(12, 14\)"),
        ({"hidden_layers.0.bias": torch.ones(5)}, r"hidden_layers\.0\.bias is \(5,\).*\(12,\)"),
        ({"linear_layer.weight": torch.ones(4)}, r"linear_layer\.weight is \(4,\)"),
        ({"linear_layer.bias": torch.ones(WIDTH).long()}, r"bias is \(14,\) torch\.int64"),
    ],
)
def test_what_is_no_projection_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    state = {name: t for name, t in {**published(), **changes}.items() if t is not None}
    with pytest.raises(CheckpointError, match=message):
        load_talk2dino_weights(written(tmp_path, state))


@pytest.mark.parametrize("linear", [False, True])
def test_a_saved_tower_comes_back_with_the_one_inside(tmp_path: Path, linear: bool) -> None:
    weights = load_talk2dino_weights(written(tmp_path, published(linear=linear)))
    tower = Talk2DinoTower.from_weights(tiny_tower(dim=TEXT_DIM), weights)
    tower.save(tmp_path / "saved", storage="fp32")
    torch.manual_seed(99)
    loaded = load_tower(tmp_path / "saved")
    assert isinstance(loaded, Talk2DinoTower)
    assert (loaded.config, loaded.training) == (tower.config, False)
    assert torch.equal(loaded.encode(TEXTS), tower.encode(TEXTS))
    with pytest.raises(CheckpointError, match=r"10 wide, the text tower gives 8"):
        Talk2DinoTower.from_weights(tiny_tower(dim=8), weights)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("bert", {"layers": 0}, "layers"),
        ("bert", {"max_tokens": 1}, "max_tokens"),
        ("bert", {"type": "bart"}, "'bert'"),
        ("bert", {"type": {}}, "'bert'"),
        ("bert", {"wdth": 32}, "wdth"),
        ("bert", {"width": "wide"}, "wide"),
        ("bert", {"heads": 7}, "7 heads"),
        ("bert", {"vocabulary": 5}, "pieces.*5"),
        ("bert", {"projection": 47}, r"project_in\.weight is \(48, 32\).*\(47, 32\)"),
        ("talk2dino", {"width": "wide"}, "wide"),
        ("talk2dino", {"width": None}, "unexpected project_out"),
        ("talk2dino", {"dim": 13}, r"project_out\.bias is \(12,\).*\(13,\)"),
        ("talk2dino", {"dim": -1}, "wrong setting"),
    ],
)
def test_a_wrong_config_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    inner = tiny_tower(dim=TEXT_DIM)
    (inner if kind == "bert" else Talk2DinoTower(inner, DIM, width=WIDTH)).save(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_tower(tmp_path)


def test_a_copy_for_inference_rounds_and_leaves_the_original() -> None:
    torch.manual_seed(0)
    tower = Talk2DinoTower(tiny_tower(dim=TEXT_DIM), DIM, width=WIDTH)
    exact = tower.encode(TEXTS)
    rounded = tower.to("cpu", torch.bfloat16).encode(TEXTS)
    assert rounded.dtype == torch.float32
    assert torch.cosine_similarity(rounded, exact).min() > 0.98
    assert torch.equal(tower.encode(TEXTS), exact) and not torch.equal(rounded, exact)
