"""What a backbone is: an image in, patch features out.

Knows: the interface, how photos share passes, a backbone's folder and the registry. Does not know: any network.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchioner.backbones.features import Dense, PatchFeatures, split_features
from patchioner.backbones.preprocess import Encodable, PreparedPhoto, preprocess
from patchioner.base.registry import Registry
from patchioner.checkpoints.stored import StoredModule
from patchioner.geometry import ImageGeometry, Preprocessing
from patchioner.reduced_photos import Photo

# A GPU wants many patches a pass: 24 photos of 518 pixels and patches of 14.
PATCHES_PER_PASS_GPU = 32_768


class Backbone(StoredModule):
    """A network that turns a photo into text-aligned patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

    @abstractmethod
    def encode(self, images: Sequence[Encodable]) -> list[PatchFeatures]:
        """Features of upright RGB photos, in their order. Photos do not influence one another beyond rounding."""

    @abstractmethod
    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""

    def prepare(self, photo: Photo) -> Encodable:
        """What can be done to a photo before its pass, by any thread; `encode` takes either and gives the same.

        On a GPU this takes longer than the network, so it is worth doing ahead. Here: nothing.
        """
        return photo

    def needed_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that a photo of (width, height) is resized to, whole: more pixels tell the network nothing.

        Example:
            >>> TimmViT("test_vit", Preprocessing("crop", 64, 16)).needed_size((1280, 640))
            (128, 64)
        """
        scale = self.geometry(image_size).scale
        width, height = (
            math.ceil(side * share - 1e-6) for side, share in zip(image_size, scale, strict=True)
        )
        return width, height

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights to a device and a precision, in place."""
        self.to(device, dtype)


class SingleViT(Backbone):
    """A backbone with one vision transformer, `vit`, that sees photos as `preprocessing` fits them.

    Photos that fill the same grid share passes. On a CPU a photo of usual size keeps it busy by itself, so there each
    has its own pass, and the numbers are the same alone and among others to the last bit; a subclass or an instance
    may allow more.

    Attributes:
        patches_per_pass_cpu: bound of a pass on a CPU, in patches; a pass has at least one photo.
    """

    vit: Any
    preprocessing: Preprocessing
    patches_per_pass_cpu: int = 1

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""
        return self.preprocessing.geometry(image_size)

    @torch.inference_mode()
    def encode(self, images: Sequence[Encodable]) -> list[PatchFeatures]:
        """Encode upright RGB photos; those that fill the same grid share passes of a bounded size.

        Photos do not influence one another beyond the rounding of float32 (1e-5).
        """
        geometries = [
            image.geometry if isinstance(image, PreparedPhoto) else self.geometry(image.size)
            for image in images
        ]
        features: dict[int, PatchFeatures] = {}
        for places in equal_grids(geometries, self._patches_per_pass()):
            pixels = self.as_input([self._pixels(images[place]) for place in places])
            maps = [geometries[place] for place in places]
            found = split_features(self.outputs(pixels, maps[0].grid), maps)
            features.update(zip(places, found, strict=True))
        return [features[place] for place in range(len(images))]

    def prepare(self, photo: Photo) -> Encodable:
        """See `Backbone.prepare`; the photo resized and normalised, on the CPU."""
        return PreparedPhoto(*preprocess(photo, self.preprocessing))

    def _pixels(self, image: Encodable) -> Tensor:
        if isinstance(image, PreparedPhoto):
            return image.pixels
        return preprocess(image, self.preprocessing)[0]

    def as_input(self, pixels: Sequence[Tensor]) -> Tensor:
        """Stack B preprocessed photos (3, H, W) of one size on the network's device, in its precision."""
        weight = self._weight()
        return torch.stack(list(pixels)).to(weight.device, weight.dtype)

    def _weight(self) -> Tensor:
        """Any weight: it shows device and precision."""
        weight: Tensor = next(self.vit.parameters())
        return weight

    def _patches_per_pass(self) -> int:
        on_cpu = self._weight().device.type == "cpu"
        return self.patches_per_pass_cpu if on_cpu else PATCHES_PER_PASS_GPU

    @abstractmethod
    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """The network, head and all, as tensors alone: what an export exports.

        Args:
            pixels: (B, 3, H, W) preprocessed, on the network's device and in its precision.
            grid: (rows, columns) of patches that these pixels fill.
        """


def equal_grids(geometries: Sequence[ImageGeometry], patches: int) -> Iterator[list[int]]:
    """Yield the places of photos that fill the same grid, as many at a time as `patches` allow, at least one.

    Example:
        >>> wide, tall = (fit_image(s, mode="aspect", size=64, patch_size=16) for s in [(80, 40), (40, 80)])
        >>> list(equal_grids([wide, tall, wide, wide], 40))
        [[0, 2], [3], [1]]
    """
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for place, geometry in enumerate(geometries):
        alike[geometry.grid].append(place)
    for (rows, columns), places in alike.items():
        step = max(1, patches // (rows * columns))
        for start in range(0, len(places), step):
            yield places[start : start + step]


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
        "onnx": "patchioner.backbones.exported",
        "openvino": "patchioner.backbones.exported",
    },
)
