"""What a backbone is: an image in, patch features out. Knows the interface, its folder and the registry; no network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from patchioner.backbones.features import PatchFeatures
from patchioner.backbones.preprocess import preprocess
from patchioner.geometry import ImageGeometry, Preprocessing
from patchioner.stored_module import StoredModule
from patchioner_base.registry import Registry


class Backbone(StoredModule):
    """A network that turns a photo into text-aligned patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """One pass per upright RGB image. Images do not influence one another."""

    @abstractmethod
    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights to a device and a precision, in place."""
        self.to(device, dtype)


class SingleViT(Backbone):
    """A backbone with one vision transformer, `vit`, that looks at one photo a pass, fitted by `preprocessing`."""

    vit: Any
    preprocessing: Preprocessing

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""
        return self.preprocessing.geometry(image_size)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """One backbone pass per upright RGB image; see `PatchFeatures`. Images do not influence one another."""
        return [self._encode_one(image) for image in images]

    def _encode_one(self, image: Image.Image) -> PatchFeatures:
        pixels, geometry = preprocess(image, self.preprocessing)
        weight = next(self.vit.parameters())
        return self.features_of(pixels[None].to(weight.device, weight.dtype), geometry)

    @abstractmethod
    def features_of(self, pixels: Tensor, geometry: ImageGeometry) -> PatchFeatures:
        """Features of one preprocessed photo, (1, 3, H, W) on the network's device and in its precision."""


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
