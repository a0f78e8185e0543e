"""Resumable state of a training step: weights and buffers in safetensors, the optimiser in torch's safe format.

Knows: files. Does not know: what is trained. The optimiser's file bears its step in its name and is written first;
moving the weights into place is what commits, so a run killed while saving still finds the whole state before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError
from patchioner.base.files import atomic_path
from patchioner.base.weights import fit_weights

WEIGHTS = "weights.safetensors"


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
    with atomic_path(_optimiser_file(folder, step)) as partial:
        torch.save({"step": step, "optimiser": optimiser.state_dict()}, partial)
    with atomic_path(folder / WEIGHTS) as partial:
        save_file(tensors, partial, metadata={"step": str(step)})
    for old in folder.glob("optimiser*.pt"):
        if old != _optimiser_file(folder, step):
            old.unlink()


def load_state(
    folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, extra: Mapping[str, Tensor]
) -> int:
    """Fill module, optimiser and `extra` in place from `folder`.

    Returns:
        The updates done, 0 without a state.

    Raises:
        CheckpointError: the state is damaged, or of another network.
    """
    weights = folder / WEIGHTS
    if not weights.exists():
        return 0
    try:
        tensors, step = _read(weights)
        saved = torch.load(_optimiser_file(folder, step), weights_only=True)
        if saved["step"] != step:
            raise CheckpointError(
                f"{folder} has weights of step {step} and an optimiser of step {saved['step']}: start the step anew"
            )
        fit_weights(module, under(tensors, "module."), source=str(weights))
        for name, tensor in extra.items():
            tensor.copy_(tensors[f"extra.{name}"])
        optimiser.load_state_dict(saved["optimiser"])
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise CheckpointError(
            f"{folder} holds no usable training state ({error}): start the step anew"
        ) from error
    return step


def _optimiser_file(folder: Path, step: int) -> Path:
    return folder / f"optimiser-{step:08d}.pt"


def _read(path: Path) -> tuple[dict[str, Tensor], int]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, int(file.metadata()["step"])


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
