"""Backbones by registry key, and their folders (config.json, weights.safetensors).

Knows: which backbones there are and how they lie on disk. Does not know: regions, text, decoders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from patchioner.backbones.features import PatchFeatures
from patchioner.backbones.timm_vit import TimmViT
from patchioner.geometry import Preprocessing
from patchioner_base.errors import CheckpointError
from patchioner_base.files import read_json, write_json
from patchioner_base.registry import Registry
from patchioner_base.weights import Storage, fit_weights, load_weights, save_weights


class Backbone(Protocol):
    """What the captioner needs of a backbone."""

    @property
    def dim(self) -> int:
        """Width of the embedding space."""

    def encode(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """One pass per upright RGB image."""


BACKBONES: Registry[Callable[[Path, dict[str, Any]], TimmViT]] = Registry("backbone")


def save_backbone(backbone: TimmViT, folder: Path, *, storage: Storage = "fp16") -> None:
    """Write a backbone; `storage` is the precision of the weights on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(backbone.state_dict(), folder / "weights.safetensors", storage=storage)
    write_json(folder / "config.json", backbone.config)


def load_backbone(folder: Path) -> TimmViT:
    """Read a backbone; CheckpointError where a file is missing, corrupt or of another shape."""
    path = folder / "config.json"
    config = read_json(path)
    return BACKBONES.of_config(config, str(path))(folder, config)


@BACKBONES.register("timm")
def _load_timm(folder: Path, config: dict[str, Any]) -> TimmViT:
    try:
        preprocessing = Preprocessing.from_config(config["preprocessing"])
        backbone = TimmViT(config["name"], preprocessing, head=config.get("head"))
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # ours are among these
        raise CheckpointError(
            f"{folder / 'config.json'} lacks or has a wrong setting: {error}"
        ) from error
    weights = folder / "weights.safetensors"
    fit_weights(backbone, load_weights(weights), source=str(weights))
    return backbone.eval()
