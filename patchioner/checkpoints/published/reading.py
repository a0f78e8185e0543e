"""`read_published`: a folder of the hub's layout, or one of the authors' YAML files, becomes parts."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from decoders import DecodeOptions, Decoder
from memory_bank import MemoryBank
from patchioner.backbones import BACKBONES, Backbone
from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError
from patchioner.base.files import file_sha256
from patchioner.checkpoints.hub import fetch
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.published.bank import find_bank, read_bank, read_memory
from patchioner.checkpoints.published.config import (
    PublishedConfig,
    PublishedFiles,
    as_pattern,
    read_config,
)
from patchioner.checkpoints.settings import ModelSettings
from patchioner.checkpoints.stored import make_part
from patchioner.regions import Weighting
from patchioner.text import TextTower

STEPS = 30  # of the published greedy loop
Fit = Literal["stretch", "crop"]
_CLIP_STATISTICS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_DINOV3 = re.compile(r"dinov3_vit([sbl])16\w*|vit_(small|base|large)_patch16_dinov3.*")
# The published projections, by the start of their sha256. Decoder and bank go with the one they were made with.
_KNOWN = {
    "5db3e85d8745a621": "Patch-ioner's own Talk2DINO weights",
    "5f6efcc520f22916": "Talk2DINO's vitb_mlp_infonce.pth",
    "6fc5ce7a05d8f1c8": "Talk2DINO's dinov3_vitb_mlp_infonce.pth",
}
_PATTERNS = ("talk2dino*.pth", "talk2dino*.safetensors", "*infonce*.pth", "*infonce*.safetensors")
_CLIP_FILES = ("ViT-*.pt", "clip*.pt", "open_clip*.safetensors", "clip*.safetensors")
_log = logging.getLogger(__name__)


def read_published(
    path: Path,
    *,
    mode: Fit = "stretch",
    backbone: Backbone | None = None,
    talk2dino: str | Path | None = None,
) -> Parts:
    """Read a published Patch-ioner model.

    Args:
        path: a folder with a config.yaml (as in the hub repositories), or a YAML file of the authors; the other files
            are looked up beside it by their base names, then in the repository that `hf_repo_id` names.
        mode: how photos are fitted: "stretch", as for all published numbers, or "crop".
        backbone: use this one instead of the one that the config names, of the same width.
        talk2dino: the projection for the text tower, a file or ``owner/name/file.pth`` on the hub; None looks beside
            the config. It must be the one that the model was made with, or texts and regions do not share a space.

    Returns:
        Parts whose settings repeat the published ones: patches weighed by the published integer arithmetic
        (`rounding="reference"`), uniformly, or for backbones of the CLIP family by their CLS token; greedy decoding of
        30 tokens. The projection is

        * "memory" for DeCap (`support_memory_size` > 0), unit vectors after it as `normalize` says;
        * "raw" for CapDec (`support_memory_size: 0`): the published code gives its decoder region embeddings of any
          length, though training used unit vectors. Set it to "none" for what the training means;
        * "none", which means unit vectors, for ViECap, MeaCap and retrieval.

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
    try:
        return _read(files, config, mode, backbone)
    except OptionError as error:  # a number in the config that makes no sense
        raise CheckpointError(f"{files.config}: {error}") from error


def _read(
    files: PublishedFiles, config: PublishedConfig, mode: Fit, backbone: Backbone | None
) -> Parts:
    # The cheap parts first: a fault in them should not wait for a download of the backbone.
    if config.viecap is not None:
        return _with_language_model(files, config, mode, backbone)
    bank = _bank(files, config)
    decoder: Decoder
    if config.calculate_argmax_text:
        if bank is None:
            raise CheckpointError(
                f"{files.config}: calculate_argmax_text needs a bank; set support_memory_size"
            )
        from decoders.retrieval import RetrievalDecoder

        decoder = RetrievalDecoder(config.prefix_size)
    else:
        decoder = _decap(files, config)
    backbone = backbone or read_backbone(files, config, mode=mode)
    tower = read_text_tower(files, config, backbone.dim)
    return Parts(backbone, decoder, bank, tower, _settings(files, config, bank))


def _decap(files: PublishedFiles, config: PublishedConfig) -> Decoder:
    if config.decap_weights is None:
        raise CheckpointError(
            f"{files.config}: no decoder: give decap_weights, viecap, or calculate_argmax_text with a bank"
        )
    from patchioner.checkpoints.published.decoders import read_decap

    return read_decap(files.find(config.decap_weights, "decoder"), prefix_size=config.prefix_size)


def _bank(files: PublishedFiles, config: PublishedConfig) -> MemoryBank | None:
    if config.support_memory_size == 0:
        return None
    return read_bank(find_bank(files, config), unit_rows=config.clip_like, dim=config.prefix_size)


def _settings(
    files: PublishedFiles, config: PublishedConfig, bank: MemoryBank | None
) -> ModelSettings:
    projection = "raw" if bank is None else "none" if config.calculate_argmax_text else "memory"
    return ModelSettings(
        name=files.name,
        weighting=_weighting(config),
        projection=projection,
        normalize=config.normalize,
        # Retrieval counts words and passes longer sentences over, which the published code does not.
        decode=DecodeOptions(max_tokens=1000 if config.calculate_argmax_text else STEPS),
    )


def _weighting(config: PublishedConfig) -> Weighting:
    """Section 3.3 of the facts: patches, uniformly; backbones trained on images alone were read at their CLS token."""
    dino = config.dino_model is not None and "dino" in config.dino_model
    return Weighting("uniform" if dino else "cls", rounding="reference")


def _with_language_model(
    files: PublishedFiles, config: PublishedConfig, mode: Fit, backbone: Backbone | None
) -> Parts:
    from patchioner.checkpoints.published.decoders import decode_options, read_meacap, read_viecap

    viecap = config.viecap
    assert viecap is not None, "asked for by the caller"
    bank: MemoryBank | None = None
    decoder: Decoder
    tower: TextTower | None
    if viecap.meacap is not None:
        bank = read_memory(files, viecap.meacap, dim=config.prefix_size)
        decoder = read_meacap(files, viecap, dim=config.prefix_size)
        backbone = backbone or read_backbone(files, config, mode=mode)
        tower = read_text_tower(files, config, backbone.dim)
    else:
        backbone = backbone or read_backbone(files, config, mode=mode)
        tower = read_text_tower(files, config, backbone.dim)
        decoder = read_viecap(files, viecap, tower, dim=config.prefix_size)
    settings = ModelSettings(
        name=files.name,
        weighting=_weighting(config),
        projection="none",
        decode=decode_options(viecap),
    )
    return Parts(backbone, decoder, bank, tower, settings)


@dataclass(frozen=True)
class _Vit:
    """A network of timm, the tag of its weights, where a file of them may lie, the width of CLIP's projection."""

    name: str
    tag: str
    patch: int
    files: tuple[str, ...]
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
    source = str(files.config)
    try:
        return make_part(BACKBONES, _backbone_config(files, config, mode), Path(), source)
    except HubError as error:
        vit = vit_of(config.dino_model or "")
        wanted = "" if vit is None else f" neither {' nor '.join(vit.files)} is beside it, and"
        raise CheckpointError(f"{source}: no weights of the backbone:{wanted} {error}") from error


def _backbone_config(files: PublishedFiles, config: PublishedConfig, mode: Fit) -> dict[str, Any]:
    """What our own config of the backbone would say."""
    name, source = config.dino_model, str(files.config)
    if config.use_open_clip:  # the published crop variant was its training transform, a random crop
        name = (config.clip_model_name or "ViT-B-16").replace("/", "-")
        if (found := re.search(r"-(14|16|32)(?:-|$)", name)) is None:
            raise CheckpointError(
                f"clip_model_name {name!r} does not tell its patch size; use a ViT such as ViT-B/16"
            )
        square = {"mode": mode, "size": config.resize_dim, "patch_size": int(found[1])}
        return {
            "type": "open_clip",
            "name": name,
            "weights": "pretrained:openai",
            "preprocessing": {**square, **_CLIP_STATISTICS},
        }
    if name is None or "dinotxt" in name:
        what = f"a DINO.txt model ({name})"
        if name is None:
            what = f"a ProxyCLIP model ({config.proxyclip_clipmodel} under {config.proxyclip_vfm})"
        raise CheckpointError(
            f"{source}: this is {what}, which is not read from published files; build it from configs/ with its own "
            "YAML"
        )
    if (vit := vit_of(name)) is None:
        raise CheckpointError(
            f"{source}: dino_model {name!r} is not supported; use dinov2_vit{{s,b,l,g}}14[_reg], "
            "dinov3_vit{s,b,l}16, vit_base_patch16_clip_224.openai and its kin"
        )
    beside = files.any_of(vit.files)
    if beside is None:
        _log.info("no weights of %s beside %s: fetching timm's", vit.name, source)
    square = {"mode": mode, "size": config.resize_dim, "patch_size": vit.patch}
    return {
        "type": "timm",
        "name": vit.name if beside else f"{vit.name}.{vit.tag}",
        "weights": str(beside) if beside else "pretrained",
        "head": {"type": "linear", "dim": vit.projection} if vit.projection else {"type": "none"},
        "preprocessing": {**square, **(_CLIP_STATISTICS if vit.projection else {})},
    }


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
        return _Vit(timm_name, "openai", int(found[2]), patterns, projection=width)
    return None


def read_text_tower(files: PublishedFiles, config: PublishedConfig, dim: int) -> TextTower | None:
    """The text tower whose vectors live in the backbone's space; None where its weights are not to be had.

    A model captions without it; only `embed_text`, labelling and building banks need it. What is missing is logged as
    one warning.

    Args:
        files: around the config; a Talk2DINO projection and a file of CLIP beside it are preferred to a download.
        config: `use_talk2dino_project`, `clip_model_name`.
        dim: width of the backbone's space.

    Raises:
        CheckpointError: a projection that is there, but damaged or of another width.
    """
    projection = find_projection(files, config) if config.use_talk2dino_project else None
    if config.use_talk2dino_project and not config.clip_like and projection is None:
        _log.warning(
            "no text tower: there is no Talk2DINO projection beside %s (%s). Captions need none; to embed texts, put "
            "the projection that the model was made with there",
            files.config,
            ", ".join(_PATTERNS[:1] + _PATTERNS[2:3]),
        )
        return None
    clip = _clip_text(files, config)
    if clip is None or projection is None:
        return clip if clip is not None and clip.dim == dim else None
    return join(clip, projection, dim)


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


def join(clip: TextTower, path: Path, dim: int) -> TextTower:
    """A CLIP text tower and a file of Talk2DINO's projection (either style of names), checked against the backbone."""
    from patchioner.text.talk2dino import Talk2DinoTower, load_talk2dino_weights

    tower = Talk2DinoTower.from_weights(clip, load_talk2dino_weights(path))
    if tower.dim != dim:
        raise CheckpointError(
            f"{path}: projects into width {tower.dim}, the backbone has {dim}; it belongs to another backbone"
        )
    known = _KNOWN.get(file_sha256(path)[:16], "an unknown Talk2DINO projection")
    _log.info("text tower: %s (%s)", known, path.name)
    return tower


def _clip_text(files: PublishedFiles, config: PublishedConfig) -> TextTower | None:
    name = (config.clip_model_name or "ViT-B/16").replace("/", "-")
    beside = files.any_of(_CLIP_FILES)
    try:
        from patchioner.text.clip import OpenClipText

        weights = "pretrained:openai" if beside is None else str(beside)
        given = {"name": name, "quick_gelu": True, "weights": weights}
        return OpenClipText.from_config(given, Path())
    except (HubError, MissingExtraError, OptionError) as error:
        _log.warning(
            "no text tower: CLIP %s cannot be had (%s). Captions need none; to embed texts, connect once, or put one "
            "of %s beside %s",
            name,
            str(error).splitlines()[0],
            ", ".join(_CLIP_FILES),
            files.config,
        )
        return None
