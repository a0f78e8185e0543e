"""Published Patch-ioner models become parts (`read_published`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from decoders import DecodeOptions, Decoder
from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner.backbones import BACKBONES, Backbone
from patchioner.backbones.clip import CLIP_MEAN, CLIP_STD
from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError, first_line
from patchioner.checkpoints.folder import ModelSettings, Parts
from patchioner.checkpoints.hub import fetch
from patchioner.checkpoints.published import decoders
from patchioner.checkpoints.published.files import (
    PublishedConfig,
    PublishedFiles,
    as_pattern,
    find_bank,
    read_bank,
    read_config,
    read_memory,
)
from patchioner.checkpoints.stored import make_part
from patchioner.regions import Weighting
from patchioner.text import TEXT_TOWERS, TextTower

STEPS = 30  # of the published greedy loop
Fit = Literal["stretch", "crop"]
_CLIP_STATISTICS = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)}
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_PATTERNS = ("talk2dino*.pth", "talk2dino*.safetensors", "*infonce*.pth", "*infonce*.safetensors")
_CLIP = ("ViT-*.pt", "clip*.pt", "open_clip*.safetensors", "clip*.safetensors")
_log = logging.getLogger(__name__)


def read_published(
    path: Path, *, mode: Fit = "stretch", backbone: Backbone | None = None, talk2dino: str | Path | None = None
) -> Parts:
    """Read a published Patch-ioner model; `backbone` takes the place of the one that the config names.

    Its settings repeat the published ones: integer arithmetic of patches (`rounding="reference"`), uniform weights, or
    for backbones of the CLIP family those of the CLS token, greedy decoding of 30 tokens. The projection is "memory"
    for DeCap (`support_memory_size` > 0); "raw" for CapDec, whose published code gives the decoder embeddings of any
    length, though training used unit vectors; "none" for ViECap, MeaCap, retrieval.

    Args:
        path: a folder with a config.yaml (as in the hub repositories), or a YAML file of the authors; the other files
            are looked up beside it by their base names, then in the repository that `hf_repo_id` names.
        mode: how photos are fitted: "stretch", as for all published numbers, or "crop".
        talk2dino: the model's projection for the text tower, a file or ``owner/name/file.pth`` on the hub; None looks
            beside the config.

    Raises:
        CheckpointError, MemoryBankError: a file is missing, damaged, foreign or does not fit; a config key is unknown,
            or not supported. Nothing is executed and nothing half loaded.
        MissingExtraError: pyyaml, h5py or open_clip is not installed.
    """
    files = PublishedFiles.of(path)
    config = read_config(files.config)
    if talk2dino is not None:
        config = replace(config, use_talk2dino_project=str(talk2dino))
    files = replace(files, hub_id=config.hf_repo_id)
    try:  # the cheap parts first: a fault in them should not wait for a download of the backbone
        tower = partial(read_text_tower, files, config)
        bank, decoder = _bank(files, config), _decoder(files, config, tower)
        backbone = backbone or read_backbone(files, config, mode=mode)
    except OptionError as error:  # a number in the config that makes no sense
        raise CheckpointError(f"{files.config}: {error}") from error
    return Parts(backbone, decoder, bank, tower, _settings(files.name, config))


def _settings(name: str, config: PublishedConfig) -> ModelSettings:
    projection = "memory" if config.support_memory_size else "raw"
    if config.viecap is not None or config.calculate_argmax_text:
        projection = "none"
    # Retrieval counts words and passes longer sentences over, which the published code does not.
    decode = DecodeOptions(max_tokens=1000 if config.calculate_argmax_text else STEPS)
    # Patches count alike; backbones that were not trained on images alone were read at their CLS token.
    dino = config.dino_model is not None and "dino" in config.dino_model
    return ModelSettings(
        name=name,
        weighting=Weighting("uniform" if dino else "cls", rounding="reference"),
        projection=projection,
        normalize=config.normalize or config.viecap is not None,
        decode=decode if config.viecap is None else decoders.decode_options(config.viecap),
    )


def _bank(files: PublishedFiles, config: PublishedConfig) -> MemoryBank | None:
    if config.viecap is not None:
        meacap = config.viecap.meacap
        return None if meacap is None else read_memory(files, meacap, dim=config.prefix_size)
    if config.support_memory_size == 0:
        return None
    return read_bank(find_bank(files, config), unit_rows=config.clip_like, dim=config.prefix_size)


def _decoder(files: PublishedFiles, config: PublishedConfig, tower: Callable[[], TextTower | None]) -> Decoder:
    if config.viecap is not None:
        return decoders.read_viecap(files, config.viecap, tower, dim=config.prefix_size)
    if config.calculate_argmax_text:
        if config.support_memory_size == 0:
            raise CheckpointError(f"{files.config}: calculate_argmax_text needs a bank: support_memory_size")
        return RetrievalDecoder(config.prefix_size)
    if config.decap_weights is None:
        raise CheckpointError(
            f"{files.config}: no decoder: give decap_weights, viecap, or calculate_argmax_text with a bank"
        )
    path = files.find(config.decap_weights, "decoder")
    return decoders.read_decap(path, prefix_size=config.prefix_size)


@dataclass(frozen=True)
class _Vit:
    """A network of timm, the tag of its weights, where a file of them may lie, the width of CLIP's projection."""

    name: str
    tag: str
    patch: int
    files: tuple[str, ...]
    projection: int | None = None


def read_backbone(files: PublishedFiles, config: PublishedConfig, *, mode: Fit = "stretch") -> Backbone:
    """The backbone that a config names; a file of its weights beside the config is preferred to a download.

    `mode` is "stretch", as for all published numbers, or "crop", as in the usage example on the hub. CheckpointError:
    a name, a size or weights that cannot be had or do not fit.
    """
    source = str(files.config)
    if mode == "crop" and config.resize_dim != config.crop_dim:
        raise CheckpointError(f"{source}: resize_dim {config.resize_dim} and crop_dim {config.crop_dim} differ")
    try:
        return make_part(BACKBONES, _backbone_config(files, config, mode), Path(), source)
    except HubError as error:
        vit = vit_of(config.dino_model or "")
        wanted = "" if vit is None else f" neither {' nor '.join(vit.files)} is beside it, and"
        raise CheckpointError(f"{source}: no weights of the backbone:{wanted} {error}") from error


def _backbone_config(files: PublishedFiles, config: PublishedConfig, mode: Fit) -> dict[str, Any]:
    """What our own config of the backbone would say."""
    name, source = config.dino_model, str(files.config)
    fit: dict[str, Any] = {"mode": mode, "size": config.resize_dim}
    if config.use_open_clip:  # the published crop variant was its training transform, a random crop
        name = (config.clip_model_name or "ViT-B-16").replace("/", "-")
        if (found := re.search(r"-(14|16|32)(?:-|$)", name)) is None:
            raise CheckpointError(f"clip_model_name {name!r} tells no patch size: use a ViT")
        fit |= {"patch_size": int(found[1]), **_CLIP_STATISTICS}
        weights = "pretrained:openai"
        return {"type": "open_clip", "name": name, "weights": weights, "preprocessing": fit}
    if name is None or "dinotxt" in name:
        what = f"a DINO.txt model ({name})"
        if name is None:
            what = f"a ProxyCLIP model ({config.proxyclip_clipmodel} under {config.proxyclip_vfm})"
        raise CheckpointError(f"{source}: this is {what}: build it from configs/")
    if (vit := vit_of(name)) is None:
        raise CheckpointError(
            f"{source}: dino_model {name!r} is not supported; use dinov2_vit{{s,b,l,g}}14[_reg], "
            "dinov3_vit{s,b,l}16, vit_base_patch16_clip_224.openai and its kin"
        )
    if (beside := files.any_of(vit.files)) is None:
        _log.info("no weights of %s beside %s: fetching timm's", vit.name, source)
    fit |= {"patch_size": vit.patch, **(_CLIP_STATISTICS if vit.projection else {})}
    return {
        "type": "timm",
        "name": vit.name if beside else f"{vit.name}.{vit.tag}",
        "weights": str(beside) if beside else "pretrained",
        "head": {"type": "linear", "dim": vit.projection} if vit.projection else {"type": "none"},
        "preprocessing": fit,
    }


def vit_of(name: str) -> _Vit | None:
    """What timm calls a published backbone; None where it is none of a single vision transformer."""
    if found := re.fullmatch(r"dinov2_vit([sblg])14(_reg)?", name):
        registers = "reg4_" if found[2] else ""
        stem = f"dinov2_vit{found[1]}14" + ("_reg4" if found[2] else "")
        official = (f"{stem}_pretrain.*", f"{name}.*", "dinov2*.pth", "dinov2*.safetensors")
        timm_name = f"vit_{_SIZES[found[1]]}_patch14_{registers}dinov2"
        return _Vit(timm_name, "lvd142m", 14, official)
    if found := re.fullmatch(r"dinov3_vit([sbl])16\w*|vit_(small|base|large)_patch16_dinov3.*", name):
        timm_name = f"vit_{found[2] or _SIZES[found[1]]}_patch16_dinov3"
        return _Vit(timm_name, "lvd1689m", 16, ("dinov3_vit*.pth", "dinov3_vit*.safetensors"))
    clip = r"(vit_(base|large)_patch(14|16|32)_clip)(?:_quickgelu)?(_\d+)\.openai"
    if found := re.fullmatch(clip, name):
        timm_name, width = f"{found[1]}_quickgelu{found[4]}", 768 if found[2] == "large" else 512
        patterns = (f"{name}.*", "vit_*clip*.safetensors")
        return _Vit(timm_name, "openai", int(found[3]), patterns, projection=width)
    return None


def read_text_tower(files: PublishedFiles, config: PublishedConfig) -> TextTower | None:
    """The text tower whose vectors live in the backbone's space; None where its weights are not to be had.

    What is missing is logged as one warning; a projection that is damaged or of another width is a CheckpointError.
    """
    projection = find_projection(files, config) if config.use_talk2dino_project else None
    if config.use_talk2dino_project and not config.clip_like and projection is None:
        wrong = "no text tower: put the Talk2DINO projection of the model beside %s (%s)"
        _log.warning(wrong, files.config, ", ".join(_PATTERNS[::2]))
        return None
    name, beside = (config.clip_model_name or "ViT-B/16").replace("/", "-"), files.any_of(_CLIP)
    given: dict[str, Any] = {"type": "open_clip", "name": name, "quick_gelu": True}
    given["weights"] = "pretrained:openai" if beside is None else str(beside)
    if projection is not None:
        given = {"type": "talk2dino", "tower": given, "weights": str(projection)}
    try:
        tower = make_part(TEXT_TOWERS, given, Path(), str(files.config))
    except (HubError, MissingExtraError) as error:
        wrong = "no text tower: CLIP %s cannot be had (%s): connect, or put one of %s beside %s"
        _log.warning(wrong, name, first_line(error), ", ".join(_CLIP), files.config)
        return None
    if tower.dim != config.prefix_size and projection is not None:
        raise CheckpointError(
            f"{projection} projects into width {tower.dim}, the config says prefix_size {config.prefix_size}"
        )
    return tower if tower.dim == config.prefix_size else None


def find_projection(files: PublishedFiles, config: PublishedConfig) -> Path | None:
    """The file of the Talk2DINO projection, or None.

    Where `use_talk2dino_project` is a string, that is a path (also relative to the config), a name beside it, or a
    file of a hub repository, ``owner/name/file.pth``; otherwise, and where that leads nowhere, the one file beside
    the config that is called like a projection.
    """
    named = config.use_talk2dino_project
    if not isinstance(named, str):
        return files.any_of(_PATTERNS)
    if (files.root / named).is_file():
        return files.root / named
    if named.count("/") >= 2 and not named.startswith((".", "/")):
        owner, name, rest = named.split("/", 2)
        try:
            return fetch(f"{owner}/{name}", rest)
        except HubError as error:
            _log.warning("the Talk2DINO projection %s", error)
    return files.any_of((f"{as_pattern(named)}.*", *_PATTERNS))
