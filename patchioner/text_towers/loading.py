"""Text towers by registry key, and their folders (config.json, weights.safetensors, tokenizer.json).

Knows: which towers there are and how they lie on disk. Does not know: what their vectors are used for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer
from torch import Tensor

from patchioner.text_towers.bert import BertSettings, BertTower
from patchioner_base.errors import CheckpointError
from patchioner_base.files import read_json, write_json
from patchioner_base.registry import Registry
from patchioner_base.weights import Storage, fit_weights, load_weights, save_weights


class TextTower(Protocol):
    """What the captioner needs of a text tower."""

    @property
    def dim(self) -> int:
        """Width of the embedding space."""

    def encode(self, texts: list[str], *, batch: int = 256) -> Tensor:
        """Texts -> (n, dim) float32 on the CPU."""


TEXT_TOWERS: Registry[Callable[[Path, dict[str, Any]], BertTower]] = Registry("text tower")


def save_tower(tower: BertTower, folder: Path, *, storage: Storage = "fp16") -> None:
    """Write a tower; `storage` is the precision of the weights on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tower.state_dict(), folder / "weights.safetensors", storage=storage)
    (folder / "tokenizer.json").write_text(tower.tokenizer.to_str(), encoding="utf-8")
    write_json(folder / "config.json", tower.config)


def load_tower(folder: Path) -> BertTower:
    """Read a tower; CheckpointError where a file is missing, corrupt or of another shape."""
    path = folder / "config.json"
    config = read_json(path)
    return TEXT_TOWERS.of_config(config, str(path))(folder, config)


@TEXT_TOWERS.register("bert")
def _load_bert(folder: Path, config: dict[str, Any]) -> BertTower:
    try:
        settings = BertSettings(**{key: value for key, value in config.items() if key != "type"})
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"{folder} holds no usable text tower ({error}): fetch the checkpoint again"
        ) from error
    if tokenizer.get_vocab_size() != settings.vocabulary:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} has {tokenizer.get_vocab_size()} pieces, the weights {settings.vocabulary}"
        )
    tower = BertTower(settings, tokenizer)
    weights = folder / "weights.safetensors"
    fit_weights(tower, load_weights(weights), source=str(weights))
    return tower.eval()
