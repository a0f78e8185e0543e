"""What a text tower is: texts in, vectors out. Knows the interface, its folder and the registry; no network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from patchioner.base.errors import TextError
from patchioner.base.registry import Registry
from patchioner.checkpoints.stored import StoredModule


class TextTower(StoredModule):
    """A network that puts texts into the space of the patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

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


def check_texts(texts: Sequence[str]) -> None:
    """Refuse blank texts, half characters (lone surrogates) and things that are no text, by index."""
    if isinstance(texts, str):
        raise TextError(
            f"expected a list of texts, got the single string {texts!r}: wrap it in a list"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"text {index} is {text!r}: give non-blank strings")
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise TextError(f"text {index} is {text!r}: half a character is in it; decode it anew")


LoadTower = Callable[[Path, dict[str, Any]], TextTower]
"""Makes a tower from the folder that `TextTower.save` wrote and its config.json."""

TEXT_TOWERS: Registry[LoadTower] = Registry(
    "text tower",
    homes={
        "bert": "patchioner.text.bert",
        "open_clip": "patchioner.text.open_clip_text",
        "talk2dino": "patchioner.text.talk2dino",
        "siglip": "patchioner.text.siglip_text",
        "dinotxt": "patchioner.text.dinotxt_text",
    },
)
