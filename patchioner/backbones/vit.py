"""Vision transformers of timm as dense backbones: DINOv2, DINOv3, CLIP and their kin (`TimmViT`), and SigLIP.

No hook is registered, so that threads may share a model. What leans on timm's inside is tried when a network is made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import AttentionPoolLatent, resample_abs_pos_embed  # type: ignore[attr-defined]

# Older timm releases define `Attention` here, newer ones import it here: the one place that serves both.
from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]
from torch import Tensor, nn

from patchioner.backbones import Dense, SingleViT
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError, first_line
from patchioner.base.files import check
from patchioner.base.weights import fit_weights
from patchioner.checkpoints import WeightSource, part_of, read_tensors
from patchioner.geometry import MOST_SIZE, Preprocessing

# Arguments of an architecture that may be given; timm drops those that it does not know in silence.
OVERRIDES: tuple[str, ...] = ("class_token", "depth", "embed_dim", "init_values", "mlp_ratio")
OVERRIDES += ("num_heads", "pre_norm", "qk_norm", "qkv_bias", "reg_tokens")
_NEEDED = ("blocks", "embed_dim", "forward_intermediates", "num_prefix_tokens", "patch_embed")
_PUBLISHED_SCALE, _SMALL_WIDTH, _SMALL_HEADS, _OTHER_HEADS = 0.125, 384, 6, 16
_log = logging.getLogger(__name__)


class TimmNetwork(SingleViT):
    """What the backbones around one network of timm's have in common.

    Args:
        name: a timm architecture, e.g. ``vit_small_patch14_dinov2``, with the tag of weights to fetch after a dot.
        preprocessing: input size, fit and normalisation; sizes other than the native one interpolate the position
            embedding, and grids need not be square.
        pretrained: fetch timm's weights from the hub.
        overrides, classes: of the architecture (`OVERRIDES`, e.g. ``{"depth": 2}``); width of timm's classifier, or 0.

    Raises:
        UnknownNameError, OptionError: no such architecture, no ViT, no such override, another patch size.
    """

    own_keys: tuple[str, ...] = ("overrides",)

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        pretrained: bool = False,
        overrides: Mapping[str, Any] | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.preprocessing = name, preprocessing
        self.own: dict[str, Any] = {"overrides": dict(overrides)} if overrides else {}
        self.vit: Any = create_vit(name, overrides, pretrained=pretrained, classes=classes)
        self.has_cls = getattr(self.vit, "cls_token", None) is not None
        # Not `patch_size`: behind a convolutional stem, that counts cells of the stem's output.
        self.check_patches(self.vit.patch_embed.feat_ratio(as_scalar=False))

    def read_files(self, source: WeightSource, folder: Path) -> None:
        """See `SingleViT.read_files`: one file."""
        if source.file is None:
            return super().read_files(source, folder)
        where = str(source.file)
        self.read_classifier(fit_vit(self.vit, read_tensors(source.file), source=where), where)

    def read_classifier(self, classifier: Mapping[str, Tensor], source: str) -> None:
        """Take what `fit_vit` leaves over: nothing here."""


class TimmViT(TimmNetwork):
    """A timm ViT with a visual head: patch tokens after the final norm, CLS token, attention of the CLS token.

    Registers and distillation tokens are left out of the patch tokens. Rotary blocks (DINOv3, EVA-02) give no
    attention, since they rotate queries and keys inside; nor does a network of one block.

    Args:
        name, preprocessing, pretrained, overrides: see `TimmNetwork`.
        head: config of the visual head (`build_head`). A linear one gets timm's classifier from fetched weights, which
            for CLIP is the visual projection.
    """

    kind, own_keys = "timm", ("head", "overrides")
    kept_in_float32 = ("head",)  # since standardising cancels leading digits

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        head: Mapping[str, Any] | None = None,
        pretrained: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        config = dict(head or {"type": "none"})
        linear = int(config["dim"]) if config.get("type") == "linear" else 0
        classes = linear if pretrained else 0
        super().__init__(name, preprocessing, pretrained=pretrained, overrides=overrides, classes=classes)
        self.own["head"], self._linear = config, linear
        self.dim = linear or int(self.vit.embed_dim)
        self.head = build_head(config, int(self.vit.embed_dim))
        if linear and pretrained:
            self.read_classifier(self.vit.head.state_dict(), name)
            self.vit.reset_classifier(0)
        blocks = self.vit.blocks  # the input of the only one is nothing that timm gives
        self._has_attention = len(blocks) > 1 and self.has_cls and is_plain_block(blocks[-1])
        self.eval()

    def read_classifier(self, classifier: Mapping[str, Tensor], source: str) -> None:
        """Give a linear head the weights of timm's classifier, whose bias may be absent (CLIP has none)."""
        if not self._linear:
            return
        if (weight := classifier.get("weight")) is None:
            raise CheckpointError(f"{source} has no visual projection for the linear head")
        bias = classifier.get("bias", weight.new_zeros(len(weight)))
        fit_weights(self.head, {"linear.weight": weight, "linear.bias": bias}, source=source)

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        found = self.dense(pixels, grid)
        tokens, cls = self.head(found.tokens.float(), None if found.cls is None else found.cls.float())
        registers = None if found.registers is None else self.head(found.registers.float(), None)[0]
        return found._replace(tokens=tokens, cls=cls, registers=registers)

    def dense(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """Differentiable forward pass without the head, of (B, 3, H, W) normalised pixels on a grid (rows, columns)."""
        last, prefix = len(self.vit.blocks) - 1, int(self.vit.num_prefix_tokens)
        how = {"norm": False, "output_fmt": "NLC", "return_prefix_tokens": True}
        final, inner = self.vit.forward_intermediates(pixels, indices=[max(last - 1, 0)], **how)
        cls = final[:, 0] if self.has_cls else None
        # DeiT's distillation token is no register.
        has_registers = self.has_cls and getattr(self.vit, "reg_token", None) is not None
        registers = final[:, 1:prefix] if has_registers else None
        found = Dense(final[:, prefix:].unflatten(1, grid), cls, None, None, registers)
        if not self._has_attention:
            return found
        before_last = torch.cat([inner[0][1], inner[0][0]], dim=1)
        parts = cls_query_keys(self.vit.blocks[last], before_last, prefix)
        maps, published, heads = (
            None if one is None else one.unflatten(-1, grid)
            for one in (cls_attention(*parts), published_attention(*parts), published_heads(*parts))
        )
        return found._replace(attention=maps, reference_attention=published, reference_heads=heads)


class SiglipViT(TimmNetwork):
    """A SigLIP vision tower (arXiv 2303.15343; SigLIP 2: arXiv 2502.14786), dense; OptionError without SigLIP's pool.

    In place of a CLS token a learned query attends to the patches, and the result goes through a projection and a
    residual MLP. A patch token here is what that pool would give if all of its attention were on the one patch, as
    MaskCLIP has it (arXiv 2112.01071, section 3.2). ``cls`` is the pooled vector, ``attention`` the pool's.

    Arguments as for `TimmNetwork`, e.g. ``vit_base_patch16_siglip_512`` (SigLIP 2's weights: ``.v2_webli``). SigLIP
    stretches to a square and maps pixels to -1..1 (mean and std 0.5).
    """

    kind = "siglip"

    def __init__(self, name: str, preprocessing: Preprocessing, **settings: Any) -> None:
        super().__init__(name, preprocessing, **settings)
        pool = getattr(self.vit, "attn_pool", None)
        if not isinstance(pool, AttentionPoolLatent) or pool.latent_len != 1:
            raise OptionError(f"{name} has no attention pool: use a SigLIP without 'gap'")
        if self.vit.num_prefix_tokens or pool.pos_embed is not None:
            raise OptionError(f"{name} is not built as SigLIP is: use the backbone type 'timm'")
        self.dim = int(pool.out_features)
        self.eval()
        _try_pool(pool)

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        tokens, pool = self.vit.forward_features(pixels), self.vit.attn_pool
        attention = pool_attention(pool, tokens).unflatten(2, grid)
        return Dense(patches_through_pool(pool, tokens).unflatten(1, grid), pool(tokens), attention)


def patches_through_pool(pool: Any, tokens: Tensor) -> Tensor:
    """Each token as the pool would give it with all attention there: (B, N, width) -> (B, N, out width)."""
    projected = pool.proj(_part_of_linear(pool.kv, tokens, 1))
    through: Tensor = projected if pool.mlp is None else projected + pool.mlp(pool.norm(projected))
    return through


def pool_attention(pool: Any, tokens: Tensor) -> Tensor:
    """Softmax attention of the pool's learned query over N tokens (B, N, width) -> (B, heads, N) float32."""
    keys = _part_of_linear(pool.kv, tokens, 0)
    query, keys = (t.unflatten(2, (pool.num_heads, -1)) for t in (pool.q(pool.latent), keys))
    query, keys = pool.q_norm(query), pool.k_norm(keys)
    logits = torch.einsum("qhd,bnhd->bhn", query[0] * pool.scale, keys)
    return logits.float().softmax(dim=-1)


def _part_of_linear(layer: Any, inputs: Tensor, index: int, parts: int = 2) -> Tensor:
    """One of the `parts` equal parts of a linear layer's outputs."""
    rows = slice(len(layer.weight) // parts * index, len(layer.weight) // parts * (index + 1))
    bias = None if layer.bias is None else layer.bias[rows]
    return nn.functional.linear(inputs, layer.weight[rows], bias)


@torch.no_grad()
def _try_pool(pool: Any) -> None:
    """On one token all of the pool's attention lies there: a self-test of how the pool is taken apart."""
    token = torch.linspace(-1, 1, pool.kv.in_features, device=pool.kv.weight.device)[None, None]
    found = patches_through_pool(pool, token)[:, 0]
    if not token.is_meta and not torch.allclose(found, pool(token), rtol=1e-3, atol=1e-3):
        raise OptionError(f"timm {timm.__version__} has an unknown pool: see constraints.txt")


def resample_positions(native: Tensor, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings (prefix + cells, width) of a grid `shape` for another: (1, prefix + new cells, width).

    Bicubic with antialiasing, as timm and open_clip do it; what stands before the patches is kept.

    Example:
        >>> resample_positions(torch.zeros(1 + 16, 8), (4, 4), (2, 6)).shape
        torch.Size([1, 13, 8])
    """
    prefix = len(native) - shape[0] * shape[1]
    resampled: Tensor = resample_abs_pos_embed(native[None], list(grid), list(shape), prefix)
    return resampled.contiguous()


def cls_query_keys(block: Any, inputs: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """CLS query (B, heads, 1, head width) and patch keys (B, heads, patches, head width), unscaled, of a plain block.

    `inputs` (B, prefix + patches, width) go into the block; the first of the prefix is the CLS token.
    """
    attention, normed = block.attn, block.norm1(inputs)
    query = _part_of_linear(attention.qkv, normed[:, :1], 0, 3)
    keys = _part_of_linear(attention.qkv, normed[:, prefix:], 1, 3)
    shape = int(attention.num_heads), -1
    query, keys = (tokens.unflatten(2, shape).transpose(1, 2) for tokens in (query, keys))
    return attention.q_norm(query), attention.k_norm(keys)


@torch.no_grad()
def is_plain_block(block: Any) -> bool:
    """Whether `cls_query_keys` may take a block apart: timm's plain pre-norm block, and what it gives is tried.

    Where this release of timm computes it in another way, that is logged, and the backbone has no attention.
    """
    attention = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention:
        return False
    weight = attention.qkv.weight
    if weight.is_meta:
        return True
    ramp = torch.linspace(-1, 1, 3 * weight.shape[1], dtype=weight.dtype, device=weight.device)
    tokens = ramp.sin().view(1, 3, -1)
    try:
        maps = cls_attention(*cls_query_keys(block, tokens, 0))  # of the first token over all three
        normed, heads = block.norm1(tokens), maps.shape[1]
        values = _part_of_linear(attention.qkv, normed, 2, 3).unflatten(2, (heads, -1))
        mixed = torch.einsum("bhn,bnhd->bhd", maps.to(values), values).flatten(1)
        found = attention.proj(getattr(attention, "norm", nn.Identity())(mixed))
        expected = attention(normed)[:, 0]
        room = 1e-4 * float(expected.abs().max()) + 1e-6
        fits = torch.allclose(found, expected, rtol=1e-3, atol=room)
    except (AttributeError, RuntimeError, TypeError):
        fits = False
    if not fits:
        _log.warning("timm %s computes attention in another way: there is none, see constraints.txt", timm.__version__)
    return fits


def cls_attention(query: Tensor, keys: Tensor) -> Tensor:
    """Softmax attention of the CLS token over the patches alone, (B, heads, patches) float32."""
    scale = query.shape[-1] ** -0.5
    # In float32 also for half-precision weights: shares of 1,369 patches would not sum to 1.
    maps: Tensor = ((query * scale) @ keys.transpose(2, 3)).float().softmax(dim=-1)
    return maps[:, :, 0]


def published_attention(query: Tensor, keys: Tensor) -> Tensor:
    """The CLS attention as published, (B, patches) float32: the mean of the heads' logits, then one softmax.

    The published code takes 16 heads for every width but 384, though ViT-B has 12, and a scale of 1 / 8; the assumption
    changes the temperature only. `cls_attention` is the right map; this one serves `rounding="reference"`.
    """
    query, keys, heads = _full_width(query, keys)
    logits = (query @ keys.transpose(1, 2))[:, 0] * (_PUBLISHED_SCALE / heads)
    return logits.float().softmax(dim=-1)


def published_heads(query: Tensor, keys: Tensor) -> Tensor | None:
    """The CLS attention of single heads as published, (B, slices, patches) float32, or None.

    The published heads are 16 slices of the full width (6 of a width of 384), which in ViT-B lie across its 12 true
    heads; the logits are scaled by 1 / 8, and there is a softmax for each.
    """
    query, keys, heads = _full_width(query, keys)
    if query.shape[-1] % heads:
        return None
    query, keys = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (query, keys))
    logits: Tensor = (query @ keys.transpose(2, 3))[:, :, 0] * _PUBLISHED_SCALE
    return logits.float().softmax(dim=-1)


def _full_width(query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both with their heads side by side, (B, n, width), and how many heads the published code takes them for."""
    query, keys = (t.transpose(1, 2).flatten(2) for t in (query, keys))
    return query, keys, _SMALL_HEADS if query.shape[-1] == _SMALL_WIDTH else _OTHER_HEADS


class IdentityHead(nn.Module):
    """No visual head: tokens are text-aligned as they are (Talk2DINO projects on the text side only)."""

    def forward(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both unchanged."""
        return tokens, cls


class StandardiseHead(nn.Module):
    """Per-dimension standardisation ``(t - mean) * inverse_std``, with statistics of their own for the CLS token.

    The tokens of a self-supervised ViT share a large mean that drowns under a cosine what tells photos apart.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("patch", "cls"):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_inverse_std", torch.ones(dim))

    patch_mean: Tensor
    patch_inverse_std: Tensor
    cls_mean: Tensor
    cls_inverse_std: Tensor

    def forward(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Standardise tokens (..., dim) and, where there is one, cls (..., dim)."""
        patches = (tokens - self.patch_mean) * self.patch_inverse_std
        return patches, None if cls is None else (cls - self.cls_mean) * self.cls_inverse_std


class LinearHead(nn.Module):
    """One affine map (dim_in -> dim_out) for patches and CLS alike (CLIP's visual projection has this form)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Project tokens (..., dim_in) and cls (..., dim_in) to dim_out."""
        return self.linear(tokens), None if cls is None else self.linear(cls)


def build_head(config: Mapping[str, Any], dim: int) -> nn.Module:
    """The head named by ``config["type"]``: "none", "standardise" or "linear" (with "dim" = its output width).

    Every head is affine, so pooling before it and after it give the same, and one head serves patches and regions.
    """
    kind = config.get("type", "none")
    if kind == "linear":
        return LinearHead(dim, int(config["dim"]))
    check(("none", "standardise", "linear"), type=kind)
    return IdentityHead() if kind == "none" else StandardiseHead(dim)


def create_vit(
    name: str, overrides: Mapping[str, Any] | None = None, *, pretrained: bool = False, classes: int = 0
) -> Any:
    """A timm ViT that takes any input size; arguments and errors as `TimmNetwork`, and HubError."""
    if not timm.is_model(name):
        raise UnknownNameError.among("model of timm", name, timm.list_models())
    arguments = dict(overrides or {})
    for key, value in arguments.items():
        check(OVERRIDES, **{f"override of {name}": key})
        if isinstance(value, int | float) and value > MOST_SIZE:
            raise OptionError(f"{key} of {name} is {value}: give at most {MOST_SIZE}")
    try:
        vit = timm.create_model(name, pretrained=pretrained, num_classes=classes, dynamic_img_size=True, **arguments)
    except TypeError as error:
        if any(f"'{key}'" in str(error) for key in arguments):
            raise OptionError(f"{name} cannot be overridden so: {error}") from error
        raise _no_vit(name, str(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise _no_vit(name, str(error)) from error
        raise HubError(f"{name} cannot be fetched ({first_line(error)}): give a file") from error
    if missing := [part for part in _NEEDED if not hasattr(vit, part)]:
        raise _no_vit(name, f"it lacks {', '.join(missing)}")
    return vit


def fit_vit(vit: Any, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Load a ViT's weights in their authors' layout, strictly: CheckpointError where a tensor does not fit.

    Args:
        vit: of `create_vit`, without a classifier; changed in place only if everything fits.
        state: DINOv2's and DINOv3's own layouts, OpenAI's CLIP, open_clip's with a timm trunk, or timm's.
        source: where they come from, for messages.

    Returns:
        What belongs to a classifier ("weight", "bias"), which for CLIP is the visual projection; empty without one.
    """
    given = _without_absent_biases(vit, state, source)
    try:
        # Each family of timm has a converter beside it, which gets a copy, because some take tensors out.
        converted = import_module(type(vit).__module__).checkpoint_filter_fn(given, vit)
    except (LookupError, RuntimeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{source}: no layout of {type(vit).__name__} ({error!r})") from error
    rest = {name: t for name, t in converted.items() if not name.startswith("head.")}
    fit_weights(vit, rest, source=source)
    return part_of(converted, ("head.",))


def _without_absent_biases(vit: Any, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Drop zero query-key-value biases that timm's network has no place for (DINOv3 as distilled)."""
    places = {name for name, _ in vit.named_parameters()}
    kept = {}
    for name, tensor in state.items():
        has_place = bool(places & {name, name.replace("qkv.bias", "q_bias")})
        if has_place or not name.endswith("attn.qkv.bias") or "storage_tokens" not in state:
            kept[name] = tensor
            continue
        # The key's third is masked out in DINOv3, whatever is stored there.
        query, _, value = tensor.chunk(3)
        if bool(query.any()) or bool(value.any()):
            raise CheckpointError(f"{source}: {name} has no place: use the network named '..._qkvb'")
    return kept


def _no_vit(name: str, reason: str) -> OptionError:
    return OptionError(f"{name!r} is not a vision transformer that takes any input size ({reason})")
