"""Small models of `transformers` that help a decoder find its words, loaded when they are first needed.

Knows: how such a network and its tokenizer are fetched, once, whatever thread asks. Does NOT know: what they are for.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from patchioner.base.errors import HubError
from patchioner.base.optional import require


class HelperModel:
    """A network and its tokenizer, in float32, from safetensors only.

    Args:
        name: an id of the Hugging Face hub or a folder.
        auto_class: the class of `transformers` that reads the network, such as "AutoModel".
        what: what it is, for the message when it cannot be had.
        instead: what serves without a download, for the same message.
        device: where the network goes.
    """

    def __init__(
        self,
        name: str,
        auto_class: str,
        *,
        what: str,
        instead: str,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.auto_class, self.device = name, auto_class, device
        self._what, self._instead = what, instead
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def parts(self) -> tuple[Any, Any]:
        """The network and the tokenizer; the first call loads them.

        Raises:
            HubError: they cannot be had, or not as safetensors.
            MissingExtraError: without the extra `language-models`.
        """
        with self._lock:
            if self._loaded is None:
                transformers = require("transformers", "language-models")
                try:
                    tokenizer = transformers.AutoTokenizer.from_pretrained(self.name)
                    network = getattr(transformers, self.auto_class).from_pretrained(
                        self.name, dtype=torch.float32, use_safetensors=True
                    )
                except (OSError, ValueError) as error:
                    raise HubError(
                        f"{self._what} {self.name!r} cannot be loaded: {error}. Check the name and the "
                        f"network, or {self._instead}, which needs no download"
                    ) from error
                self._loaded = network.to(self.device).eval(), tokenizer
            return self._loaded
