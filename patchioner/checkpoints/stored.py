"""A network with a folder of its own (config.json beside weights.safetensors), and how it is made of a config.

A config names a "type" and the family's settings. Its "weights" are those in its own folder where it says nothing, else
``random``, ``pretrained`` (fetched by the library behind the family), ``pretrained:TAG`` where that needs a tag or a
repository, a file in the authors' own layout, or another folder that `save` wrote. So one classmethod serves our
folders, readable YAML files and the authors' folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.base.files import read_json, write_json
from patchioner.base.inference import inference_copy
from patchioner.base.registry import Registry
from patchioner.base.weights import Storage, fit_weights, load_weights, save_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
PRETRAINED = "pretrained"


class StoredModule(nn.Module, ABC):
    """What backbones and text towers have in common: their config, and their place in a checkpoint."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", the key of its registry, and its settings."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make one with its weights; see the module.

        Args:
            config: "type", settings as `config` gives them, and "weights" where they are not in the folder.
            folder: where the config is; its relative paths start there.
        """

    def to(  # type: ignore[override]  # not in place, as `nn.Module` does it
        self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True
    ) -> Self:
        """A frozen copy for inference on a device, in a precision; see `inference_copy`. This one stays as it is."""
        return inference_copy(self, device, dtype, optimize=optimize)

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json and weights.safetensors; `storage` is the precision of the weights on disk.

        What has files of its own (a tokenizer, another network inside) adds them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into this network, strictly; CheckpointError where a tensor does not fit."""
        weights = folder / WEIGHTS_FILE
        fit_weights(self, load_weights(weights), source=str(weights))
        self.eval()


P = TypeVar("P", bound=StoredModule)


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
        raise CheckpointError(
            f"{source}: {registry.kind} is {given!r}: give a folder or a mapping with 'type' and 'weights'"
        )
    try:
        if not isinstance(given, Mapping):
            folder = existing_path(given, folder, registry.kind)
            source = str(folder / CONFIG_FILE)
            given = read_json(source)
        kind = given.get("type") if isinstance(given, Mapping) else None
        if not isinstance(kind, str) or kind not in registry:
            raise UnknownNameError.among(f"type of {registry.kind}", str(kind), registry.names())
        return registry.get(kind).from_config(given, folder)
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        # Our own errors are among these; torch names an impossible shape by a RuntimeError.
        raise CheckpointError(f"{source} lacks or has a wrong setting: {error}") from error


def settings_of(config: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The settings of a config; one that is not `known` is an UnknownNameError with the close ones."""
    own = {key: value for key, value in config.items() if key not in ("type", "weights")}
    names = list(known)
    for key in own:
        if key not in names:
            raise UnknownNameError.among(f"key of {config.get('type')}", str(key), names)
    return own


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from; nothing set: they stay random.

    Attributes:
        fetched: by the library behind the part, with its `tag` if it needs one.
        file: in the authors' own layout.
        folder: that `save` wrote.
        parts: several files by name.
    """

    fetched: bool = False
    tag: str | None = None
    file: Path | None = None
    folder: Path | None = None
    parts: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> WeightSource:
        """What a config says; see the module.

        Raises:
            OptionError: it says nothing and its folder holds none, or names a path where nothing is.
        """
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


def existing_path(given: Any, folder: Path, what: str) -> Path:
    """A file or folder that a config names; OptionError where it names nothing, or nothing is there."""
    if not isinstance(given, str | Path) or not str(given).strip():
        raise OptionError(f"{what} is {given!r}: give a path")
    found = folder / Path(given).expanduser()
    if not found.exists():
        raise OptionError(f"{what} {str(given)!r}: there is no {found}")
    return found
