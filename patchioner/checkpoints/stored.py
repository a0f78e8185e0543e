"""Networks with a folder of their own, how they are made of a config, and files as other people write them.

No file is unpickled beyond plain tensors and containers.
"""

from __future__ import annotations

import os
import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError, first_line
from patchioner.base.files import leads_out, read_json, settings_from, without_repeats, write_json
from patchioner.base.optional import Registry, require
from patchioner.base.weights import (
    TORCH_FILES,
    AllocationLimit,
    Storage,
    as_float,
    fit_weights,
    inference_copy,
    kind_of_file,
    load_weights,
    save_weights,
)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
PRETRAINED = "pretrained"
# Our own errors are among these; torch names an impossible shape by a RuntimeError.
_WRONG = LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError
_WRAPPINGS = ("state_dict", "model_state_dict", "model", "teacher")
_DISTRIBUTED = "module."


class StoredModule(nn.Module, ABC):
    """What backbones and text towers have in common: their config, and their place in a checkpoint.

    `dim` is the width of the embedding space.
    """

    dim: int

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", the key of its registry, and its settings."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make one with its weights; see `WeightSource`.

        Args:
            config: "type", settings as `config` gives them, and "weights" where they are not in the folder.
            folder: where the config is; its relative paths start there.
        """

    def to(  # type: ignore[override]  # not in place, as `nn.Module` does it
        self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True
    ) -> Self:
        """A frozen copy for inference on a device, in a precision; see `inference_copy`. This one stays as it is."""
        twin = inference_copy(self, device, dtype, optimize=optimize)
        for name, part in self._parts().items():  # each as it sees fit
            setattr(twin, name, part.to(device, dtype, optimize=optimize))
        return twin

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json and weights.safetensors; `storage` is the precision of the weights on disk.

        Networks of this kind inside have folders of their own; what has other files (a tokenizer) adds them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self._parts().items():
            part.save(folder / name, storage=storage)
        if state := self.stored().state_dict():
            save_weights(state, folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def _parts(self) -> dict[str, StoredModule]:
        return {k: one for k, one in self.named_children() if isinstance(one, StoredModule)}

    def stored(self) -> nn.Module:
        """What `save` writes here: all of it, but for networks with a folder of their own."""
        if not (parts := self._parts()):
            return self
        return nn.ModuleDict({k: one for k, one in self.named_children() if k not in parts})

    def restore(self, folder: Path | None) -> Self:
        """Read what `save` wrote, strictly (CheckpointError), into this network, and give it back; None: nothing."""
        if folder is not None:
            weights = folder / WEIGHTS_FILE
            fit_weights(self.stored(), load_weights(weights), source=str(weights))
        return self.eval()


P = TypeVar("P", bound=StoredModule)
T = TypeVar("T")


def make_part(registry: Registry[type[P]], given: Any, folder: Path, source: str) -> P:
    """Make a backbone or text tower.

    Args:
        registry: of its kind.
        given: a folder that `save` wrote, or a config with a "type".
        folder: relative paths start here.
        source: where `given` stands, for messages.

    Raises:
        CheckpointError: no such folder or file; an unknown key or value; weights that do not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.
    """
    if not isinstance(given, str | Path | Mapping):
        raise CheckpointError(f"{source}: {registry.kind} {given!r}: give a folder or a mapping")
    try:
        if not isinstance(given, Mapping):
            folder = existing_path(given, folder, registry.kind)
            source = str(folder / CONFIG_FILE)
            given = read_json(source)
            _refuse_paths_out(given, source)
        part = registry.of_config(given, source)
        own = Path() if "weights" in given else folder / WEIGHTS_FILE
        with AllocationLimit.beside(own, source):
            return part.from_config(given, folder)
    except CheckpointError:
        raise
    except _WRONG as error:
        reason = first_line(error)
        raise CheckpointError(f"{source} lacks or has a wrong setting: {reason}") from error


def _refuse_paths_out(config: Any, source: str) -> None:
    """The config of a folder comes from others: it names no file outside of that folder."""
    if isinstance(config, str) and leads_out(config):
        raise CheckpointError(f"{source}: {config!r:.80} leads out of its folder: copy it there")
    inner = list(config.values()) if isinstance(config, Mapping) else config
    for one in inner if isinstance(inner, list) else ():
        _refuse_paths_out(one, source)


def read_settings(kind: type[T], values: Any, source: str, **own: Any) -> T:
    """`settings_from` the values of a file; its errors are a CheckpointError."""
    try:
        return settings_from(kind, values, source, **own)
    except OptionError as error:
        raise CheckpointError(str(error)) from error


def settings_of(config: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The settings of a config; one that is not `known` is an UnknownNameError with the close ones."""
    own = {key: value for key, value in config.items() if key not in ("type", "weights")}
    names = set(known)
    if unknown := sorted(map(str, own.keys() - names)):
        raise UnknownNameError.among(f"key of {config.get('type')}", unknown[0], names)
    return own


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from, as the "weights" of a config tell; without them, from the config's own folder.

    Attributes:
        fetched: ``pretrained``, by the library behind the part, or ``pretrained:TAG`` where it needs a `tag`.
        file: a path, in the authors' own layout.
        folder: a path, that `save` wrote.
        parts: several files by name.

    Nothing set (``random``): they stay random.
    """

    fetched: bool = False
    tag: str | None = None
    file: Path | None = None
    folder: Path | None = None
    parts: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> WeightSource:
        """What a config says; OptionError where that is nothing and its folder holds none, or no such path."""
        given = config.get("weights")
        if given is None:
            if not (folder / WEIGHTS_FILE).is_file():
                raise OptionError(
                    f"{folder / WEIGHTS_FILE}: no such file; is the folder complete? A config elsewhere needs "
                    "'weights': random, pretrained, or a path"
                )
            return cls(folder=folder)
        if isinstance(given, Mapping):
            return cls(parts=given)
        if given == "random":
            return cls()
        if isinstance(given, str) and given.partition(":")[0] == PRETRAINED:
            return cls(fetched=True, tag=given.partition(":")[2] or None)
        path = existing_path(given, folder, "weights")
        return cls(folder=path) if path.is_dir() else cls(file=path)

    def refuse(self, *, fetched: bool = False, file: bool = False, advice: str) -> None:
        """OptionError with advice where weights are fetched, or in a file, and the part does not know such."""
        if (fetched and self.fetched) or (file and self.file is not None):
            raise OptionError(f"weights {self.tag or self.file or PRETRAINED}: {advice}")


def existing_path(given: Any, folder: Path, what: str) -> Path:
    """A file or folder that a config names; OptionError where it names nothing, or nothing is there."""
    if not isinstance(given, str | Path) or not str(given).strip():
        raise OptionError(f"{what} is {given!r}: give a path")
    found = folder / Path(given).expanduser()
    if not os.path.exists(found):  # also where the system takes no such name
        raise OptionError(f"{what} {str(given)!r:.200}: there is no {str(found):.300}")
    return found


def read_object(path: Path) -> Any:
    """What a `.pt` file holds: tensors, and plain containers, numbers and texts.

    Raises:
        CheckpointError: missing, truncated, foreign, or a pickle that wants to execute something.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if (kind := kind_of_file(path)) not in TORCH_FILES:
        raise CheckpointError(f"{path}: truncated, or no tensors: it is {kind}; fetch it again")
    try:
        with warnings.catch_warnings():  # on a pickle of a newer protocol, before it is refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: it holds more than tensors, and to read that would execute code from the file; nothing was "
            "executed. Save the plain state dict, or convert it to safetensors where it comes from"
        ) from error
    except Exception as error:  # torch has no error class of its own for a damaged file
        reason = first_line(error)
        raise CheckpointError(f"{path}: truncated or not a file of tensors ({reason})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict in float32, without the prefix that distributed training adds.

    Raises:
        CheckpointError: as `read_object`; or it holds something other than named tensors, or values not finite.
    """
    held = load_weights(path) if path.suffix == ".safetensors" else read_object(path)
    while isinstance(held, Mapping):
        inner = [held[key] for key in _WRAPPINGS if isinstance(held.get(key), Mapping)]
        if len(inner) != 1:
            break
        held = inner[0]
    if not isinstance(held, Mapping) or not held:
        found = "none" if isinstance(held, Mapping) else type(held).__name__
        raise CheckpointError(f"{path}: expected named tensors, found {found}")
    for name, value in held.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(f"{path}: {name!r} is no tensor; give a state dict of tensors")
    if len({name.startswith(_DISTRIBUTED) for name in held}) > 1:
        raise CheckpointError(f"{path}: some names have {_DISTRIBUTED!r}; two files were mixed up")
    return {name.removeprefix(_DISTRIBUTED): as_float(tensor, f"{path}: {name}") for name, tensor in held.items()}


def part_of(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that any name has, without it; "" takes all."""
    for prefix in prefixes:
        if found := {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}:
            return found
    return {}


def read_yaml(path: Path) -> Any:
    """The values of a YAML file; tags that would make anything but plain values are refused.

    Raises:
        CheckpointError: it cannot be read, is not UTF-8, or is no plain YAML.
        MissingExtraError: pyyaml is not installed.
    """
    yaml = require("yaml", "published")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined,misc]  # imported when it is needed
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            own = (key for key, _ in node.value if not key.tag.endswith(":merge"))  # "<<" is no key
            without_repeats((self.construct_object(key, deep=True), None) for key in own)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check it") from error
    # No YAML, no UTF-8, a number of thousands of digits, brackets as deep, or a date that is none: each its own class.
    except Exception as error:
        said = "a date that is none" if isinstance(error, AttributeError) else f"{error}"
        reason = " ".join(said.split())[:200]
        raise CheckpointError(f"{path}: not a plain YAML file ({reason})") from error
