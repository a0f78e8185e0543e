"""CLIP by open_clip, dense, and ProxyCLIP: other ways through the last block, where CLIP's patches lose their place."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchioner.backbones import BACKBONES, Backbone, Dense, Encodable, PatchFeatures, PreparedPhoto, SingleViT
from patchioner.backbones.vit import cls_attention, published_attention, resample_positions
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError, first_line
from patchioner.base.files import check
from patchioner.base.optional import require
from patchioner.checkpoints import WeightSource, make_part, read_object, settings_of
from patchioner.geometry import Fit, ImageGeometry, Preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DenseMode = Literal["plain", "value", "self_self"]
"""How values mix in the last block: as they do; "value", each patch's own (MaskCLIP, arXiv 2112.01071); "self_self",
softmax(q q^T) + softmax(k k^T) (SCLIP, arXiv 2312.01597). MaskCLIP's patches lose skip connection and MLP as well."""
_PROBE = "self-test"
_attend = F.scaled_dot_product_attention
# open_clip builds both halves of a model; the other one is made as small as it will go and dropped.
_NO_TEXT = {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}


class OpenClipViT(SingleViT):
    """The visual tower of an open_clip ViT; the text half is neither kept nor stored.

    Args:
        name: an open_clip model, e.g. ``ViT-B-16``.
        preprocessing: input size, fit and normalisation (`clip_preprocessing`). Sizes other than the native one
            interpolate the position embedding, and grids need not be square.
        architecture, quick_gelu, pretrained: see `model_config`; random weights if `pretrained` is None.
        dense: how patch tokens leave the last block; the CLS token and its attention are ordinary.

    Raises:
        UnknownNameError, OptionError: no such model or tag; not a plain ViT, or the settings do not fit it.
        HubError, CheckpointError: the weights cannot be fetched; a file does not hold them.
        MissingExtraError: open_clip is not installed.
    """

    kind, own_keys = "open_clip", ("architecture", "quick_gelu", "dense")
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
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        check(get_args(DenseMode), dense=dense)
        self.name, self.preprocessing, self.dense_mode = name, preprocessing, dense
        self.architecture = None if architecture is None else copy.deepcopy(dict(architecture))
        if name != _PROBE:
            _try_tower()
        settings = model_config(name, architecture, quick_gelu=quick_gelu, pretrained=pretrained)
        self.quick_gelu = bool(settings["quick_gelu"])
        self.own = {"architecture": self.architecture, "quick_gelu": self.quick_gelu, "dense": dense}
        self.visual: Any = _visual(name, settings, pretrained)
        self.dim = int(self.visual.proj.shape[1])
        self.check_patches(self.visual.patch_size)
        if not is_plain(self.visual.transformer.resblocks[-1]):
            raise OptionError(f"the last block of {name!r} is not plain: use 'ViT-B-16'")
        self.eval()

    @classmethod
    def pretrained_of(cls, source: WeightSource) -> str | None:
        """Fetched weights go by a tag, ``pretrained:openai``."""
        return pretrained_of(source)

    def read_files(self, source: WeightSource, folder: Path) -> None:
        """They were read on the way by open_clip."""

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`; differentiable."""
        last = self.last_block(pixels, grid)
        patches = last.outputs(slice(1, None), self.dense_mode)
        tokens, whole = self.project(patches).unflatten(1, grid), self.image_embedding(last)
        parts = last.query[:, :, :1], last.key[:, :, 1:]
        maps, published = cls_attention(*parts), published_attention(*parts)
        return Dense(tokens, whole, maps.unflatten(2, grid), published.unflatten(1, grid))

    def last_block(self, pixels: Tensor, grid: tuple[int, int]) -> LastBlock:
        """The last block, and what goes into it: (B, 1 + rows * columns, width), CLS first."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        whole = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens: Tensor = visual.ln_pre(torch.cat([whole, patches], 1) + self.positions(grid).to(patches.dtype))
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        return LastBlock.of(last, tokens)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings of CLS and patches for a grid: (1 + rows * columns, width)."""
        native: Tensor = self.visual.positional_embedding
        rows, columns = self.visual.grid_size
        if grid == (rows, columns):
            return native
        return resample_positions(native, (rows, columns), grid)[0]

    def project(self, tokens: Tensor) -> Tensor:
        """The final norm and the visual projection: (..., width) -> (..., dim)."""
        projected: Tensor = self.visual.ln_post(tokens) @ self.visual.proj
        return projected

    def image_embedding(self, last: LastBlock) -> Tensor:
        """What open_clip's `encode_image` gives, (B, dim): the CLS token."""
        return self.project(last.outputs(slice(1))[:, 0])


def clip_preprocessing(size: int = 224, patch_size: int = 16, mode: Fit = "stretch") -> Preprocessing:
    """CLIP's normalisation with an input of `size` pixels; the published baselines stretch to 224 or 592."""
    return Preprocessing(mode, size, patch_size, CLIP_MEAN, CLIP_STD)


def _visual(name: str, settings: Mapping[str, Any], pretrained: str | None) -> Any:
    vision, reason = settings["vision_cfg"], None
    if vision.get("timm_model_name"):
        reason = f"it is timm's {vision['timm_model_name']}: use that through timm"
    elif isinstance(vision.get("layers"), (list, tuple)):
        reason = "it is a ResNet"
    elif vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        reason = "its CLS token is not its image embedding"
    if reason:
        raise OptionError(f"{name!r} is no plain vision transformer of open_clip's ({reason})")
    if pretrained is not None:
        return fetch_model(name, pretrained, quick_gelu=settings["quick_gelu"]).visual
    return build_model("CLIP", name, settings, dict(vision), dict(_NO_TEXT)).visual


def build_model(kind: str, name: str, settings: Mapping[str, Any], vision: dict[str, Any], text: dict[str, Any]) -> Any:
    """An open_clip model of a class ("CLIP", "CustomTextCLIP") with random weights; OptionError where it cannot be."""
    make = getattr(require("open_clip", "clip"), kind)
    try:
        return make(settings["embed_dim"], vision, text, quick_gelu=settings["quick_gelu"])
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise OptionError(f"open_clip cannot build {name!r}: {error}") from error


@cache
def _try_tower() -> None:
    """Self-test on a tiny tower: what we take apart gives what open_clip's own forward pass gives."""
    vision = {"image_size": 8, "patch_size": 4, "width": 16, "layers": 2, "head_width": 8}
    architecture = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": dict(_NO_TEXT)}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        pixels = torch.linspace(-9, 9, 192).sin().view(1, 3, 8, 8)
        try:
            probe = OpenClipViT(_PROBE, clip_preprocessing(8, 4), architecture=architecture)
            found, expected = probe.outputs(pixels, (2, 2)), probe.visual(pixels)
            fits = found.cls is not None and torch.allclose(found.cls, expected, atol=1e-4)
        except (AttributeError, RuntimeError, TypeError):
            fits = False
    if not fits:
        raise OptionError(f"open_clip {require('open_clip', 'clip').__version__} is unknown: see constraints.txt")


@dataclass(frozen=True, eq=False)
class LastBlock:
    """A plain residual attention block of open_clip's, its inputs, CLS first, and what it makes of them."""

    block: Any
    inputs: Tensor  # (B, 1 + patches, width)
    query: Tensor  # as key and value (B, heads, 1 + patches, head width), unscaled
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, block: Any, inputs: Tensor) -> LastBlock:
        """Take `block` apart for these inputs; `is_plain(block)` must hold."""
        attention = block.attn
        together = F.linear(block.ln_1(inputs), attention.in_proj_weight, attention.in_proj_bias)
        parts = together.unflatten(2, (3, int(attention.num_heads), -1)).permute(2, 0, 3, 1, 4)
        return cls(block, inputs, *parts.unbind(0))

    def outputs(self, part: slice, mode: DenseMode = "plain") -> Tensor:
        """What the block makes of a part of its inputs, (B, n, width); `mode` is the "dense" of `OpenClipViT`."""
        block, query, key, value = self.block, self.query, self.key, self.value
        if mode == "value":
            return self.attended(value[:, :, part])
        if mode == "self_self":
            # The sum of two softmaxes distributes over the values, and no (tokens, tokens) matrix is kept.
            mixed = _attend(query[:, :, part], query, value) + _attend(key[:, :, part], key, value)
        else:
            mixed = _attend(query[:, :, part], key, value)
        tokens = self.inputs[:, part] + self.attended(mixed)
        finished: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return finished

    def attended(self, mixed: Tensor) -> Tensor:
        """Output projection of mixed values (B, heads, n, head width), no skip connection, no MLP: (B, n, width)."""
        attended: Tensor = self.block.ls_1(self.block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        return attended


def is_plain(block: Any) -> bool:
    """Whether `LastBlock` may take this block apart: the ordinary pre-norm block with torch's own attention."""
    attention = getattr(block, "attn", None)
    if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
        return False
    parts = all(hasattr(block, part) for part in ("ln_1", "ls_1", "ln_2", "ls_2", "mlp"))
    return attention.batch_first and parts and not hasattr(block, "ln_1_kv")


def model_config(
    name: str,
    architecture: Mapping[str, Any] | None = None,
    *,
    quick_gelu: bool | None = None,
    pretrained: str | None = None,
) -> dict[str, Any]:
    """open_clip's config of a model, as a copy: embed_dim, vision_cfg, text_cfg, quick_gelu (always given).

    Args:
        name: one of open_clip's models, or a label if `architecture` is given.
        architecture: a config in open_clip's form.
        quick_gelu: CLIP's first activation, which the ``openai`` weights need; None is what the pretrained weights or
            else the config say.
        pretrained: one of open_clip's tags for `name`, e.g. ``openai`` (needs a connection), or a file of its weights.
    """
    open_clip = require("open_clip", "clip")
    if architecture is not None and pretrained is not None:
        raise OptionError(f"pretrained={pretrained!r} goes with a name, not with an architecture")
    if architecture is None and name not in (known := open_clip.list_models()):
        raise UnknownNameError.among("model of open_clip", str(name), known)
    settings = copy.deepcopy(dict(architecture or open_clip.get_model_config(name)))
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in settings:
            raise OptionError(f"the architecture {name!r} lacks {key!r}: give open_clip's config")
    if quick_gelu is None:
        tag = (open_clip.get_pretrained_cfg(name, pretrained) or {}) if pretrained else {}
        quick_gelu = bool(tag.get("quick_gelu", settings.get("quick_gelu", False)))
    return {**settings, "quick_gelu": quick_gelu}


def pretrained_of(source: WeightSource) -> str | None:
    """The tag or file of open_clip's weights that a config names."""
    if source.fetched and source.tag is None:
        raise OptionError("open_clip's weights go by a tag: weights: pretrained:openai")
    return str(source.file) if source.file is not None else source.tag


def fetch_model(name: str, pretrained: str, *, quick_gelu: bool) -> Any:
    """A whole open_clip model with its weights, by tag (downloaded once, then cached) or from a file, never unpickled.

    Raises:
        UnknownNameError: neither a tag of this model nor a file.
        HubError, CheckpointError: a tag's weights cannot be fetched; a file does not hold weights of this model.
    """
    open_clip, path = require("open_clip", "clip"), Path(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        if not path.is_file():
            raise UnknownNameError.among(f"file or tag of weights of {name}", pretrained, tags)
        if path.suffix != ".safetensors":
            read_object(path)  # refuses a pickle, which open_clip might fall back to executing
    try:
        return open_clip.create_model(name, pretrained, force_quick_gelu=quick_gelu, quick_gelu=quick_gelu)
    except Exception as error:  # of several libraries, which share no class
        reason = first_line(error)
        if pretrained in tags:
            raise HubError(f"weights {pretrained!r} of {name} cannot be had: {reason}") from error
        raise CheckpointError(f"{pretrained} holds no weights of open_clip's {name}: {reason}") from error


SHIFT, SCALE = 1.2, 3.0  # beta and gamma of the paper, which reports 1.0..1.6 and 2..5 as good


class ProxyClip(Backbone):
    """CLIP patch tokens on the grid of another backbone, gathered along that backbone's affinities.

    ProxyCLIP (arXiv 2408.04883): in CLIP's last block the attention gives way to

        A = scale (X X^T - shift mean(X X^T)),   Attn = softmax over j of A_ij where A_ij >= 0,   z = Proj(Attn V)

    with X the unit patch tokens of the proxy, V CLIP's values, Proj the block's output projection; skip connection and
    MLP are left out, CLIP's final norm and visual projection follow. Each backbone sees the photo in its own size;
    CLIP's values and attention are resampled (bilinear) to the proxy's grid. There is no `reference_attention`.

    Args:
        clip: gives values, CLS token and the space of the tokens; its `dense` mode plays no part.
        proxy: gives affinities and the grid, e.g. a `TimmViT` of DINO without a head; fits photos in the same way.

    Raises:
        OptionError: the first is no CLIP, or the two fit photos in different ways.
    """

    def __init__(self, clip: OpenClipViT, proxy: Backbone) -> None:
        super().__init__()
        if not isinstance(clip, OpenClipViT):
            raise OptionError(f"a {type(clip).__name__} is no CLIP of open_clip: use 'ViT-B-16'")
        other = getattr(getattr(proxy, "preprocessing", None), "mode", None)
        if clip.preprocessing.mode != other:
            raise OptionError(f"CLIP fits by {clip.preprocessing.mode!r}, the proxy by {other!r}: give one mode")
        self.clip, self.proxy, self.dim = clip, proxy, clip.dim
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; "clip" and "proxy" are configs or folders, else those that `save` wrote."""
        own = settings_of(config, ("clip", "proxy"))
        clip = make_part(BACKBONES, own.get("clip", "clip"), folder, "clip of a proxy_clip")
        proxy = make_part(BACKBONES, own.get("proxy", "proxy"), folder, "proxy of a proxy_clip")
        return cls(clip, proxy)  # type: ignore[arg-type]  # another kind than CLIP is refused

    @property
    def config(self) -> dict[str, Any]:
        """The type; the two backbones have folders, and configs, of their own."""
        return {"type": "proxy_clip"}

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
            raise OptionError("a prepared photo is of one backbone: give ProxyCLIP the photo")
        seen, own = self.proxy.encode([image])[0], self.clip.prepare(image)
        grid = seen.geometry.grid
        last = self.clip.last_block(self.clip.as_input([own.pixels]), own.geometry.grid)

        def on_grid(cells: Tensor) -> Tensor:
            """(heads, patches of CLIP, width) -> (heads, patches of the proxy, width)."""
            return resample(cells.unflatten(1, own.geometry.grid), grid).flatten(1, 2)

        values = on_grid(last.value[0, :, 1:])
        along = proxy_attention(seen.tokens.flatten(0, 1))
        tokens = self.clip.project(last.attended((along.to(values) @ values)[None])).unflatten(1, grid)
        maps = cls_attention(last.query[:, :, :1], last.key[:, :, 1:])
        attention = on_grid(maps[0, :, :, None])[..., 0].float().unflatten(1, grid)
        return PatchFeatures(
            tokens[0].float(),
            self.clip.image_embedding(last)[0].float(),
            attention / attention.sum(dim=(1, 2), keepdim=True),
            seen.geometry,
        )


def proxy_attention(tokens: Tensor) -> Tensor:
    """Attention along the affinities of patch tokens (see `ProxyClip`): (patches, width) -> (patches, patches) float32.

    Each row sums to 1. A patch always attends to itself: of tokens all alike, the formula would give no number at all.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.T
    affinity = SCALE * (cosines - SHIFT * cosines.mean())
    kept = affinity >= 0
    kept.fill_diagonal_(True)
    return affinity.masked_fill(~kept, -math.inf).softmax(dim=-1)


def resample(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear resampling (antialiased where it shrinks) of (B, rows, columns, width) to a grid over the same area."""
    if tuple(cells.shape[1:3]) == grid:
        return cells
    given = cells.permute(0, 3, 1, 2).float()  # torch resamples no half precision on the CPU
    spread = F.interpolate(given, size=grid, mode="bilinear", align_corners=False, antialias=True)
    return spread.permute(0, 2, 3, 1).to(cells.dtype)
