"""Training state on disk: exact, atomic, and refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from patchioner.base.errors import CheckpointError
from runs.training import state
from runs.training.state import load_state, save_state


def trained(steps: int) -> tuple[nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(steps):
        step(module, optimiser)
    return module, optimiser


def step(module: nn.Linear, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    module(torch.ones(1, 3)).square().sum().backward()
    optimiser.step()


def test_a_run_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    module, optimiser = trained(3)
    save_state(tmp_path, module, optimiser, 3, {"seen": torch.arange(4.0)})
    step(module, optimiser)
    other, other_optimiser = trained(0)
    seen = torch.zeros(4)
    assert load_state(tmp_path, other, other_optimiser, {"seen": seen}) == 3
    step(other, other_optimiser)
    assert torch.equal(other.weight, module.weight)
    assert seen.tolist() == [0, 1, 2, 3]


def test_old_states_are_cleared_and_weights_lie_under_their_names(tmp_path: Path) -> None:
    module, optimiser = trained(1)
    for done in (1, 2, 3):
        save_state(tmp_path, module, optimiser, done, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "optimiser-00000003.pt",
        "weights.safetensors",
    ]
    assert set(load_file(tmp_path / "weights.safetensors")) == {"module.weight", "module.bias"}


def test_a_run_killed_while_saving_finds_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, optimiser = trained(1)
    save_state(tmp_path, module, optimiser, 1, {})
    kept = module.weight.clone()
    step(module, optimiser)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, module, optimiser, 2, {})
    other, other_optimiser = trained(0)
    assert load_state(tmp_path, other, other_optimiser, {}) == 1
    assert torch.equal(other.weight, kept)


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    module, optimiser = trained(2)
    save_state(tmp_path, module, optimiser, 2, {})
    wide = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match=r"weight is \(2, 3\).*\(2, 4\)"):
        load_state(tmp_path, wide, torch.optim.AdamW(wide.parameters()), {})
    with pytest.raises(CheckpointError, match=r"extra\.seen"):
        load_state(tmp_path, module, optimiser, {"seen": torch.zeros(1)})
    torch.save({"step": 1, "optimiser": optimiser.state_dict()}, tmp_path / "optimiser-00000002.pt")
    with pytest.raises(CheckpointError, match="weights of step 2 and an optimiser of step 1"):
        load_state(tmp_path, module, optimiser, {})


@pytest.mark.parametrize("name", ["weights.safetensors", "optimiser-00000002.pt"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x02junk"])
def test_damaged_states_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    save_state(tmp_path, *trained(2), 2, {})
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(CheckpointError, match="no usable training state"):
        load_state(tmp_path, *trained(0), {})
