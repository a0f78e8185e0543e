"""Checkpoints of a training run: whole or absent, and refused when they belong to another run.

Knows: the folder of a checkpoint and what is in it.
Does NOT know: the training loop, texts, embeddings.

A checkpoint is written beside its place and renamed into it, so a killed run leaves either the
earlier checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from patchioner.base.errors import CheckpointError
from patchioner.base.files import read_json, write_json
from patchioner.base.weights import fit_weights, load_weights, save_weights

_PREFIX = "step-"


def save_training(
    folder: Path, *, module: nn.Module, optimizer: Optimizer, step: int, run: dict[str, Any]
) -> None:
    """Write the checkpoint of `step` and drop the earlier ones.

    Args:
        run: what identifies the run (options, corpus); `load_training` compares it.
    """
    target = folder / f"{_PREFIX}{step:08d}"
    draft = folder / f".{target.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_weights(module.state_dict(), draft / "weights.safetensors", storage="fp32")
    torch.save(optimizer.state_dict(), draft / "optimizer.pt")
    write_json(draft / "state.json", {"step": step, "run": run})
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    for other in _checkpoints(folder):
        if other != target:
            shutil.rmtree(other)


def load_training(
    folder: Path, *, module: nn.Module, optimizer: Optimizer, run: dict[str, Any]
) -> int:
    """Continue from the latest checkpoint: fill module and optimiser, give back the step.

    Returns:
        0 when the folder holds no checkpoint: the run starts afresh.

    Raises:
        CheckpointError: when the checkpoint is damaged or belongs to another run.
    """
    found = _checkpoints(folder)
    if not found:
        return 0
    latest = found[-1]
    state = read_json(latest / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise CheckpointError(f"{latest / 'state.json'} is not ours; remove {latest}")
    if state["run"] != run:
        changed = [k for k in run.keys() | state["run"].keys() if run.get(k) != state["run"].get(k)]
        raise CheckpointError(
            f"{latest} belongs to another run: {', '.join(sorted(changed))} changed; "
            "use the same settings, or another checkpoint folder"
        )
    weights = latest / "weights.safetensors"
    fit_weights(module, load_weights(weights), source=str(weights))
    device = next(module.parameters()).device
    path = latest / "optimizer.pt"
    try:
        optimizer.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; remove {latest}") from error
    return int(state["step"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())
