"""Backbones: photos in, `PatchFeatures` out; how a photo is prepared for one, and how photos share passes."""

from __future__ import annotations

import copy
import json
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import atomic_path, settings_from
from patchioner.base.optional import Registry
from patchioner.base.weights import write_tensors
from patchioner.checkpoints import StoredModule, WeightSource, make_part, settings_of
from patchioner.geometry import ImageGeometry, Preprocessing, resized_size
from patchioner.images import Doubt, Photo, ReducedPhoto

# A GPU wants many patches a pass: 24 photos of 518 pixels and patches of 14.
PATCHES_PER_PASS_GPU = 32_768


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Text-aligned features of one photo, from one backbone pass. Immutable; reuse it for any number of regions.

    Attributes:
        tokens: (rows, columns, dim) float32 patch tokens, in the space of the checkpoint's text embeddings.
        cls: (dim,) float32 global token in the same space, or None if the backbone has none.
        attention: (heads, rows, columns) float32, the last block's attention of the global token over the patches,
            each head summing to 1; or None.
        geometry: how pixels of the original photo map to the rows and columns.
        reference_attention: (rows, columns) float32 summing to 1, `vit.published_attention`; or None.
        image: the photo itself, upright RGB, kept only for models that cut regions out of it; or None.
        registers: (count, dim) float32 register tokens; or None.
        reference_heads: (slices, rows, columns) float32, `vit.published_heads`; or None.
        doubt: why captions of it would be invented, where that was looked at (it is not saved); or None.
    """

    tokens: Tensor
    cls: Tensor | None
    attention: Tensor | None
    geometry: ImageGeometry
    reference_attention: Tensor | None = None
    image: Image.Image | None = None
    registers: Tensor | None = None
    reference_heads: Tensor | None = None
    doubt: Doubt | None = None

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return int(self.tokens.shape[-1])

    def save(self, path: str | Path) -> None:
        """Write them to a ``.safetensors`` file, whole or not at all, for `load`; a photo that they hold goes along."""
        held = {name: getattr(self, name) for name in Dense._fields}
        tensors = {k: t.detach().cpu().contiguous() for k, t in held.items() if t is not None}
        if self.image is not None:
            tensors["image"] = torch.from_numpy(np.array(self.image))
        with atomic_path(path) as temporary:
            write_tensors(tensors, temporary, {"geometry": json.dumps(asdict(self.geometry))})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, onto the CPU; CheckpointError where the file is missing, damaged or another."""
        try:
            with safe_open(str(path), framework="pt") as file:
                stored = json.loads((file.metadata() or {})["geometry"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            pairs: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in stored.items()}
            geometry, image = ImageGeometry(**pairs), tensors.pop("image", None)
            photo = None if image is None else Image.fromarray(image.numpy())
            found = cls(**{"cls": None, "attention": None, **tensors}, geometry=geometry, image=photo)
            if found.tokens.shape[:2] != geometry.grid:
                raise ValueError(f"tokens {tuple(found.tokens.shape)} on a grid of {geometry.grid}")
            return found
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path}: no features ({error}): encode again") from error


class Dense(NamedTuple):
    """What a network gives for B images of one size: the tensors of `PatchFeatures`, each with B in front."""

    tokens: Tensor
    cls: Tensor | None
    attention: Tensor | None
    reference_attention: Tensor | None = None
    registers: Tensor | None = None
    reference_heads: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """A photo as one backbone wants it: pixels (3, H, W) float32 of `preprocess`, and their geometry."""

    pixels: Tensor
    geometry: ImageGeometry

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the original photo."""
        return self.geometry.image_size


# What a backbone encodes; a `PreparedPhoto` must come from that same backbone.
Encodable = Photo | PreparedPhoto


def preprocess(image: Photo, settings: Preprocessing) -> tuple[Tensor, ImageGeometry]:
    """Fit an upright RGB image into the backbone's input; one decoded at reduced scale has the original's geometry.

    Pixels (3, H, W) float32, normalised, H and W multiples of the patch size, resampled by Pillow's antialiased bicubic
    and padded by 0, the mean colour; and the geometry.
    """
    geometry = settings.geometry(image.size)
    width, height = whole = geometry.model_size
    if settings.mode != "aspect":
        whole = resized_size(image.size, settings.mode, settings.size)
    pixels = torch.from_numpy(np.array(_resize(image, whole))).permute(2, 0, 1).float() / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    left, top = (round(value) for value in geometry.offset)
    right, bottom = width - whole[0] - left, height - whole[1] - top  # what is negative is cut off
    return F.pad((pixels - mean) / std, (left, right, top, bottom)).contiguous(), geometry


def _resize(photo: Photo, size: tuple[int, int]) -> Image.Image:
    if isinstance(photo, ReducedPhoto):
        return photo.image.resize(size, Image.Resampling.BICUBIC, box=photo.box)
    return photo if photo.size == size else photo.resize(size, Image.Resampling.BICUBIC)


class Backbone(StoredModule):
    """A network that turns a photo into text-aligned patch tokens."""

    @abstractmethod
    def encode(self, images: Sequence[Encodable]) -> list[PatchFeatures]:
        """Features of upright RGB photos, in their order. Photos do not influence one another beyond rounding."""

    @abstractmethod
    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""

    def prepare(self, photo: Photo) -> Encodable:
        """What can be done to a photo before its pass, by any thread; `encode` takes either. Here: nothing."""
        return photo

    def needed_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that a photo of (width, height) is resized to, whole: more pixels tell nothing."""
        (width, height), scale = image_size, self.geometry(image_size).scale
        return math.ceil(width * scale[0] - 1e-6), math.ceil(height * scale[1] - 1e-6)


class SingleViT(Backbone):
    """A backbone with one vision transformer, `vit`, that sees photos as `preprocessing` fits them.

    Photos that fill the same grid share passes; on a CPU, which one photo keeps busy, each has its own, unless a
    subclass or an instance allows more.
    """

    kind: str  # "type" of a config
    vit: Any
    name: str
    preprocessing: Preprocessing
    own_keys: tuple[str, ...] = ()  # of a config, beside "name" and "preprocessing": arguments of the constructor
    own: dict[str, Any]  # their values
    patches_per_pass_cpu: int = 1  # bound of a pass on a CPU, in patches; a pass has at least one photo

    @abstractmethod
    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """The network, head and all, as tensors alone: what an export exports.

        Pixels (B, 3, H, W) are preprocessed, on its device and in its precision; `grid` is their (rows, columns).
        """

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""
        return self.preprocessing.geometry(image_size)

    def prepare(self, photo: Encodable) -> PreparedPhoto:
        """See `Backbone.prepare`; the photo resized and normalised, on the CPU."""
        return photo if isinstance(photo, PreparedPhoto) else PreparedPhoto(*preprocess(photo, self.preprocessing))

    @torch.inference_mode()
    def encode(self, images: Sequence[Encodable]) -> list[PatchFeatures]:
        """See `Backbone.encode`; photos that fill the same grid share passes of a bounded size."""
        geometries = [one.geometry if isinstance(one, PreparedPhoto) else self.geometry(one.size) for one in images]
        features: dict[int, PatchFeatures] = {}
        for places in equal_grids(geometries, self._patches_per_pass()):
            pixels = self.as_input([self.prepare(images[place]).pixels for place in places])
            maps = [geometries[place] for place in places]
            found = split_features(self.outputs(pixels, maps[0].grid), maps)
            features.update(zip(places, found, strict=True))
        return [features[place] for place in range(len(images))]

    def as_input(self, pixels: Sequence[Tensor]) -> Tensor:
        """Stack B preprocessed photos (3, H, W) of one size on the network's device, in its precision."""
        return torch.stack(list(pixels)).to(next(self.parameters()))

    def _patches_per_pass(self) -> int:
        on_cpu = next(self.parameters()).device.type == "cpu"
        return self.patches_per_pass_cpu if on_cpu else PATCHES_PER_PASS_GPU

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`."""
        own = settings_of(config, ("name", "preprocessing", *cls.own_keys))
        source = WeightSource.of(config, folder)
        preprocessing = settings_from(Preprocessing, own.pop("preprocessing", None), "preprocessing")
        made = cls(own.pop("name"), preprocessing, pretrained=cls.pretrained_of(source), **own).restore(source.folder)
        if source.file is not None or source.parts is not None:
            made.read_files(source, folder)
        return made

    @classmethod
    def pretrained_of(cls, source: WeightSource) -> Any:
        """What a config's weights are as the constructor's `pretrained`."""
        return source.fetched

    def read_files(self, source: WeightSource, folder: Path) -> None:
        """Read weights in their authors' layout, in place; OptionError for a kind that has none."""
        raise OptionError(f"weights of a {type(self).__name__} are not read from several files")

    @property
    def config(self) -> dict[str, Any]:
        """Type, name, preprocessing and what is its own."""
        own = copy.deepcopy(self.own)
        return {"type": self.kind, "name": self.name, "preprocessing": preprocessing_config(self.preprocessing), **own}

    def check_patches(self, patch: Sequence[int]) -> None:
        """Refuse a preprocessing with other patches than the network's (height, width); OptionError."""
        size = self.preprocessing.patch_size
        if tuple(patch) != (size, size):
            raise OptionError(f"{self.name} has patches {tuple(patch)}: set patch_size to {patch[0]}")


def split_features(found: Dense, geometries: Sequence[ImageGeometry]) -> list[PatchFeatures]:
    """Float32 features of each photo of a batch of one grid; to keep those of one does not keep the whole batch."""
    shared, features = len(geometries) > 1, []
    for index, geometry in enumerate(geometries):
        own = Dense._make(None if part is None else part[index].to(torch.float32, copy=shared) for part in found)
        features.append(PatchFeatures(geometry=geometry, **own._asdict()))
    return features


def equal_grids(geometries: Sequence[ImageGeometry], patches: int) -> Iterator[list[int]]:
    """Yield the places of photos that fill the same grid, as many at a time as `patches` allow, at least one."""
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for place, geometry in enumerate(geometries):
        alike[geometry.grid].append(place)
    for (rows, columns), places in alike.items():
        step = max(1, patches // (rows * columns))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def preprocessing_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What a checkpoint stores of a `Preprocessing`; `settings_from` reads it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(preprocessing).items()}


BACKBONES: Registry[type[Backbone]] = Registry(
    "backbone",
    {
        "timm": "patchioner.backbones.vit:TimmViT",
        "siglip": "patchioner.backbones.vit:SiglipViT",
        "open_clip": "patchioner.backbones.clip:OpenClipViT",
        "proxy_clip": "patchioner.backbones.clip:ProxyClip",
        "dinotxt": "patchioner.backbones.dinotxt:DinoTxtViT",
        "onnx": "patchioner.backbones.exported:ExportedBackbone",
        "openvino": "patchioner.backbones.exported:ExportedBackbone",
    },
)


def load_backbone(folder: Path) -> Backbone:
    """Read what `Backbone.save` wrote; CheckpointError where a file is missing, corrupt or of another shape."""
    return make_part(BACKBONES, folder, Path(), str(folder))


from patchioner.backbones.vit import TimmViT as TimmViT  # noqa: E402  # it needs what stands above
