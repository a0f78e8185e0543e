"""Files as other people write them: YAML of plain values; `.pt`, `.pth` or safetensors of named tensors.

No file is ever unpickled beyond plain tensors and containers: what asks for more is refused, unexecuted.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchioner.base.errors import CheckpointError
from patchioner.base.optional import require
from patchioner.base.weights import load_weights

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "teacher")
_DISTRIBUTED = "module."


def read_object(path: Path) -> Any:
    """What a `.pt` file holds: tensors, and plain containers, numbers and texts.

    Raises:
        CheckpointError: missing, truncated, foreign, or a pickle that wants to execute something.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # On a pickle of a newer protocol torch warns before it refuses.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: it holds more than tensors, and to read that would execute code from the file; nothing was "
            "executed. Save the plain state dict, or convert it to safetensors where it comes from"
        ) from error
    except Exception as error:  # torch has no error class of its own for a damaged file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: truncated or not a file of tensors ({lines[0]})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict in float32, without the prefix that distributed training adds.

    Raises:
        CheckpointError: as `read_object`; or it holds something other than named tensors, or values not finite.
    """
    if path.suffix == ".safetensors":
        return _without_prefix(load_weights(path), path)
    held = read_object(path)
    while (
        isinstance(held, Mapping)
        and len(inner := [k for k in _WRAPPINGS if isinstance(held.get(k), Mapping)]) == 1
    ):
        held = held[inner[0]]
    if not isinstance(held, Mapping) or not held:
        found = "none" if isinstance(held, Mapping) else type(held).__name__
        raise CheckpointError(f"{path}: expected named tensors, found {found}")
    strange = [
        name
        for name, value in held.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange:
        raise CheckpointError(
            f"{path}: {strange[0]!r} is no tensor; expected a state dict of tensors alone"
        )
    return _without_prefix(
        {name: as_float(tensor, f"{path}: {name}") for name, tensor in held.items()}, path
    )


def as_float(tensor: Tensor, where: str) -> Tensor:
    """A float tensor in float32, finite and without gradient; other tensors as they are."""
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.detach().float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{where} has values that are not finite; fetch or train it again")
    return tensor


def part_of(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that any name has, without it; "" takes all."""
    for prefix in prefixes:
        if found := {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}:
            return found
    return {}


def check_names(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str, what: str
) -> None:
    """Refuse a state dict that is not exactly these names and shapes.

    Raises:
        CheckpointError: lists what is missing, what is extra, and what has another shape, with both shapes.
    """
    faults = []
    if missing := sorted(shapes.keys() - state.keys()):
        faults.append(f"missing {_some(missing)}")
    if extra := sorted(state.keys() - shapes.keys()):
        faults.append(f"unexpected {_some(extra)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        faults.append(f"wrong shape: {_some(wrong)}")
    if faults:
        raise CheckpointError(f"{source}: not the tensors of {what}: {'; '.join(faults)}")


def _without_prefix(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    prefixed = [name for name in state if name.startswith(_DISTRIBUTED)]
    if prefixed and len(prefixed) != len(state):
        raise CheckpointError(
            f"{path}: some names begin with {_DISTRIBUTED!r} and some do not; two files were mixed up"
        )
    return {name.removeprefix(_DISTRIBUTED): tensor for name, tensor in state.items()}


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def read_yaml(path: Path) -> Any:
    """The values of a YAML file; tags that would make anything but plain values are refused.

    Raises:
        CheckpointError: it cannot be read, is not UTF-8, or is no plain YAML.
        MissingExtraError: pyyaml is not installed.
    """
    yaml = require("yaml", "published")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): check the path"
        ) from error
    # ValueError: no UTF-8, or a number of thousands of digits; RecursionError: brackets nested as deeply.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a plain YAML file ({reason})") from error
