"""Published Patch-ioner models become parts (`read_published`); the options of their interface (`PublishedOption`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions, Decoder
from decoders.retrieval import RetrievalDecoder
from patchioner.backbones import BACKBONES, Backbone, PatchFeatures
from patchioner.backbones.clip import CLIP_MEAN, CLIP_STD
from patchioner.backbones.vit import IdentityHead, TimmViT, is_plain_block
from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError, RegionError, first_line
from patchioner.base.files import check, settings_from
from patchioner.checkpoints import fetch, make_part
from patchioner.checkpoints.folder import Crop, ModelSettings, Parts
from patchioner.checkpoints.published import decoders
from patchioner.checkpoints.published.files import PublishedConfig, PublishedFiles, as_pattern, bank_of, read_config
from patchioner.embedding import project
from patchioner.geometry import ImageGeometry
from patchioner.model import Patchioner, Regions
from patchioner.pipeline import Embedded
from patchioner.regions import Box, Region, RegionSet, Trace, Weighting, WholeImage, feature_weights
from patchioner.regions.shapes import reference_model_boxes
from patchioner.text import TEXT_TOWERS, TextTower

STEPS = 30  # of the published greedy loop
Fit = Literal["stretch", "crop"]
Context = Literal["cls", "attention"]
Reading = Literal["avg", "cls", "gaussian_avg"]
Name = Literal["registers", "heads", "double_pass", "orthogonal_projection", "contrastive_mask"]
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
        bank, decoder = bank_of(files, config), _decoder(files, config, tower)
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


def _decoder(files: PublishedFiles, config: PublishedConfig, tower: Callable[[], TextTower | None]) -> Decoder:
    if config.viecap is not None:
        return decoders.read_viecap(files, config.viecap, tower, dim=config.prefix_size)
    if config.calculate_argmax_text:
        if config.support_memory_size == 0:
            raise CheckpointError(f"{files.config}: calculate_argmax_text needs a bank: support_memory_size")
        return RetrievalDecoder(config.prefix_size)
    if config.decap_weights is None:
        raise CheckpointError(f"{files.config}: no decoder: give decap_weights, viecap or calculate_argmax_text")
    return decoders.read_decap(files.find(config.decap_weights, "decoder"), prefix_size=config.prefix_size)


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
        return {"type": "open_clip", "name": name, "weights": "pretrained:openai", "preprocessing": fit}
    if name is None or "dinotxt" in name:
        what = f"a DINO.txt model ({name})"
        if name is None:
            what = f"a ProxyCLIP model ({config.proxyclip_clipmodel} under {config.proxyclip_vfm})"
        raise CheckpointError(f"{source}: this is {what}: build it from configs/")
    if (vit := vit_of(name)) is None:
        known = "dinov2_vit{s,b,l,g}14[_reg], dinov3_vit{s,b,l}16, vit_base_patch16_clip_224.openai and its kin"
        raise CheckpointError(f"{source}: dino_model {name!r} is not supported; use {known}")
    if (beside := files.any_of(vit.files)) is None:
        _log.info("no weights of %s beside %s: fetching timm's", vit.name, source)
    fit |= {"patch_size": vit.patch, **(_CLIP_STATISTICS if vit.projection else {})}
    return {
        "type": "timm",
        "name": vit.name if beside else f"{vit.name}.{vit.tag}",
        "weights": str(beside or "pretrained"),
        "head": {"type": "linear", "dim": vit.projection} if vit.projection else {"type": "none"},
        "preprocessing": fit,
    }


def vit_of(name: str) -> _Vit | None:
    """What timm calls a published backbone; None where it is none of a single vision transformer."""
    if found := re.fullmatch(r"dinov2_vit([sblg])14(_reg)?", name):
        registers = "reg4_" if found[2] else ""
        official = (f"{name.replace('_reg', '_reg4')}_pretrain.*", f"{name}.*", "dinov2*.pth", "dinov2*.safetensors")
        return _Vit(f"vit_{_SIZES[found[1]]}_patch14_{registers}dinov2", "lvd142m", 14, official)
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
        _log.warning("no text tower: put its Talk2DINO file beside %s (%s)", files.config, ", ".join(_PATTERNS[::2]))
        return None
    name, beside = (config.clip_model_name or "ViT-B/16").replace("/", "-"), files.any_of(_CLIP)
    weights = str(beside or "pretrained:openai")
    given: dict[str, Any] = {"type": "open_clip", "name": name, "quick_gelu": True, "weights": weights}
    if projection is not None:
        given = {"type": "talk2dino", "tower": given, "weights": str(projection)}
    try:
        tower = make_part(TEXT_TOWERS, given, Path(), str(files.config))
    except (HubError, MissingExtraError) as error:
        wrong = "no text tower: CLIP %s cannot be had (%s): connect, or put one of %s beside %s"
        _log.warning(wrong, name, first_line(error), ", ".join(_CLIP), files.config)
        return None
    if tower.dim != config.prefix_size and projection is not None:
        raise CheckpointError(f"{projection} projects into width {tower.dim}, not prefix_size {config.prefix_size}")
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


@dataclass(frozen=True)
class PublishedOption:
    """One option of the authors' interface; OptionError for a value outside of these.

    Args:
        name: "registers" or "heads": a caption of each register token, or of each published attention head, whatever
            the regions. "orthogonal_projection" or "contrastive_mask": tokens are cleaned first (`clean_features`).
            "double_pass": the last block runs once more on each region's tokens (`double_pass`).
        context, alpha, after_projection: of cleaning.
        reading: of the double pass.
    """

    name: Name
    context: Context = "cls"
    alpha: float = 1.0
    after_projection: bool = True
    reading: Reading = "avg"

    def __post_init__(self) -> None:
        check(get_args(Name), name=self.name)
        check(get_args(Context), context=self.context)
        check(get_args(Reading), reading=self.reading)
        check("(-inf, inf)", alpha=self.alpha)

    @classmethod
    def of(cls, text: str) -> PublishedOption:
        """Read ``NAME,KEY=VALUE,...``.

        Example:
            >>> PublishedOption.of("orthogonal_projection,alpha=0.5,after_projection=false").alpha
            0.5
        """
        name, *pairs = text.split(",")
        words: dict[str, Any] = dict(pair.partition("=")[::2] for pair in pairs)
        try:
            if "alpha" in words:
                words["alpha"] = float(words["alpha"])
            if "after_projection" in words:
                words["after_projection"] = {"true": True, "false": False}[words["after_projection"]]
        except (ValueError, KeyError):
            raise OptionError(f"{text!r:.80}: alpha is a number, after_projection true or false") from None
        return settings_from(cls, {**words, "name": name}, f"{text!r:.80}")


class PublishedCaptioner(Patchioner):
    """A captioner with one option of the authors' interface; its captions are plain and have no confidence.

    Its `embed_regions` gives what goes into the decoder: behind the memory projection, where the model has one. Of
    cleaned tokens it is repeated for what the authors project twice: sets, traces, whole images, the CLS token.

    Example:
        >>> option = PublishedOption("double_pass", reading="cls")
        >>> PublishedCaptioner(model.parts, option).caption("photo.jpg", [Box(0, 0, 99, 99)])
    """

    def __init__(self, parts: Parts, option: PublishedOption, **how: Any) -> None:
        kinds = {kind: replace(own, guidance=None, candidates=None) for kind, own in parts.settings.kinds.items()}
        plain = replace(parts.settings, kinds=kinds, crop_candidates=None, calibration={}, projection="raw")
        super().__init__(replace(parts, settings=plain), **how)
        self.option, self._published = option, parts.settings

    def _project(self, rows: Tensor) -> Tensor:
        return project(rows, self._published, self._placed.bank)

    def _embed(
        self, features: PatchFeatures, asked: Regions, weighting: Weighting | None, crop: Crop | None
    ) -> Embedded:
        if self.option.name not in ("registers", "heads"):
            return super()._embed(features, asked, weighting, crop)
        if callable(asked):
            asked(features.geometry)  # who asks may wait for it
        of_all = register_embeddings if self.option.name == "registers" else head_embeddings
        rows = self._project(of_all(features))
        return Embedded([WholeImage()] * len(rows), rows, {})

    def embed_regions(
        self,
        features: PatchFeatures,
        regions: Sequence[Region],
        weighting: Weighting | None = None,
        *,
        crop: Crop | None = None,
    ) -> Tensor:
        """(n, dim) float32 as they go into the decoder; see the class and `Patchioner.embed_regions`."""
        option = self.option
        if option.name == "double_pass":
            weighting = weighting or self.settings.weighting
            return self._project(double_pass(self._placed.backbone, features, regions, option.reading, weighting))
        cleaned = clean_features(features, self._project, option)
        rows = super().embed_regions(cleaned, regions, weighting, crop=crop)
        twice = [
            (weighting or self.settings.for_region(region)[0]).kind == "cls"
            or isinstance(region, RegionSet | Trace | WholeImage)
            for region in regions
        ]
        return torch.where(torch.tensor(twice)[:, None].to(rows.device), self._project(rows), rows)

    def __reduce__(self) -> tuple[Any, ...]:
        make, _ = super().__reduce__()
        given = replace(self.parts, settings=self._published)
        return partial(make, option=self.option), (given,)


def register_embeddings(features: PatchFeatures) -> Tensor:
    """The register tokens, (count, dim): what `get_register_capts` captions; OptionError without registers."""
    return _there(features.registers, "registers: use one with 'reg' in its name")


def attention_embedding(features: PatchFeatures) -> Tensor:
    """`avg_self_attn_token`, (dim,): the mean over patches, not the sum, of attention times token."""
    attention = _there(features.reference_attention, "attention of its CLS token: use another one")
    return (attention.flatten()[:, None] * features.tokens.flatten(0, 1)).mean(dim=0)


def head_embeddings(features: PatchFeatures) -> Tensor:
    """`attn_heads_capts`: for each published head the mean over patches of its map times token, (slices, dim)."""
    heads = _there(features.reference_heads, "attention of single heads: use another one")
    tokens = features.tokens.flatten(0, 1)
    return heads.flatten(1) @ tokens / len(tokens)


def _there(part: Tensor | None, what: str) -> Tensor:
    if part is None:
        raise OptionError(f"the backbone has no {what}")
    return part


def clean_features(
    features: PatchFeatures, project: Callable[[Tensor], Tensor], option: PublishedOption
) -> PatchFeatures:
    """Take the photo's context out of every patch token, as `cleaning_type` does; the result is projected already.

    OptionError for a context that the backbone does not have.

    Args:
        project: (n, dim) -> (n, dim), the memory projection, e.g. ``model.parts.bank.project``.
        option: its name is "orthogonal_projection", t - alpha (t . c / c . c) c, or "contrastive_mask",
            t (1 - c / (|c| + 1e-6)); its context c, the CLS token or `attention_embedding`. With `after_projection`,
            tokens and context are projected and cleaned then; else both are scaled to unit length, cleaned, and what
            comes out is projected.
    """
    step = project if option.after_projection else F.normalize
    by_cls = option.context == "cls"
    own = _there(features.cls, "CLS token: clean by attention") if by_cls else attention_embedding(features)
    own, tokens = step(own[None]), step(features.tokens.flatten(0, 1))
    if option.name == "orthogonal_projection":
        share = (tokens @ own.T) / own.square().sum()
        cleaned = tokens - option.alpha * share * own
    else:
        cleaned = tokens * (1 - own / (own.norm() + 1e-6))
    if not option.after_projection:
        cleaned = project(cleaned)
    return replace(features, tokens=cleaned.view_as(features.tokens))


@torch.inference_mode()
def double_pass(
    backbone: Backbone,
    features: PatchFeatures,
    regions: Sequence[Region],
    reading: Reading = "avg",
    weighting: Weighting | None = None,
) -> Tensor:
    """The authors' "double DINO": CLS, registers and a region's patch tokens once more through the last block.

    What goes in are the outputs of that block behind the final norm, as published.

    Args:
        backbone: that gave the features; a plain ViT without a visual head.
        regions: n of them; of each the patches that have a weight. With ``rounding="reference"`` a `Box` is read as
            published: x, y, width and height as the patches of two corners, columns floor(x / p) .. floor(width / p).
        reading: "avg": the mean of the patches' outputs; "cls": the output at CLS; "gaussian_avg": as "avg", but the
            patches that go in are multiplied by the Gaussian of the weighting's variance (sum 1), not those that
            come out.
        weighting: its rounding and variance count; exact coverage by default.

    Returns:
        (n, dim) float32, not normalised.

    Raises:
        OptionError: another backbone, or features without a CLS token.
        RegionError: a region has no patch.
    """
    if not isinstance(backbone, TimmViT) or not isinstance(backbone.head, IdentityHead):
        raise OptionError("a double pass needs a plain vision transformer without a visual head")
    block, own = backbone.vit.blocks[-1], weighting or Weighting()
    if not is_plain_block(block):
        raise OptionError(f"{backbone.name} has no plain last block, which a double pass needs")
    if own.rounding == "reference":
        regions = [_by_corners(one, features.geometry) for one in regions]
    kind: Any = "gaussian" if reading == "gaussian_avg" else "uniform"
    maps = feature_weights(features, regions, replace(own, kind=kind, head=None))
    tokens, prefix = features.tokens.flatten(0, 1), _there(features.cls, "CLS token")[None]
    if features.registers is not None:
        prefix = torch.cat([prefix, features.registers])
    weight, rows = backbone.vit.patch_embed.proj.weight, []
    for weights in torch.from_numpy(maps).to(tokens.device).flatten(1):
        inside = weights > 0
        seen = tokens[inside]
        if reading == "gaussian_avg":
            seen = seen * weights[inside, None]
        given = torch.cat([prefix, seen])[None].to(weight.device, weight.dtype)
        found = block(given)[0].float()
        rows.append(found[0] if reading == "cls" else found[len(prefix) :].mean(dim=0))
    return torch.stack(rows)


def _by_corners(region: Region, geometry: ImageGeometry) -> Region:
    """A box whose patches under reference rounding are those that the double pass takes."""
    if not isinstance(region, Box):
        return region
    corners = np.array([[region.x1, region.y1, region.x2, region.y2]])
    cells = np.floor_divide(reference_model_boxes(corners, geometry), geometry.patch_size)[0]
    last = np.minimum(cells[2:], np.array(geometry.grid[::-1]) - 1)
    if (last < cells[:2]).any():
        raise RegionError(f"{region!r} as published has empty corners: use rounding='coverage'")
    # Well inside of the two patches, so that no rounding leads out of them.
    places = geometry.to_pixels(np.stack([cells[:2] + 0.25, last + 0.5]))
    return Box(*places.ravel().tolist())
