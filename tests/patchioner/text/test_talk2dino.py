"""Talk2DINO's projection: the formula written out, the published files in both styles of names, and damaged ones."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from patchioner.base.errors import CheckpointError
from patchioner.text import Talk2DinoTower, load_talk2dino_weights, load_tower
from tests.support.tiny import TEXTS, change_config, tiny_tower

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
    old = load_talk2dino_weights(written(tmp_path, renamed(state), "old.pth"))
    save_file(state, tmp_path / "safe.safetensors")
    safe = load_talk2dino_weights(tmp_path / "safe.safetensors")
    half = load_talk2dino_weights(written(tmp_path, published(dtype=torch.float16), "half.pth"))
    for other, error in ((old, 0), (safe, 0), (half, 1e-2)):
        assert list(other) == list(new)
        for name, tensor in new.items():
            torch.testing.assert_close(other[name], tensor, rtol=error, atol=error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_layer.bias": None}, r"missing linear_layer\.bias"),
        ({"hidden_layers.0.weight": None}, r"missing hidden_layers\.0\.weight"),
        ({"hidden_layers.1.weight": torch.ones(2, 2)}, r"unexpected hidden_layers\.1"),
        (renamed(published()), r"unexpected linear_layer2\.bias, linear_layer2"),
        ({"linear_layer.bias": torch.ones(3)}, r"linear_layer\.bias is \(3,\).*\(14,\)"),
        (
            {"hidden_layers.0.weight": torch.ones(DIM, 5)},
            r"hidden_layers\.0\.weight is \(12, 5\).*\(12, 14\)",
        ),
        ({"hidden_layers.0.bias": torch.ones(5)}, r"hidden_layers\.0\.bias is \(5,\).*\(12,\)"),
        ({"linear_layer.weight": torch.ones(4)}, r"linear_layer\.weight is \(4,\)"),
        (
            {"linear_layer.bias": torch.ones(WIDTH, dtype=torch.int64)},
            r"linear_layer\.bias is \(14,\) torch\.int64",
        ),
    ],
)
def test_what_is_no_projection_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    state = {name: t for name, t in {**published(), **changes}.items() if t is not None}
    with pytest.raises(CheckpointError, match=message):
        load_talk2dino_weights(written(tmp_path, state))


def test_a_tower_of_another_width_is_refused(tmp_path: Path) -> None:
    weights = load_talk2dino_weights(written(tmp_path, published()))
    with pytest.raises(CheckpointError, match=r"10 wide, the text tower gives 8"):
        Talk2DinoTower.from_weights(tiny_tower(dim=8), weights)


@pytest.mark.parametrize("linear", [False, True])
def test_a_saved_tower_comes_back_with_the_one_inside(tmp_path: Path, linear: bool) -> None:
    weights = load_talk2dino_weights(written(tmp_path, published(linear=linear)))
    tower = Talk2DinoTower.from_weights(tiny_tower(dim=TEXT_DIM), weights)
    tower.save(tmp_path / "saved", storage="fp32")
    torch.manual_seed(99)
    loaded = load_tower(tmp_path / "saved")
    assert isinstance(loaded, Talk2DinoTower)
    assert loaded.config == tower.config
    assert not loaded.training
    assert torch.equal(loaded.encode(TEXTS), tower.encode(TEXTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": "wide"}, "wide"),
        ({"width": None}, "unexpected project_out"),
        ({"dim": 13}, r"project_out\.bias is \(12,\).*\(13,\)"),
        ({"dim": -1}, "wrong setting"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    Talk2DinoTower(tiny_tower(dim=TEXT_DIM), DIM, width=WIDTH).save(tmp_path)
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
