"""Packed linear layers against torch's own, and that nobody else can tell them apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from patchioner.base import packed
from patchioner.base.packed import PackedLinear, PackedTable, can_pack, pack, weights_of
from patchioner.base.products import has_onednn

pytestmark = pytest.mark.skipif(
    not has_onednn(), reason="packs on x86 alone, with oneDNN's operators"
)


def network(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(256, 512, bias=bias), nn.GELU(), nn.Linear(512, 256), nn.Linear(256, 3)
    return nn.Sequential(*layers).eval()


M = TypeVar("M", bound=nn.Module)


def packed_twin(original: M) -> M:
    twin = copy.deepcopy(original)
    pack(twin)
    return twin


def first(module: nn.Sequential) -> nn.Linear:
    layer = module[0]
    assert isinstance(layer, nn.Linear)
    return layer


def states(module: nn.Module) -> list[bool]:
    return [layer.is_packed for layer in module.modules() if isinstance(layer, PackedLinear)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(256,), (1, 256), (7, 256), (2, 3, 256), (0, 256), (300, 256)])
@torch.inference_mode()
def test_outputs_are_those_of_the_plain_layers(shape: tuple[int, ...], bias: bool) -> None:
    with torch.inference_mode(False):
        plain = network(bias=bias)
        twin = packed_twin(plain)
    inputs = torch.randn(shape)
    assert states(twin) == [True, True]  # the third layer is too small
    torch.testing.assert_close(twin(inputs), plain(inputs), rtol=1e-5, atol=1e-6)
    turned = torch.randn(256, 9).T
    torch.testing.assert_close(twin(turned), plain(turned), rtol=1e-5, atol=1e-6)


def test_weights_are_the_same_to_the_last_bit_for_whoever_asks() -> None:
    plain = network()
    twin = packed_twin(plain)
    assert list(twin.state_dict()) == list(plain.state_dict())
    for name, weight in twin.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])
    assert torch.equal(first(twin).weight, first(plain).weight)
    assert sum(weight.numel() for weight in weights_of(twin)) == sum(
        weight.numel() for weight in plain.parameters()
    )
    assert states(twin) == [True, True]


def test_a_copy_is_whole_and_the_original_stays_packed() -> None:
    plain = network()
    twin = packed_twin(plain)
    other = copy.deepcopy(twin)
    assert states(other) == [False, False]
    for weight, expected in zip(other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, expected) and weight.requires_grad
    assert states(twin) == [True, True]


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.train(),
        lambda module: module.to(torch.float64),
        lambda module: module.load_state_dict(network().state_dict()),
        lambda module: module(torch.randn(2, 256)),  # with gradients asked for
    ],
)
def test_what_changes_a_module_unpacks_it(change: Callable[[nn.Module], object]) -> None:
    twin = packed_twin(network())
    change(twin)
    assert states(twin) == [False, False]
    expected = network().state_dict()
    for name, weight in twin.named_parameters():
        assert torch.equal(weight.float(), expected[name])


def test_an_optimiser_made_before_training_trains_the_weights() -> None:
    twin = packed_twin(network())
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin.train()
    twin(torch.ones(2, 256)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(first(twin).weight, first(network()).weight)


def test_gradients_reach_what_lies_before_frozen_layers() -> None:
    plain = network().requires_grad_(False)
    twin = packed_twin(plain)
    inputs = torch.randn(2, 256, requires_grad=True)
    found = torch.autograd.grad(twin(inputs).sum(), inputs)[0]
    expected = torch.autograd.grad(plain(inputs).sum(), inputs)[0]
    torch.testing.assert_close(found, expected)
    assert states(twin) == [True, True]


def test_other_layers_are_left_alone() -> None:
    class Own(nn.Linear):
        """Multiplies as it likes."""

    embedding, head = nn.Embedding(512, 256), nn.Linear(256, 512, bias=False)
    head.weight = embedding.weight
    layers = nn.ModuleList([Own(512, 512), embedding, head, nn.Linear(512, 512).double()]).eval()
    training = nn.Linear(512, 512)
    for module in (layers, training):
        pack(module)
        assert not any(states(module))
    ids = torch.tensor([3])
    assert torch.equal(embedding(ids), head.weight[ids])


def test_hooks_and_names_stay() -> None:
    seen: list[Tensor] = []
    plain = network()
    plain[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    first = plain[0]
    pack(plain)
    with torch.inference_mode():
        plain(torch.randn(2, 256))
    assert plain[0] is first and len(seen) == 1


def test_where_there_is_no_operator_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "has_onednn", lambda: False)
    assert states(packed_twin(network())) == []


@pytest.mark.parametrize("stretch", [64, 100, 1000])
@pytest.mark.parametrize("inputs", [1, 3, 40])
def test_a_table_multiplies_any_of_its_stretches(stretch: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(stretch)
    matrix = torch.randn(515, 128, generator=generator)
    rows = torch.randn(inputs, 128, generator=generator)
    table, expected = PackedTable(matrix, stretch), rows @ matrix.T
    for first in range(0, 515, stretch):
        for last in {min(first + stretch, 515), 515}:
            found = table.product(rows, first, last)
            torch.testing.assert_close(found, expected[:, first:last], rtol=1e-5, atol=1e-4)


def test_only_large_float32_matrices_of_a_cpu_can_be_packed() -> None:
    assert can_pack(torch.zeros(512, 512))
    assert not can_pack(torch.zeros(10, 10))
    assert not can_pack(torch.zeros(512, 512, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(512, 512, device="meta"))
