"""ProxyCLIP: CLIP's values gathered along the affinities of a DINO backbone (arXiv 2408.04883).

CLIP knows what a patch shows, DINO which patches belong together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones.base import (
    BACKBONES,
    Backbone,
    Encodable,
    PatchFeatures,
    PreparedPhoto,
    preprocess,
)
from patchioner.backbones.clip import LastBlock, OpenClipViT, is_plain
from patchioner.backbones.vit import cls_attention
from patchioner.base.errors import OptionError
from patchioner.base.files import write_json
from patchioner.base.weights import Storage
from patchioner.checkpoints.stored import CONFIG_FILE, make_part, settings_of
from patchioner.geometry import ImageGeometry

SHIFT, SCALE = 1.2, 3.0
_CLIP_FOLDER, _PROXY_FOLDER = "clip", "proxy"


class ProxyClip(Backbone):
    """CLIP patch tokens on the grid of another backbone, gathered along that backbone's affinities.

    In CLIP's last block the attention gives way to

        A = scale (X X^T - shift mean(X X^T)),   Attn = softmax over j of A_ij where A_ij >= 0,   z = Proj(Attn V)

    with X the unit patch tokens of the proxy (so X X^T holds cosines, and the mean is over all pairs), V CLIP's values,
    Proj the block's output projection; skip connection and MLP are left out, CLIP's final norm and visual projection
    follow. The paper reports a shift of 1.0..1.6 and a scale of 2..5 as good. A photo costs one pass of each backbone.

    Args:
        clip: gives values, CLS token and the space of the tokens; its `dense` mode plays no part.
        proxy: gives affinities and the grid, e.g. a `TimmViT` of DINO or DINOv2 without a head. Its tokens need not be
            aligned with text.
        shift, scale: of the formula (beta and gamma of the paper).

    Each backbone sees the photo in its own size and normalisation; CLIP's values are resampled (bilinear) from CLIP's
    grid to the proxy's. That is sound only where both see the same part of the photo, so the two must fit photos in
    the same way (`Preprocessing.mode`).

    `PatchFeatures.attention` is that of CLIP's CLS token, resampled too; there is no `reference_attention`.

    Raises:
        OptionError: the two fit photos in different ways, CLIP's last block is not a plain one, or a factor is not a
            positive number.
    """

    def __init__(
        self, clip: OpenClipViT, proxy: Backbone, *, shift: float = SHIFT, scale: float = SCALE
    ) -> None:
        super().__init__()
        if not isinstance(clip, OpenClipViT) or not is_plain(clip.visual.transformer.resblocks[-1]):
            raise OptionError(
                f"ProxyCLIP takes CLIP's last block apart, which {getattr(clip, 'name', type(clip).__name__)!r} does "
                "not allow: use an 'open_clip' backbone such as 'ViT-B-16'"
            )
        preprocessing = getattr(proxy, "preprocessing", None)
        modes = clip.preprocessing.mode, getattr(preprocessing, "mode", None)
        if modes[0] != modes[1]:
            raise OptionError(
                f"CLIP fits photos by {modes[0]!r} and the proxy by {modes[1]!r}, so they would see different parts: "
                "give both the same mode"
            )
        for name, factor in (("shift", shift), ("scale", scale)):
            if not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 0:
                raise OptionError(f"{name} of ProxyCLIP is {factor!r}: give a positive number")
        self.clip, self.proxy = clip, proxy
        self.shift, self.scale = float(shift), float(scale)
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; "clip" and "proxy" are configs or folders, else those that `save` wrote."""
        own = settings_of(config, ("clip", "proxy", "shift", "scale"))
        parts = {
            name: make_part(BACKBONES, own.pop(name, name), folder, f"{name} of a proxy_clip")
            for name in (_CLIP_FOLDER, _PROXY_FOLDER)
        }
        return cls(**parts, **own)  # type: ignore[arg-type]  # another kind than CLIP is refused

    @property
    def dim(self) -> int:
        """Width of CLIP's joint space."""
        return self.clip.dim

    @property
    def config(self) -> dict[str, Any]:
        """Type and factors; the two backbones have folders, and configs, of their own."""
        return {"type": "proxy_clip", "shift": self.shift, "scale": self.scale}

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height): the proxy's."""
        return self.proxy.geometry(image_size)

    def needed_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The larger of what the two backbones need."""
        one, other = self.clip.needed_size(image_size), self.proxy.needed_size(image_size)
        return max(one[0], other[0]), max(one[1], other[1])

    @torch.inference_mode()
    def encode(self, images: Sequence[Encodable]) -> list[PatchFeatures]:
        """One pass of each backbone per upright RGB image. Images do not influence one another."""
        return [self._encode_one(image) for image in images]

    def _encode_one(self, image: Encodable) -> PatchFeatures:
        if isinstance(image, PreparedPhoto):
            raise OptionError(
                "a prepared photo is of one backbone: give ProxyCLIP the photo itself"
            )
        seen = self.proxy.encode([image])[0]
        grid = seen.geometry.grid
        pixels, geometry = preprocess(image, self.clip.preprocessing)
        inputs = self.clip.before_last(self.clip.as_input([pixels]), geometry.grid)
        last = LastBlock.of(self.clip.visual.transformer.resblocks[-1], inputs)
        values = resample(last.patch_values().unflatten(1, geometry.grid), grid).flatten(1, 2)
        along = proxy_attention(seen.tokens.flatten(0, 1), shift=self.shift, scale=self.scale)
        mixed = along.to(values) @ values
        # With the skip connection left out, the block's inputs are not looked at.
        tokens = self.clip.project(last.finish(mixed, mixed, False)).unflatten(1, grid)
        maps = cls_attention(last.query[:, :, :1], last.key[:, :, 1:])
        attention = resample(maps.transpose(1, 2).unflatten(1, geometry.grid), grid)[0]
        attention = attention.permute(2, 0, 1).float()
        return PatchFeatures(
            tokens[0].float(),
            self.clip.image_embedding(last)[0].float(),
            attention / attention.sum(dim=(1, 2), keepdim=True),
            seen.geometry,
        )

    def to(  # type: ignore[override]
        self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True
    ) -> Self:
        """See `StoredModule.to`; each backbone as it sees fit."""
        clip, proxy = (one.to(device, dtype, optimize=optimize) for one in (self.clip, self.proxy))
        return type(self)(clip, proxy, shift=self.shift, scale=self.scale)  # type: ignore[arg-type]

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, and each backbone in a folder of its own."""
        self.clip.save(folder / _CLIP_FOLDER, storage=storage)
        self.proxy.save(folder / _PROXY_FOLDER, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into both backbones, strictly."""
        self.clip.restore(folder / _CLIP_FOLDER)
        self.proxy.restore(folder / _PROXY_FOLDER)
        self.eval()


def proxy_attention(tokens: Tensor, *, shift: float = SHIFT, scale: float = SCALE) -> Tensor:
    """Rows of attention from the affinities of patch tokens (see `ProxyClip`).

    Args:
        tokens: (patches, width) of the proxy, of any length each.
        shift: multiple of the mean cosine that an affinity must exceed to count.
        scale: sharpness.

    Returns:
        (patches, patches) float32, each row non-negative and summing to 1. A patch always attends to itself: where all
        tokens are so alike that even that falls below the shift, the formula by itself would give no number at all.

    Example:
        >>> proxy_attention(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    unit = F.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.T
    affinity = scale * (cosines - shift * cosines.mean())
    kept = affinity >= 0
    kept.fill_diagonal_(True)
    return affinity.masked_fill(~kept, -math.inf).softmax(dim=-1)


def resample(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear resampling (antialiased where it shrinks) of (B, rows, columns, width) to a grid over the same area."""
    if tuple(cells.shape[1:3]) == grid:
        return cells
    spread = F.interpolate(
        cells.permute(0, 3, 1, 2).float(),  # torch resamples no half precision on the CPU
        size=grid,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return spread.permute(0, 2, 3, 1).to(cells.dtype)


BACKBONES.register("proxy_clip")(ProxyClip)
