"""Weights: round trips, strict fits, files of another kind; inference copies against torch's own."""

import copy
import logging
import pickle
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from patchioner.base import weights
from patchioner.base.errors import CheckpointError
from patchioner.base.weights import has_onednn, inference_copy, linear, load_weights, save_weights
from tests.support import Log, MonkeyPatch, randn

STORAGES: list[weights.Storage] = ["fp32", "fp16", "int8"]
LEVELS = torch.ones(4, 4, dtype=torch.int8)
INT8 = {"storage": "int8"}


def make_state() -> dict[str, Tensor]:
    return {
        "large.weight": randn(64, 8, 8, 2),
        "small.weight": randn(8, 8),
        "bias": randn(5000),
        "steps": torch.tensor(7),
        "levels": torch.arange(-4, 4, dtype=torch.int8),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_keeps_names_shapes_and_other_dtypes(tmp_path: Path, storage: weights.Storage) -> None:
    state, path = make_state(), tmp_path / "w.safetensors"
    save_weights(state, path, storage=storage)
    loaded = load_weights(path)
    assert loaded.keys() == state.keys()
    for name, tensor in make_state().items():
        assert torch.equal(state[name], tensor)
        assert (loaded[name].shape, loaded[name].dtype) == (tensor.shape, tensor.dtype)
        if storage == "fp32" or not tensor.is_floating_point():
            assert torch.equal(loaded[name], tensor)
    (tmp_path / "usual").touch()  # others may read it as they may read other files
    assert len({one.stat().st_mode for one in tmp_path.iterdir()}) == 1
    path.write_bytes(path.read_bytes()[:-500] + bytes(500))  # as a copy that was cut short
    with pytest.raises(CheckpointError, match="other numbers than were written"):
        load_weights(path)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(CheckpointError, match="'head.bias' has 1 values that are not finite"):
            save_weights({"head.bias": torch.tensor([0.0, bad])}, tmp_path / "b", storage=storage)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("power", "zero_rows"), [(0, 0), (-50, 0), (-37, 3), (0, 64), (37, 1)])
def test_int8_is_off_by_half_a_level_per_row(tmp_path: Path, power: int, zero_rows: int) -> None:
    weight = randn(64, 8, 8, 2).double() * torch.logspace(-3, 0, 64)[:, None, None, None]
    weight = (weight * 10.0**power).float()
    weight[:zero_rows] = 0
    save_weights({"w": weight, "b": randn(9)}, tmp_path / "w", storage="int8")
    loaded = load_weights(tmp_path / "w")
    level = weight.abs().amax(dim=(1, 2, 3)) / 127
    error = (loaded["w"] - weight).abs().amax(dim=(1, 2, 3))
    assert bool((loaded["w"][:zero_rows] == 0).all())
    assert bool((error <= 0.5001 * level + 2e-36).all())
    assert torch.equal(loaded["b"], randn(9).half().float())  # too small for int8
    if power == zero_rows == 0:
        assert bool((error > 0.3 * level).all())  # it really was quantised


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(50), "zip archive, as torch.save writes"),
        (pickle.dumps({"w": [1.0]}), "this is a pickle"),
        (save({"w": torch.ones(300)})[:-1000], "truncated"),
        (b"", "this is an empty file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"hello " * 30, "not a safetensors file"),
        (None, "no such file"),
        (save({"w": torch.tensor([1.0, torch.nan])}), "tensor 'w' has 1 values"),
        (save({"w.int8_scale": torch.ones(4)}, INT8), "scales without a tensor"),
        (save({"w": LEVELS, "w.int8_scale": torch.ones(3)}, INT8), "corrupt"),
        (save({"w": LEVELS}, {"storage": "int3"}), "int3"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*{message}"):
        load_weights(path)


def digest(module: nn.Module) -> str:
    return weights.tensors_sha256(module.state_dict())


def test_fit_names_every_fault_and_changes_nothing() -> None:
    module = nn.Linear(3, 2)
    before = digest(module)
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    faults = r"missing bias.*unexpected extra.*weight is \(2, 4\), the network has \(2, 3\)"
    with pytest.raises(CheckpointError, match=f"^w: the weights do not fit Linear.*{faults}"):
        weights.fit_weights(module, state, source="w")
    whole = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2).char()}
    with pytest.raises(CheckpointError, match="wrong type: bias holds torch.int8, the network tor"):
        weights.fit_weights(module, whole, source="w")
    assert digest(module) == before
    with torch.no_grad():
        module.bias[1] += 1e-3
    assert digest(module) != before


needs_onednn = pytest.mark.skipif(not has_onednn(), reason="packs on x86 alone")
F32 = torch.float32
close = torch.testing.assert_close
same = partial(close, rtol=1e-5, atol=1e-5)


class Block(nn.Module):
    """Two large layers, a small one, a tied pair, a buffer, and a method that something else holds."""

    shift: Tensor

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(256, 512, bias=bias), nn.Linear(512, 256)
        self.small = nn.Linear(256, 3)
        self.table, self.head = nn.Embedding(512, 256), nn.Linear(256, 512, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("shift", torch.ones(256))
        self.held = self.inner

    def inner(self, inputs: Tensor) -> Any:
        return self.down(functional.gelu(self.up(inputs))) + self.shift

    def forward(self, inputs: Tensor) -> Any:
        return self.small(self.held(inputs)) + self.head(inputs)[..., :3]


def packed(module: nn.Module) -> list[str]:
    named = module.named_modules()
    return [name for name, layer in named if isinstance(layer, weights.PackedLinear)]


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_the_original(bias: bool, optimize: bool) -> None:
    original = Block(bias=bias).eval()
    twin = inference_copy(original, "cpu", F32, optimize=optimize)
    assert packed(twin) == (["up", "down"] if optimize and has_onednn() else [])
    shapes = [(256,), (7, 256), (2, 3, 256), (0, 256), (300, 256)]
    for inputs in (*(randn(*shape) for shape in shapes), randn(256, 9).T):
        with torch.inference_mode():
            same(twin(inputs), original(inputs))


def test_the_original_is_left_alone_and_shares_what_did_not_change() -> None:
    original = Block()
    before = digest(original)
    twin: Any = inference_copy(original, "cpu", F32)
    assert original.training and not twin.training
    assert all(own.requires_grad for own in original.parameters())
    assert not any(own.requires_grad for own in twin.parameters())
    assert packed(original) == [] and type(original.up) is nn.Linear
    assert twin.table.weight.data_ptr() == original.table.weight.data_ptr()
    assert twin.shift.data_ptr() == original.shift.data_ptr()
    assert twin.head.weight is twin.table.weight and twin.table.weight is not original.table.weight
    assert sum(own.numel() for own in original.parameters()) == 394_755
    for dtype in (torch.bfloat16, torch.float64):
        other = inference_copy(original, "cpu", dtype)
        assert {own.dtype for own in other.parameters()} == {dtype} and packed(other) == []
        assert other.shift.dtype == dtype and other(randn(2, 256).to(dtype)).dtype == dtype
    assert digest(original) == before


@needs_onednn
def test_a_copy_of_a_packed_copy_is_plain_and_bit_for_bit_the_original() -> None:
    original = Block()
    twin = inference_copy(original, "cpu", F32)
    for plain in (copy.deepcopy(twin), inference_copy(twin, "cpu", F32, optimize=False)):
        assert packed(plain) == [] and list(plain.state_dict()) == list(original.state_dict())
        assert digest(plain) == digest(original)
    assert inference_copy(twin, "cpu", torch.float64).up.weight.dtype == torch.float64
    assert packed(inference_copy(twin, "cpu", F32)) == ["up", "down"]


@needs_onednn
def test_subclasses_hooked_and_shared_layers_stay_plain() -> None:
    class Own(nn.Linear):
        """Multiplies as it likes."""

    seen: list[int] = []
    hooked, twice = nn.Linear(512, 512), nn.Linear(512, 512)
    hooked.register_forward_hook(lambda *_: seen.append(1))
    twin = inference_copy(nn.Sequential(Own(512, 512), hooked, twice, twice), "cpu", F32)
    assert packed(twin) == ["2"] and twin[2] is twin[3]
    twin(randn(1, 512))
    assert seen == [1]
    alone = nn.Linear(512, 512).requires_grad_(False)
    assert isinstance(weights.optimize_for_cpu(alone), weights.PackedLinear)


@pytest.mark.parametrize("fault", ["raises", "wrong", "missing", "aarch64"])
def test_operators_that_fail_are_not_used(fault: str, monkeypatch: MonkeyPatch, caplog: Log) -> None:
    def broken(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if fault == "raises":
            raise RuntimeError("schema changed")
        if fault == "missing":
            raise AttributeError("_linear_pointwise")
        return functional.linear(inputs, weight.to_dense(), bias) * 1.01

    if fault == "aarch64":
        monkeypatch.setattr("platform.machine", lambda: fault)
    monkeypatch.setattr(weights, "_onednn_linear", broken)
    monkeypatch.setattr(weights, "has_onednn", cache(has_onednn.__wrapped__))  # tried anew
    with caplog.at_level(logging.WARNING):
        twin = inference_copy(Block(), "cpu", F32)
    assert packed(twin) == [] and not weights.has_onednn() and not weights.can_pack(randn(512, 512))
    small = randn(2, 4), randn(3, 4)
    assert torch.equal(linear(*small), functional.linear(*small))
    assert ("oneDNN" in caplog.text) == (fault != "aarch64")


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (40, 96, 2048), (2, 384, 1), (0, 4, 3)])
def test_products_equal_torch(shape: tuple[int, int, int]) -> None:
    """Of rows, of columns, of every other row; of NaN and with gradients."""
    n, k, m = shape
    inputs, rows = randn(n, k), randn(m, k, seed=1)
    for weight in (rows, randn(k, m, seed=1).T, rows[::2]):
        wanted = (inputs.double() @ weight.T.double()).float()
        close(linear(inputs, weight), wanted, rtol=1e-5, atol=1e-5 * k**0.5)
    inputs[:1, 0] = torch.nan
    found = linear(inputs, rows)
    assert found[:1].isnan().all() and found[1:].isfinite().all()


def test_products_keep_gradients_and_types() -> None:
    assert linear(torch.empty(2, 0), torch.empty(3, 0)).tolist() == [[0.0] * 3] * 2
    wanted, weight = randn(2, 4).requires_grad_(), randn(3, 4, seed=1)
    linear(wanted, weight).sum().backward()
    same(wanted.grad, weight.sum(dim=0).expand(2, 4))
    assert linear(randn(2, 4).double(), weight.double()).dtype == torch.float64


@needs_onednn
def test_a_table_multiplies_and_is_not_copied() -> None:
    matrix, inputs = randn(515, 128), randn(40, 128, seed=1)
    table = weights.PackedTable(matrix)
    for one in (inputs, inputs[:1]):
        close(table.product(one), one @ matrix.T, rtol=1e-5, atol=1e-4)
    assert copy.deepcopy(table) is None
