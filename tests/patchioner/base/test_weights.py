"""Weights: round trips within their precision, strict fitting, and files of another kind."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError
from patchioner.base.weights import Storage, fit_weights, load_weights, save_weights, tensors_sha256

STORAGES: list[Storage] = ["fp32", "fp16", "int8"]


def make_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "large.weight": torch.randn(64, 8, 8, 2, generator=generator),
        "small.weight": torch.randn(8, 8, generator=generator),
        "bias": torch.randn(5000, generator=generator),
        "steps": torch.tensor(7),
        "levels": torch.arange(-4, 4, dtype=torch.int8),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_keeps_names_shapes_and_other_dtypes(tmp_path: Path, storage: Storage) -> None:
    state = make_state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    save_weights(state, tmp_path / "w.safetensors", storage=storage)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == state.keys()
    for name, tensor in before.items():
        assert torch.equal(state[name], tensor)
        assert loaded[name].shape == tensor.shape
        assert loaded[name].dtype == tensor.dtype
        if not tensor.is_floating_point():
            assert torch.equal(loaded[name], tensor)


def test_int8_is_off_by_half_a_level_per_row(tmp_path: Path) -> None:
    weight = make_state()["large.weight"] * torch.logspace(-3, 3, 64)[:, None, None, None]
    save_weights({"w": weight, "b": weight[0]}, tmp_path / "w.safetensors", storage="int8")
    loaded = load_weights(tmp_path / "w.safetensors")
    level = weight.abs().amax(dim=(1, 2, 3)) / 127
    error = (loaded["w"] - weight).abs().amax(dim=(1, 2, 3))
    assert bool((error <= 0.5001 * level).all())
    assert bool((error > 0.3 * level).all())  # it really was quantised
    assert torch.equal(loaded["b"], weight[0].half().float())  # too small for int8


@settings(max_examples=25, deadline=None)
@given(power=st.integers(-50, 38), zero_rows=st.integers(0, 64))
def test_int8_survives_any_scale_and_zero_rows(
    tmp_path_factory: pytest.TempPathFactory, power: int, zero_rows: int
) -> None:
    weight = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).reshape(64, 64)
    weight = (weight * 10.0**power).float()
    weight[:zero_rows] = 0
    path = tmp_path_factory.getbasetemp() / "scaled.safetensors"
    save_weights({"w": weight}, path, storage="int8")
    loaded = load_weights(path)["w"]
    assert bool((loaded[:zero_rows] == 0).all())
    assert bool(((loaded - weight).abs() <= 0.51 * weight.abs().amax() / 127 + 2e-36).all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("storage", STORAGES)
def test_not_finite_is_refused_at_save(tmp_path: Path, storage: Storage, bad: float) -> None:
    with pytest.raises(CheckpointError, match="'head.bias' has 1 values that are not finite"):
        save_weights({"head.bias": torch.tensor([0.0, bad])}, tmp_path / "w", storage=storage)
    assert list(tmp_path.iterdir()) == []


def test_not_finite_is_refused_at_load(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, torch.nan])}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w.safetensors: tensor 'w' has 1 values"):
        load_weights(tmp_path / "w.safetensors")


def write_torch_pickle(path: Path) -> None:
    torch.save({"w": torch.ones(3)}, path)


def write_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}))


def write_truncated(path: Path) -> None:
    save_weights(make_state(), path, storage="fp32")
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_torch_pickle, "zip archive, as torch.save writes"),
        (write_plain_pickle, "this is a pickle"),
        (write_truncated, "truncated"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50), "HDF5"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS"),
        (lambda path: path.write_text("hello " * 30), "not a safetensors file"),
        (lambda path: None, "no such file"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_corrupt_int8_files(tmp_path: Path) -> None:
    path = tmp_path / "w"
    levels = torch.ones(4, 4, dtype=torch.int8)
    save_file({"w.int8_scale": torch.ones(4)}, path, metadata={"storage": "int8"})
    with pytest.raises(CheckpointError, match="scales without a tensor"):
        load_weights(path)
    save_file({"w": levels, "w.int8_scale": torch.ones(3)}, path, metadata={"storage": "int8"})
    with pytest.raises(CheckpointError, match="corrupt"):
        load_weights(path)
    save_file({"w": levels}, path, metadata={"storage": "int3"})
    with pytest.raises(CheckpointError, match="int3"):
        load_weights(path)


def test_fit_names_every_fault_and_changes_nothing() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        fit_weights(module, state, source="folder/weights.safetensors")
    message = str(caught.value)
    assert message.startswith("folder/weights.safetensors: the weights do not fit Linear")
    assert "missing bias" in message
    assert "unexpected extra" in message
    assert "weight is (2, 4), the network has (2, 3)" in message
    assert torch.equal(module.weight, before)


def test_a_digest_follows_every_weight() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    before = tensors_sha256(network.state_dict())
    assert tensors_sha256(network.state_dict()) == before
    with torch.no_grad():
        network.bias[1] += 1e-3
    assert tensors_sha256(network.state_dict()) != before
