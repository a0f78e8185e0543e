"""The joint space of texts and images of an open_clip model, from weights that lie on this machine.

Knows: open_clip's model, tokenizer and preprocessing. Does NOT know: scores; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchioner.base.errors import CheckpointError, UnknownNameError
from patchioner.base.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ClipSpace:
    """A model that embeds texts and images into one space.

    Attributes:
        model: has `encode_text(tokens)` and `encode_image(pixels)`, both -> (n, dim).
        tokenizer: texts -> tokens (n, length).
        preprocess: PIL image -> pixels (3, side, side).
        device: where the model is.
        batch: most texts or images per pass.

    Example:
        >>> space = ClipSpace.load("ViT-B-32-quickgelu", "ViT-B-32.pt")  # doctest: +SKIP
        >>> space.embed_text(["A photo depicts a dog"]).shape  # doctest: +SKIP
        (1, 512)
    """

    model: Any
    tokenizer: Any
    preprocess: Any
    device: str = "cpu"
    batch: int = 64

    @classmethod
    def load(cls, architecture: str, weights: str | Path, *, device: str = "cpu") -> ClipSpace:
        """Load an open_clip architecture with weights from a file.

        Args:
            architecture: open_clip's name. Both published scores use OpenAI's CLIP B/32, "ViT-B-32-quickgelu".
            weights: a checkpoint file (OpenAI's ViT-B-32.pt saved as a state dict, or the PAC-S checkpoint's).
            device: where it runs.

        Raises:
            MissingExtraError: open_clip is not installed.
            UnknownNameError: open_clip has no such architecture.
            CheckpointError: the file is missing, or does not fit.
        """
        library = require("open_clip", "clip")
        known = library.list_models()
        if architecture not in known:
            raise UnknownNameError.among("open_clip architecture", architecture, known)
        path = Path(weights)
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing: CLIP-S and PAC-S need their weights as a file on this machine (nothing is"
                " downloaded); leave these scores out, or fetch the checkpoint and give its path"
            )
        model, _, preprocess = library.create_model_and_transforms(architecture, device=device)
        try:
            library.load_checkpoint(model, str(path), weights_only=True)
        except Exception as error:  # torch raises a different type for each way of not fitting
            raise CheckpointError(f"{path} does not fit {architecture}: {error}") from error
        return cls(model.eval(), library.get_tokenizer(architecture), preprocess, device)

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Unit embeddings of texts, (n, dim) float64; long texts are cut at the tokenizer's length."""
        return self._embed(
            texts, lambda group: self.model.encode_text(self.tokenizer(group).to(self.device))
        )

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """Unit embeddings of PIL images, (n, dim) float64; draw a region onto its photo before."""
        import torch

        def embed(group: list[Image]) -> torch.Tensor:
            pixels = torch.stack([self.preprocess(image.convert("RGB")) for image in group])
            found: torch.Tensor = self.model.encode_image(pixels.to(self.device))
            return found

        return self._embed(images, embed)

    def _embed(self, items: Sequence[Any], embed: Any) -> NDArray[np.float64]:
        import torch

        waiting = iter(items)
        rows = []
        with torch.inference_mode():
            while group := list(islice(waiting, self.batch)):
                rows.append(torch.nn.functional.normalize(embed(group).float(), dim=-1).cpu())
        found = torch.cat(rows).numpy() if rows else np.zeros((0, 0))
        return np.asarray(found, dtype=np.float64)
