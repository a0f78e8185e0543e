"""What a text tower is: texts in, vectors out. Knows the interface, its folder and the registry; no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from patchioner_base.errors import TextError
from patchioner_base.files import write_json
from patchioner_base.registry import Registry
from patchioner_base.weights import Storage, fit_weights, load_weights, save_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


class TextTower(nn.Module, ABC):
    """A network that puts texts into the space of the patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", a key of `TEXT_TOWERS`, and the loader's settings."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts.

        Args:
            texts: n non-blank strings.
            batch: most texts per pass.

        Returns:
            (n, dim) float32 on the CPU, not normalised. A text's vector does not depend on the others.

        Raises:
            TextError: a text is blank or not a string.
        """

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json and weights.safetensors; towers with files of their own (a tokenizer) add them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into this network, strictly; CheckpointError where a tensor does not fit."""
        weights = folder / WEIGHTS_FILE
        fit_weights(self, load_weights(weights), source=str(weights))
        self.eval()


def check_texts(texts: Sequence[str]) -> None:
    """Refuse blank texts and things that are no text, by index."""
    if isinstance(texts, str):
        raise TextError(
            f"expected a list of texts, got the single string {texts!r}: wrap it in a list"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"text {index} is {text!r}: give non-blank strings")


LoadTower = Callable[[Path, dict[str, Any]], TextTower]
"""Makes a tower from the folder that `TextTower.save` wrote and its config.json."""

TEXT_TOWERS: Registry[LoadTower] = Registry(
    "text tower",
    homes={
        "bert": "patchioner.text_towers.bert",
        "open_clip": "patchioner.text_towers.open_clip_text",
        "talk2dino": "patchioner.text_towers.talk2dino",
        "siglip": "patchioner.text_towers.siglip_text",
        "dinotxt": "patchioner.text_towers.dinotxt_text",
    },
)
