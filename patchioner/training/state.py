"""Resumable state of a training step: weights and buffers in safetensors, the optimiser in torch's safe format.

Knows: files. Does not know: what is trained. Everything is written beside its place and then moved, so a run killed
while saving still finds the state before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_state(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    extra: Mapping[str, Tensor],
) -> None:
    """Write the state after `step` updates."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"module.{name}": tensor.detach().contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    tensors |= {f"extra.{name}": tensor.contiguous() for name, tensor in extra.items()}
    partial = folder / "state.partial"
    save_file(tensors, folder / "weights.partial", metadata={"step": str(step)})
    torch.save({"step": step, "optimiser": optimiser.state_dict()}, partial)
    os.replace(folder / "weights.partial", folder / "weights.safetensors")
    os.replace(partial, folder / "optimiser.pt")


def load_state(
    folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, extra: Mapping[str, Tensor]
) -> int:
    """Fill module, optimiser and `extra` in place from `folder`; returns the updates done, 0 where there is no state."""
    weights, state = folder / "weights.safetensors", folder / "optimiser.pt"
    if not (weights.exists() and state.exists()):
        return 0
    tensors = load_file(weights)
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
    )
    for name, tensor in extra.items():
        tensor.copy_(tensors[f"extra.{name}"])
    saved = torch.load(state, weights_only=True)
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])
