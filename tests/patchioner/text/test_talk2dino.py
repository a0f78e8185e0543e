"""Talk2DINO's projection: the formula written out, the published files in both styles of names, and damaged ones."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from patchioner.base.errors import CheckpointError
from patchioner.text import load_tower
from patchioner.text.talk2dino import Talk2DinoTower, load_talk2dino_weights
from tests.support.tiny import TEXTS, tiny_tower

TEXT_DIM, WIDTH, DIM = 10, 14, 12
OLD = {"hidden_layers.0": "linear_layer2"}


def published(*, linear: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors by the authors' names."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "linear_layer.weight": (WIDTH, TEXT_DIM),
        "linear_layer.bias": (WIDTH,),
        "hidden_layers.0.weight": (DIM, WIDTH),
        "hidden_layers.0.bias": (DIM,),
    }
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in shapes.items()
        if not linear or name.startswith("linear_layer.")
    }


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
    for other in (old, safe):
        assert list(other) == list(new)
        assert all(torch.equal(new[name], other[name]) for name in new)
    half = load_talk2dino_weights(written(tmp_path, published(dtype=torch.float16), "half.pth"))
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    assert {name: tuple(tensor.shape) for name, tensor in new.items()} == {
        "project_in.weight": (WIDTH, TEXT_DIM),
        "project_in.bias": (WIDTH,),
        "project_out.weight": (DIM, WIDTH),
        "project_out.bias": (DIM,),
    }


def without(name: str) -> dict[str, Tensor]:
    state = published()
    del state[name]
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("linear_layer.bias"), r"missing linear_layer\.bias"),
        (without("hidden_layers.0.weight"), r"missing hidden_layers\.0\.weight"),
        ({}, "expected named tensors, found none"),
        (
            {**published(), "hidden_layers.1.weight": torch.ones(2, 2)},
            r"unexpected hidden_layers\.1",
        ),
        ({**published(), **renamed(published())}, r"unexpected linear_layer2\.bias, linear_layer2"),
        (
            {**published(), "linear_layer.bias": torch.ones(3)},
            r"linear_layer\.bias is \(3,\).*14 rows",
        ),
        (
            {**published(), "hidden_layers.0.weight": torch.ones(DIM, 5)},
            r"hidden_layers\.0\.weight is \(12, 5\), linear_layer\.weight has 14 rows",
        ),
        (
            {**published(), "hidden_layers.0.bias": torch.ones(5)},
            r"hidden_layers\.0\.bias is \(5,\).*12 rows",
        ),
        ({**published(), "linear_layer.weight": torch.ones(4)}, r"linear_layer\.weight is \(4,\)"),
        (
            {**published(), "linear_layer.bias": torch.ones(WIDTH, dtype=torch.int64)},
            r"linear_layer\.bias is \(14,\) torch\.int64",
        ),
        (
            {**published(), "linear_layer.bias": torch.full((WIDTH,), torch.nan)},
            r"linear_layer\.bias has values that are not finite",
        ),
        ({"linear_layer": published()}, "'linear_layer' is no tensor"),
        (torch.ones(3), "expected named tensors, found Tensor"),
    ],
)
def test_what_is_no_projection_is_refused_by_name(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_talk2dino_weights(written(tmp_path, state))


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_execute_something_does_not(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    zipped = written(tmp_path, {**published(), "linear_layer.bias": Trap(sprung)})
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    for path in (zipped, bare):
        with pytest.raises(CheckpointError, match="nothing was executed"):
            load_talk2dino_weights(path)
    assert not sprung.exists()


def test_a_file_cut_short_empty_or_missing_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, published())
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated or not a file of tensors"):
            load_talk2dino_weights(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_talk2dino_weights(tmp_path / "none.pth")


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
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        load_tower(tmp_path)


def test_it_moves_and_rounds_with_the_rest() -> None:
    torch.manual_seed(0)
    tower = Talk2DinoTower(tiny_tower(dim=TEXT_DIM), DIM, width=WIDTH)
    exact = tower.encode(TEXTS)
    tower.to(torch.device("cpu"), torch.bfloat16)
    rounded = tower.encode(TEXTS)
    assert rounded.dtype == torch.float32
    assert torch.cosine_similarity(rounded, exact).min() > 0.98
