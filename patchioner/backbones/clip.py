"""CLIP through open_clip as a dense backbone: every patch token in the space of CLIP's texts.

CLIP is trained on its CLS token alone: the last block gathers into every token what the whole photo shows, and patches
lose their place. Three ways out, none of which needs training, differ in what replaces the last attention:

* "value": nothing; each patch keeps its own value, sent through the output projection (MaskCLIP, arXiv 2112.01071);
* "self_self": softmax(q q^T) + softmax(k k^T), each scaled as usual, applied to the values (SCLIP, arXiv 2312.01597);
* affinities of another backbone (`patchioner.backbones.proxy`).

The towers are open_clip's; what this leans on beyond its public interface is tried once, when the first is made. No
hook is registered and nothing is written into a block: threads may share it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchioner.backbones.base import (
    BACKBONES,
    Dense,
    SingleViT,
    preprocessing_config,
    preprocessing_of,
)
from patchioner.backbones.vit import cls_attention, published_attention
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.base.optional import require
from patchioner.checkpoints.files import read_object
from patchioner.checkpoints.stored import WeightSource, settings_of
from patchioner.geometry import Fit, Preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DenseMode = Literal["plain", "value", "self_self"]
# Whether skip connection and MLP of the last block are kept, as published for each mode: MaskCLIP's patches are the
# value path alone; SCLIP swaps the attention and leaves the rest of the block.
KEEPS_REST: dict[DenseMode, bool] = {"plain": True, "value": False, "self_self": True}
_PROBE = "self-test"
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
            (SCLIP), see the module. The CLS token and its attention are the ordinary ones in
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
        if name != _PROBE:
            _try_tower()
        settings = model_config(name, architecture, quick_gelu=quick_gelu, pretrained=pretrained)
        self.quick_gelu = bool(settings["quick_gelu"])
        self.visual: Any = _visual(name, settings, pretrained)
        self._check()
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; fetched weights go by a tag, ``pretrained:openai``."""
        known = ("name", "preprocessing", "architecture", "quick_gelu", "dense", "rest")
        own = settings_of(config, known)
        source = WeightSource.of(config, folder)
        preprocessing = preprocessing_of(own.pop("preprocessing", None))
        made = cls(own.pop("name"), preprocessing, pretrained=pretrained_of(source), **own)
        if source.folder is not None:
            made.restore(source.folder)
        return made

    @property
    def dim(self) -> int:
        """Width of CLIP's joint space."""
        return int(self.visual.proj.shape[1])

    @property
    def config(self) -> dict[str, Any]:
        """Type, architecture, dense mode and preprocessing."""
        return {
            "type": "open_clip",
            "name": self.name,
            "architecture": copy.deepcopy(self.architecture),
            "quick_gelu": self.quick_gelu,
            "dense": self.dense_mode,
            "rest": self.rest,
            "preprocessing": preprocessing_config(self.preprocessing),
        }

    def _weight(self) -> Tensor:
        weight: Tensor = self.visual.conv1.weight
        return weight

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`; differentiable.

        Tokens after the final norm and the visual projection; as CLS token what open_clip's `encode_image` gives; the
        attentions where the last block is a plain one.
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
            fits = fits and found.attention is not None
        except (AttributeError, RuntimeError, TypeError):
            fits = False
    if not fits:
        raise OptionError(
            f"open_clip {require('open_clip', 'clip').__version__} builds its towers in another way than this "
            "release knows: install the open_clip_torch that constraints.txt names"
        )


@dataclass(frozen=True, eq=False)
class LastBlock:
    """A block with what goes into it, and the queries, keys and values that it makes of that.

    Attributes:
        block: open_clip's plain residual attention block.
        inputs: (B, 1 + patches, width), CLS first.
        query, key, value: (B, heads, 1 + patches, head width), unscaled.
    """

    block: Any
    inputs: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, block: Any, inputs: Tensor) -> LastBlock:
        """Take `block` apart for these inputs; `is_plain(block)` must hold."""
        attention = block.attn
        together = F.linear(block.ln_1(inputs), attention.in_proj_weight, attention.in_proj_bias)
        parts = together.unflatten(2, (3, int(attention.num_heads), -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        return cls(block, inputs, query, key, value)

    def outputs(self) -> Tensor:
        """What the block as it is makes of its inputs, (B, 1 + patches, width)."""
        mixed = _attend(self.query, self.key, self.value)
        return self.finish(_join(mixed), self.inputs, True)

    def cls(self) -> Tensor:
        """The CLS token of `outputs` alone, (B, width)."""
        mixed = _attend(self.query[:, :, :1], self.key, self.value)
        return self.finish(_join(mixed), self.inputs[:, :1], True)[:, 0]

    def patches(self, mode: DenseMode, rest: bool) -> Tensor:
        """Outputs of the patches, (B, patches, width), before the network's final norm.

        Args:
            mode: what replaces the attention, see the module; "plain" leaves it.
            rest: keep the skip connection and the MLP.
        """
        query, key, value = self.query, self.key, self.value
        if mode == "value":
            mixed = value
        elif mode == "self_self":
            # The sum of two softmaxes distributes over the values, and no (tokens, tokens) matrix is kept.
            mixed = _attend(query, query, value) + _attend(key, key, value)
        else:
            mixed = _attend(query, key, value)
        return self.finish(_join(mixed[:, :, 1:]), self.inputs[:, 1:], rest)

    def patch_values(self) -> Tensor:
        """Values of the patches, heads side by side, (B, patches, width), before the output projection."""
        return _join(self.value[:, :, 1:])

    def finish(self, mixed: Tensor, inputs: Tensor, rest: bool) -> Tensor:
        """Output projection of mixed values (B, n, width); with `rest` also the skip of `inputs` and the MLP."""
        block = self.block
        attended: Tensor = block.ls_1(block.attn.out_proj(mixed))
        if not rest:
            return attended
        tokens = inputs + attended
        finished: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return finished


def is_plain(block: Any) -> bool:
    """Whether `LastBlock` may take this block apart: the ordinary pre-norm block with torch's own attention."""
    attention = getattr(block, "attn", None)
    parts = ("ln_1", "ls_1", "ln_2", "ls_2", "mlp")
    return (
        isinstance(attention, nn.MultiheadAttention)
        and attention.in_proj_weight is not None
        and attention.batch_first
        and all(hasattr(block, part) for part in parts)
        and not hasattr(block, "ln_1_kv")
    )


def resize_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + patches, width) of another grid (rows, columns), the CLS token's kept as it is.

    Bicubic with antialiasing, as open_clip and timm resize them when they load weights for another input size.
    """
    if grid == native:
        return positions
    cells = positions[1:].float().unflatten(0, native).permute(2, 0, 1)[None]
    resized = F.interpolate(cells, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T.to(positions.dtype)])


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def _join(heads: Tensor) -> Tensor:
    """(B, heads, n, head width) -> (B, n, width)."""
    return heads.transpose(1, 2).flatten(2)


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
        quick_gelu: overrides the config; None is what the pretrained weights or else the config say.
        pretrained: a tag or file of weights for `name`.
    """
    open_clip = require("open_clip", "clip")
    if architecture is not None:
        if pretrained is not None:
            raise OptionError(
                f"pretrained={pretrained!r} goes with a name of open_clip's, not with an architecture: give one of them"
            )
        settings = copy.deepcopy(dict(architecture))
    else:
        _check_name(open_clip, name)
        settings = open_clip.get_model_config(name)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in settings:
            raise OptionError(
                f"the architecture of {name!r} lacks {key!r}: give open_clip's config"
            )
    tag = (open_clip.get_pretrained_cfg(name, pretrained) or {}) if pretrained else {}
    if quick_gelu is None:
        quick_gelu = bool(tag.get("quick_gelu", settings.get("quick_gelu", False)))
    return {**settings, "quick_gelu": quick_gelu}


def pretrained_of(source: WeightSource) -> str | None:
    """The tag or file of open_clip's weights that a config names."""
    if source.fetched and source.tag is None:
        raise OptionError("open_clip's weights go by a tag: weights: pretrained:openai")
    return str(source.file) if source.file is not None else source.tag


def fetch_model(name: str, pretrained: str, *, quick_gelu: bool) -> Any:
    """A whole open_clip model with its weights, by tag (downloaded once, then cached) or from a file.

    Raises:
        UnknownNameError: neither a tag of this model nor a file.
        HubError: a tag's weights cannot be fetched.
        CheckpointError: a file does not hold weights of this model. Nothing is unpickled.
    """
    open_clip = require("open_clip", "clip")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        _check_file(name, Path(pretrained), tags)
    try:
        return open_clip.create_model(
            name, pretrained, force_quick_gelu=quick_gelu, quick_gelu=quick_gelu
        )
    except Exception as error:  # of several libraries, which share no class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if pretrained in tags:
            raise HubError(
                f"the weights {pretrained!r} of {name} cannot be fetched: {reason}. Connect once, or name a file"
            ) from error
        raise CheckpointError(
            f"{pretrained} does not hold weights of open_clip's {name}: {reason}. Fetch it again, or name its model"
        ) from error


def _check_name(open_clip: Any, name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3) or ["ViT-B-16", "ViT-B-32"]
        raise UnknownNameError(f"open_clip has no model {name!r}: did you mean {', '.join(close)}?")


def _check_file(name: str, path: Path, tags: Iterable[str]) -> None:
    """Refuse what is no file, and a pickle of more than tensors, which open_clip might fall back to executing."""
    if not path.is_file():
        raise UnknownNameError.among(f"file or tag of weights of {name}", str(path), tags)
    if path.suffix != ".safetensors":
        read_object(path)


BACKBONES.register("open_clip")(OpenClipViT)
