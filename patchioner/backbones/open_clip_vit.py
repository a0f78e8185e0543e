"""CLIP's visual tower through open_clip as a dense backbone: every patch token in the space of CLIP's texts.

Knows: open_clip's public interface. Does not know: regions, memory banks. CLS, patches and crops of the published DeCap
baselines are all of this backbone: its CLS token, its plain patch tokens, and a checkpoint that cuts regions out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from patchioner.backbones.attention import cls_attention, published_attention
from patchioner.backbones.base import BACKBONES, SingleViT
from patchioner.backbones.dense_clip import (
    KEEPS_REST,
    DenseMode,
    LastBlock,
    is_plain,
    resize_positions,
)
from patchioner.backbones.features import Dense
from patchioner.backbones.open_clip_models import fetch_model, model_config
from patchioner.base.errors import OptionError
from patchioner.base.optional import require
from patchioner.checkpoints.stored import settings_of
from patchioner.geometry import Fit, Preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# open_clip builds both halves of a model; the other one is made as small as it will go and dropped.
_NO_TEXT = {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}


class OpenClipViT(SingleViT):
    """The visual tower of an open_clip ViT; the text half is neither kept nor stored.

    Args:
        name: an open_clip model, e.g. ``ViT-B-16`` (unknown names get the close ones).
        preprocessing: input size, fit and normalisation (`clip_preprocessing`). Sizes other than the native one
            interpolate the position embedding, and grids need not be square.
        architecture: open_clip's model config (its "model_cfg": embed_dim, vision_cfg, ...) instead of its own one for
            `name`, which then is a label only.
        quick_gelu: CLIP's first activation, which the ``openai`` weights need; None is what the model's config or the
            pretrained weights say.
        dense: how patch tokens leave the last block: "plain" as CLIP has it, "value" (MaskCLIP) or "self_self"
            (SCLIP), see `patchioner.backbones.dense_clip`. The CLS token and its attention are the ordinary ones in
            all three.
        rest: keep the last block's skip connection and MLP for patches; None is as published: all but "value" do.
            ("self_self" without the rest is close to ClearCLIP, arXiv 2407.12442.)
        pretrained: fetch weights by one of open_clip's tags, e.g. ``openai`` (needs a connection), or read them from a
            file of open_clip's; random weights if None.

    Raises:
        UnknownNameError: open_clip has no such model or tag.
        OptionError: the model is not a plain ViT, or the settings do not fit it.
        HubError, CheckpointError: the weights cannot be fetched; a file does not hold them.
        MissingExtraError: open_clip is not installed.

    Example:
        >>> backbone = OpenClipViT("ViT-B-32", clip_preprocessing(224, 32))  # doctest: +SKIP
        >>> features = backbone.encode([Image.new("RGB", (320, 240))])[0]  # doctest: +SKIP
        >>> tuple(features.tokens.shape), tuple(features.cls.shape)  # doctest: +SKIP
        ((7, 7, 512), (512,))
    """

    # 20 crops at 224 pixels and patches of 16, 2 photos at 592: many small crops are this backbone's work.
    patches_per_pass_cpu = 4096

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        architecture: Mapping[str, Any] | None = None,
        quick_gelu: bool | None = None,
        dense: DenseMode = "plain",
        rest: bool | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if dense not in get_args(DenseMode):
            raise OptionError(f"dense={dense!r}: choose one of {get_args(DenseMode)}")
        self.name, self.preprocessing, self.dense_mode = name, preprocessing, dense
        self.rest = KEEPS_REST[dense] if rest is None else bool(rest)
        self.architecture = None if architecture is None else copy.deepcopy(dict(architecture))
        settings = model_config(name, architecture, quick_gelu=quick_gelu, pretrained=pretrained)
        self.quick_gelu = bool(settings["quick_gelu"])
        self.visual: Any = _visual(name, settings, pretrained)
        self._check()
        self.eval()

    @property
    def dim(self) -> int:
        """Width of CLIP's joint space."""
        return int(self.visual.proj.shape[1])

    @property
    def config(self) -> dict[str, Any]:
        """Type, architecture, dense mode and preprocessing."""
        settings = {
            k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.preprocessing).items()
        }
        return {
            "type": "open_clip",
            "name": self.name,
            "architecture": copy.deepcopy(self.architecture),
            "quick_gelu": self.quick_gelu,
            "dense": self.dense_mode,
            "rest": self.rest,
            "preprocessing": settings,
        }

    def _weight(self) -> Tensor:
        weight: Tensor = self.visual.conv1.weight
        return weight

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        return self.dense(pixels, grid)

    def dense(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """Differentiable forward pass.

        Args:
            pixels: (B, 3, H, W) normalised.
            grid: (rows, columns) with rows * columns patch tokens.

        Returns:
            Tokens after the final norm and the visual projection; as CLS token what open_clip's `encode_image` gives;
            the attentions where the last block is a plain one.
        """
        inputs = self.before_last(pixels, grid)
        block = self.visual.transformer.resblocks[-1]
        if not is_plain(block):
            outputs = block(inputs)
            tokens = self.project(outputs[:, 1:]).unflatten(1, grid)
            return Dense(tokens, self._pool(outputs), None, None)
        last = LastBlock.of(block, inputs)
        if self.dense_mode == "plain" and self.rest:
            outputs = last.outputs()
            patches, whole = outputs[:, 1:], self._pool(outputs)
        else:
            patches, whole = last.patches(self.dense_mode, self.rest), self.image_embedding(last)
        tokens = self.project(patches).unflatten(1, grid)
        parts = last.query[:, :, :1], last.key[:, :, 1:]
        maps, published = cls_attention(*parts), published_attention(*parts)
        return Dense(tokens, whole, maps.unflatten(2, grid), published.unflatten(1, grid))

    def before_last(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """What goes into the last block: (B, 1 + rows * columns, width), CLS first."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        whole = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = self.positions(grid)
        tokens: Tensor = visual.ln_pre(torch.cat([whole, patches], 1) + positions.to(patches.dtype))
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings of CLS and patches for a grid: (1 + rows * columns, width)."""
        visual = self.visual
        return resize_positions(visual.positional_embedding, tuple(visual.grid_size), grid)

    def project(self, tokens: Tensor) -> Tensor:
        """The final norm and the visual projection: (..., width) -> (..., dim)."""
        projected: Tensor = self.visual.ln_post(tokens) @ self.visual.proj
        return projected

    def image_embedding(self, last: LastBlock) -> Tensor:
        """What open_clip's `encode_image` gives, (B, dim), from the last block; its patches only if CLIP needs them."""
        if self.visual.pool_type == "tok":
            return self.project(last.cls())
        return self._pool(last.outputs())

    def _pool(self, outputs: Tensor) -> Tensor:
        if self.visual.pool_type == "tok":
            return self.project(outputs[:, 0])
        if self.visual.final_ln_after_pool:
            return self.project(outputs[:, 1:].mean(dim=1))
        pooled: Tensor = self.visual.ln_post(outputs[:, 1:]).mean(dim=1) @ self.visual.proj
        return pooled

    def _check(self) -> None:
        patch = tuple(self.visual.patch_size)
        if patch != (self.preprocessing.patch_size, self.preprocessing.patch_size):
            raise OptionError(
                f"{self.name} has patches of {patch} pixels, the preprocessing says {self.preprocessing.patch_size}: "
                f"set its patch_size to {patch[0]} and its size to a multiple of that"
            )
        changed = self.dense_mode != "plain" or not self.rest
        if changed and not is_plain(self.visual.transformer.resblocks[-1]):
            raise OptionError(
                f"dense={self.dense_mode!r}, rest={self.rest} needs a plain last block, and {self.name} has "
                'another: use dense="plain"'
            )


def clip_preprocessing(
    size: int = 224, patch_size: int = 16, mode: Fit = "stretch"
) -> Preprocessing:
    """CLIP's normalisation with an input of `size` pixels; the published baselines stretch to 224 or 592."""
    return Preprocessing(mode, size, patch_size, CLIP_MEAN, CLIP_STD)


def _visual(name: str, settings: Mapping[str, Any], pretrained: str | None) -> Any:
    vision = settings["vision_cfg"]
    if vision.get("timm_model_name"):
        raise _no_vit(name, f"it is timm's {vision['timm_model_name']}: use that through timm")
    if isinstance(vision.get("layers"), (list, tuple)):
        raise _no_vit(name, "it is a ResNet")
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") not in ("tok", "avg"):
        raise _no_vit(name, "its patches reach the text space through attention pooling only")
    if pretrained is not None:
        return fetch_model(name, pretrained, quick_gelu=settings["quick_gelu"]).visual
    open_clip = require("open_clip", "clip")
    try:
        model = open_clip.CLIP(
            settings["embed_dim"], dict(vision), dict(_NO_TEXT), quick_gelu=settings["quick_gelu"]
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise OptionError(f"open_clip cannot build {name!r}: {error}") from error
    return model.visual


def _no_vit(name: str, reason: str) -> OptionError:
    return OptionError(f"{name!r} is not a plain vision transformer of open_clip's ({reason})")


@BACKBONES.register("open_clip")
def _load(folder: Path, config: dict[str, Any]) -> OpenClipViT:
    with settings_of(folder):
        backbone = OpenClipViT(
            config["name"],
            Preprocessing.from_config(config["preprocessing"]),
            architecture=config.get("architecture"),
            quick_gelu=config.get("quick_gelu"),
            dense=config.get("dense", "plain"),
            rest=config.get("rest"),
        )
    backbone.restore(folder)
    return backbone
