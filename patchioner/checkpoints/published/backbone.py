"""The backbone that a published config names.

Knows: the published names, the networks of ours that stand for them, their preprocessing, and where weights may lie.
Does not know: decoders or memory banks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from patchioner.backbones import Backbone, TimmViT
from patchioner.backbones.vit_weights import fit_vit
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.checkpoints.published.config import PublishedConfig
from patchioner.checkpoints.published.files import PublishedFiles
from patchioner.checkpoints.tensor_files import read_tensors
from patchioner.geometry import Preprocessing

_log = logging.getLogger(__name__)

Fit = Literal["stretch", "crop"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_DINOV3 = re.compile(r"dinov3_vit([sbl])16\w*|vit_(small|base|large)_patch16_dinov3.*")


@dataclass(frozen=True)
class _Vit:
    """A network of timm: its name, with the tag of its weights; where a file of its weights may lie; what it sees."""

    name: str
    tag: str
    patch: int
    files: tuple[str, ...]
    clip: bool = False
    projection: int | None = None


def read_backbone(
    files: PublishedFiles, config: PublishedConfig, *, mode: Fit = "stretch"
) -> Backbone:
    """Build the backbone and find its weights.

    Args:
        files: around the config; a file of the backbone's weights beside it is preferred to a download.
        config: `dino_model` and its kin.
        mode: "stretch" to a square, with which all published numbers were made; "crop", as the usage example on the
            hub does, for which resize_dim and crop_dim must be equal.

    Raises:
        CheckpointError: a name that is not supported, weights that are nowhere to be had or do not fit, or an input
            size that is no multiple of the patch size.
        MissingExtraError: the backbone needs a package that is not installed.
    """
    if mode == "crop" and config.resize_dim != config.crop_dim:
        raise CheckpointError(
            f"{files.config}: resize_dim {config.resize_dim} and crop_dim {config.crop_dim} differ; a crop is "
            "supported where they are equal. Set both to the same, or stretch"
        )
    build = _builder(config, str(files.config))
    try:
        return build(files, config, mode)
    except (OptionError, UnknownNameError) as error:
        raise CheckpointError(f"{files.config}: {error}") from error


_Build = Callable[[PublishedFiles, PublishedConfig, Fit], Backbone]


def _builder(config: PublishedConfig, source: str) -> _Build:
    name = config.dino_model
    if config.use_open_clip:
        return _open_clip
    if name is None:
        return _proxy_clip
    if "dinotxt" in name:
        return _dinotxt
    if (vit := vit_of(name)) is not None:
        return lambda files, config, mode: _timm(vit, files, config, mode)
    raise CheckpointError(
        f"{source}: dino_model {name!r} is not supported; use dinov2_vit{{s,b,l,g}}14[_reg], dinov3_vit{{s,b,l}}16, "
        "vit_base_patch16_clip_224.openai and its kin"
    )


def vit_of(name: str) -> _Vit | None:
    """What timm calls a published backbone; None where it is none of a single vision transformer.

    Example:
        >>> vit_of("dinov2_vitb14_reg").name
        'vit_base_patch14_reg4_dinov2'
    """
    if found := re.fullmatch(r"dinov2_vit([sblg])14(_reg)?", name):
        size, registers = _SIZES[found[1]], "reg4_" if found[2] else ""
        stem = f"dinov2_vit{found[1]}14" + ("_reg4" if found[2] else "")
        official = (f"{stem}_pretrain.*", f"{name}.*", "dinov2*.pth", "dinov2*.safetensors")
        return _Vit(f"vit_{size}_patch14_{registers}dinov2", "lvd142m", 14, official)
    if found := _DINOV3.fullmatch(name):
        size = _SIZES[found[1]] if found[1] else found[2]
        return _Vit(
            f"vit_{size}_patch16_dinov3",
            "lvd1689m",
            16,
            ("dinov3_vit*.pth", "dinov3_vit*.safetensors"),
        )
    if found := re.fullmatch(
        r"(vit_(?:base|large)_patch(14|16|32)_clip(?:_quickgelu)?_\d+)\.openai", name
    ):
        width = 768 if "large" in name else 512
        timm_name = re.sub(r"_clip_(\d+)", r"_clip_quickgelu_\1", found[1])
        patterns = (f"{name}.*", "vit_*clip*.safetensors")
        return _Vit(timm_name, "openai", int(found[2]), patterns, clip=True, projection=width)
    return None


def _preprocessing(config: PublishedConfig, patch: int, mode: Fit, *, clip: bool) -> Preprocessing:
    if clip:
        return Preprocessing(mode, config.resize_dim, patch, CLIP_MEAN, CLIP_STD)
    return Preprocessing(mode, config.resize_dim, patch)


def _timm(vit: _Vit, files: PublishedFiles, config: PublishedConfig, mode: Fit) -> Backbone:
    preprocessing = _preprocessing(config, vit.patch, mode, clip=vit.clip)
    head: dict[str, Any] = (
        {"type": "linear", "dim": vit.projection} if vit.clip else {"type": "none"}
    )
    beside = files.any_of(vit.files)
    if beside is None:
        _log.info("no weights of %s beside %s: fetching timm's", vit.name, files.config)
        return _fetched(vit, preprocessing, head, files)
    backbone = TimmViT(vit.name, preprocessing, head=head)
    classifier = fit_vit(backbone.vit, read_tensors(beside), source=str(beside))
    if vit.clip:
        _fit_projection(backbone, classifier, str(beside))
    return backbone


def _fit_projection(backbone: TimmViT, classifier: dict[str, Any], source: str) -> None:
    linear: Any = backbone.head.get_submodule("linear")
    if "weight" not in classifier or classifier["weight"].shape != linear.weight.shape:
        raise CheckpointError(
            f"{source}: no visual projection of shape {tuple(linear.weight.shape)}"
        )
    weight = classifier["weight"]
    bias = classifier.get("bias", weight.new_zeros(len(weight)))  # CLIP has none
    backbone.head.load_state_dict({"linear.weight": weight, "linear.bias": bias})


def _fetched(
    vit: _Vit, preprocessing: Preprocessing, head: dict[str, Any], files: PublishedFiles
) -> Backbone:
    try:
        return TimmViT(f"{vit.name}.{vit.tag}", preprocessing, head=head, pretrained=True)
    except HubError as error:
        raise CheckpointError(
            f"no weights of the backbone {vit.name}: neither {' nor '.join(vit.files)} beside {files.config}, and "
            f"{error}"
        ) from error


def _open_clip(files: PublishedFiles, config: PublishedConfig, mode: Fit) -> Backbone:
    """OpenCLIP; the published crop variant was its *training* transform, a random crop, which ours is not."""
    from patchioner.backbones.open_clip_vit import OpenClipViT

    name = (config.clip_model_name or "ViT-B-16").replace("/", "-")
    preprocessing = _preprocessing(config, _patch_of(name), mode, clip=True)
    try:
        return OpenClipViT(name, preprocessing, pretrained="openai")
    except HubError as error:
        raise CheckpointError(f"{files.config}: no weights of the backbone: {error}") from error


def _proxy_clip(files: PublishedFiles, config: PublishedConfig, mode: Fit) -> Backbone:
    """ProxyCLIP: CLIP's values under a DINO's affinities; preprocessing by ImageNet's statistics, as published."""
    raise CheckpointError(
        f"{files.config}: without dino_model this is a ProxyCLIP model ({config.proxyclip_clipmodel} under "
        f"{config.proxyclip_vfm}), which is not read from published files; build it from configs/ with its own YAML"
    )


def _dinotxt(files: PublishedFiles, config: PublishedConfig, mode: Fit) -> Backbone:
    raise CheckpointError(
        f"{files.config}: {config.dino_model!r} is a DINO.txt model, which is not read from published files; build it "
        "from configs/ with its own YAML"
    )


def _patch_of(name: str) -> int:
    found = re.search(r"-(14|16|32)(?:-|$)", name)
    if found is None:
        raise CheckpointError(
            f"clip_model_name {name!r} does not tell its patch size; use a ViT such as ViT-B/16"
        )
    return int(found[1])
