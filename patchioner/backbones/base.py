"""What a backbone is: an image in, patch features out. Knows the interface, its folder and the registry; no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from patchioner.backbones.features import PatchFeatures
from patchioner.geometry import ImageGeometry
from patchioner_base.files import write_json
from patchioner_base.registry import Registry
from patchioner_base.weights import Storage, fit_weights, load_weights, save_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


class Backbone(nn.Module, ABC):
    """A network that turns a photo into text-aligned patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", a key of `BACKBONES`, and the loader's settings."""

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """One pass per upright RGB image. Images do not influence one another."""

    @abstractmethod
    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights to a device and a precision, in place."""
        self.to(device, dtype)

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json and weights.safetensors; `storage` is the precision of the weights on disk."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into this network, strictly; CheckpointError where a tensor does not fit."""
        weights = folder / WEIGHTS_FILE
        fit_weights(self, load_weights(weights), source=str(weights))
        self.eval()


LoadBackbone = Callable[[Path, dict[str, Any]], Backbone]
"""Makes a backbone from the folder that `Backbone.save` wrote and its config.json."""

BACKBONES: Registry[LoadBackbone] = Registry(
    "backbone",
    homes={
        "timm": "patchioner.backbones.timm_vit",
        "open_clip": "patchioner.backbones.open_clip_vit",
        "proxy_clip": "patchioner.backbones.proxy_clip",
        "siglip": "patchioner.backbones.siglip",
        "dinotxt": "patchioner.backbones.dinotxt",
    },
)
