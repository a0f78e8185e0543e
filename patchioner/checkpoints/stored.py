"""A network with a folder of its own: config.json beside weights.safetensors, read back strictly.

Knows: the two files. Does not know: what a network does, nor how one is made from its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from patchioner.base.errors import CheckpointError
from patchioner.base.files import write_json
from patchioner.base.weights import Storage, fit_weights, load_weights, save_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


class StoredModule(nn.Module, ABC):
    """What backbones and text towers have in common: their config, and their place in a checkpoint."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", the key of its registry, and the loader's settings."""

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


@contextmanager
def settings_of(folder: Path) -> Iterator[None]:
    """While a network is made from its config: whatever is wrong with a setting is a CheckpointError with its file.

    Example:
        >>> with settings_of(Path("checkpoint/backbone")):
        ...     int("wide")
        Traceback (most recent call last):
            ...
        patchioner.base.errors.CheckpointError: checkpoint/backbone/config.json lacks or has a wrong setting: \
invalid literal for int() with base 10: 'wide'
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        # Our own errors are among these; torch names an impossible shape by a RuntimeError.
        raise CheckpointError(
            f"{folder / CONFIG_FILE} lacks or has a wrong setting: {error}"
        ) from error
