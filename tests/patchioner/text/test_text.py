"""The text towers' contract, the BERT tower and Talk2DINO's: plain twins, batches, cuts, folders, published files."""

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
from patchioner.text import BertTower, Talk2DinoTower, load_tower
from tests.support import attend
from tests.support.published import talk2dino_state
from tests.support.tiny import TEXTS, tiny_tokenizer, tiny_tower

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
    tokenizer = tiny_tokenizer()  # whose padding and truncation are switched off, in a copy
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(3)
    assert BertTower(tower.settings, tokenizer).token_ids(MIXED) == tower.token_ids(MIXED)
    assert tokenizer.padding is not None


def test_blank_texts_are_refused_by_index_and_no_text_gives_no_row() -> None:
    tower = tiny_tower()
    for text in list[Any](["", " \n\t", None, 3, "a \ud83d cat"]):
        with pytest.raises(TextError, match="text 1 is"):
            tower.encode(["a cat", text])
    with pytest.raises(TextError, match="wrap it in a list"):
        tower.encode("a cat")
    assert tower.encode([]).shape == (0, 64)


TEXT_DIM, WIDTH, DIM = 10, 14, 12
STATE = talk2dino_state(DIM, TEXT_DIM, WIDTH)
LINEAR = {name: tensor for name, tensor in STATE.items() if name.startswith("linear_layer")}
OLD = {name.replace("hidden_layers.0", "linear_layer2"): t for name, t in STATE.items()}


def written(folder: Path, state: dict[str, Tensor], name: str = "vitb_mlp_infonce.pth") -> Path:
    torch.save(OrderedDict(state), folder / name)
    return folder / name


@pytest.mark.parametrize("linear", [False, True])
def test_the_tower_is_the_formula_written_out_and_comes_back(tmp_path: Path, linear: bool) -> None:
    state, inner = LINEAR if linear else STATE, tiny_tower(dim=TEXT_DIM)
    path = written(tmp_path, state)
    tower = Talk2DinoTower.from_file(inner, path)
    expected = inner.encode(TEXTS) @ state["linear_layer.weight"].T + state["linear_layer.bias"]
    if not linear:
        expected = expected.tanh() @ state["hidden_layers.0.weight"].T
        expected = expected + state["hidden_layers.0.bias"]
    exact = tower.encode(TEXTS)
    assert (exact.dtype, tower.dim) == (torch.float32, WIDTH if linear else DIM)
    torch.testing.assert_close(exact, expected)
    rounded = tower.to("cpu", torch.bfloat16).encode(TEXTS)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact).min() > 0.98
    assert torch.equal(tower.encode(TEXTS), exact)
    tower.save(tmp_path / "saved", storage="fp32")
    torch.manual_seed(99)
    loaded = load_tower(tmp_path / "saved")
    assert isinstance(loaded, Talk2DinoTower)
    assert (loaded.config, loaded.training) == (tower.config, False)
    assert torch.equal(loaded.encode(TEXTS), exact)
    with pytest.raises(CheckpointError, match=r"10 wide, the text tower gives 8"):
        Talk2DinoTower.from_file(tiny_tower(dim=8), path)


def test_both_styles_of_names_and_safetensors_and_halves_are_read(tmp_path: Path) -> None:
    def read(path: Path) -> dict[str, Tensor]:
        return dict(Talk2DinoTower.from_file(tiny_tower(dim=TEXT_DIM), path).state_dict())

    new = read(written(tmp_path, STATE))
    save_file(STATE, tmp_path / "safe.safetensors")
    halves = {name: tensor.half() for name, tensor in STATE.items()}
    for path, error in (
        (written(tmp_path, OLD, "old.pth"), 0),
        (tmp_path / "safe.safetensors", 0),
        (written(tmp_path, halves, "half.pth"), 1e-2),
    ):
        torch.testing.assert_close(read(path), new, rtol=error, atol=error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_layer.bias": None}, r"missing project_in\.bias"),
        ({"hidden_layers.0.weight": None}, r"missing project_out\.weight"),
        ({"hidden_layers.1.weight": torch.ones(2, 2)}, r"unexpected hidden_layers\.1"),
        (OLD, r"unexpected linear_layer2\.bias, linear_layer2"),
        ({"hidden_layers.0.weight": torch.ones(DIM, 5)}, r"out\.weight is \(12, 5\).*\(12, 14\)"),
        ({"linear_layer.weight": torch.ones(4)}, r"project_in\.weight is \(4,\)"),
        ({"linear_layer.bias": torch.ones(WIDTH).long()}, r"in\.bias holds torch\.int64"),
    ],
)
def test_what_is_no_projection(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    state = {name: t for name, t in {**STATE, **changes}.items() if t is not None}
    with pytest.raises(CheckpointError, match=message):
        Talk2DinoTower.from_file(tiny_tower(dim=TEXT_DIM), written(tmp_path, state))
