"""Any timm vision transformer as a dense backbone: patch tokens after the final norm, CLS token, CLS attention.

Knows: timm's public interface. Does not know: regions, text, checkpoints' folders. No hook is ever registered: the
attention of the last block is computed from that block's input with its own weights, so threads may share a model.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from PIL import Image

# Older releases define `Attention` here, newer ones import it here: the one place that serves both.
from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]
from torch import Tensor, nn

from patchioner.backbones.features import PatchFeatures
from patchioner.backbones.heads import build_head
from patchioner.backbones.preprocess import preprocess
from patchioner.geometry import ImageGeometry, Preprocessing
from patchioner_base.errors import OptionError, UnknownNameError

_NEEDED = ("blocks", "embed_dim", "forward_intermediates", "num_prefix_tokens", "patch_embed")


class TimmViT(nn.Module):
    """A timm ViT with a visual head.

    Args:
        name: a timm architecture, e.g. ``vit_small_patch14_dinov2`` (unknown names get the close ones).
        preprocessing: input size, fit and normalisation; sizes other than the native one interpolate the position
            embedding, and grids need not be square.
        head: config of the visual head (`build_head`).
        pretrained: fetch timm's weights from the hub (needs a connection).

    Example:
        >>> backbone = TimmViT("vit_tiny_patch16_224", Preprocessing("stretch", 64, 16))
        >>> features = backbone.encode([Image.new("RGB", (320, 240))])[0]
        >>> tuple(features.tokens.shape)
        (4, 4, 192)
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        head: dict[str, Any] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.head_config: dict[str, Any] = dict(head or {"type": "none"})
        self.vit: Any = _create(name, pretrained)
        # Not `patch_size`: behind a convolutional stem, that counts cells of the stem's output.
        patch = tuple(self.vit.patch_embed.feat_ratio(as_scalar=False))
        if patch != (preprocessing.patch_size, preprocessing.patch_size):
            raise OptionError(
                f"{name} has patches of {patch} pixels, the preprocessing says {preprocessing.patch_size}: "
                f"set its patch_size to {patch[0]} and its size to a multiple of that"
            )
        self.head = build_head(self.head_config, int(self.vit.embed_dim))
        self.eval()

    @property
    def dim(self) -> int:
        """Width of the embedding space, after the head."""
        return int(
            self.head_config["dim"]
            if self.head_config.get("type") == "linear"
            else self.vit.embed_dim
        )

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights."""
        settings = {
            k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.preprocessing).items()
        }
        return {
            "type": "timm",
            "name": self.name,
            "preprocessing": settings,
            "head": dict(self.head_config),
        }

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """One backbone pass per upright RGB image; see `PatchFeatures`. Images do not influence one another."""
        return [self._encode_one(image) for image in images]

    def _encode_one(self, image: Image.Image) -> PatchFeatures:
        pixels, geometry = preprocess(image, self.preprocessing)
        weight = next(self.vit.parameters())
        tokens, cls, attention = self.dense(
            pixels[None].to(weight.device, weight.dtype), geometry.grid
        )
        patches, whole = self.head(tokens[0].float(), None if cls is None else cls[0].float())
        return PatchFeatures(
            patches, whole, None if attention is None else attention[0].float(), geometry
        )

    def dense(
        self, pixels: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Differentiable forward pass without the head.

        Args:
            pixels: (B, 3, H, W) normalised.
            grid: (rows, columns) with rows * columns patch tokens.

        Returns:
            tokens (B, rows, columns, width) after the final norm; cls (B, width) or None;
            attention (B, heads, rows, columns) or None where the blocks have no plain attention.
        """
        last = len(self.vit.blocks) - 1
        final, inner = self.vit.forward_intermediates(
            pixels, indices=[last - 1], norm=False, output_fmt="NLC", return_prefix_tokens=True
        )
        prefix = int(self.vit.num_prefix_tokens)
        patches = final[:, prefix:].unflatten(1, grid)
        cls = final[:, 0] if getattr(self.vit, "cls_token", None) is not None else None
        before_last = torch.cat([inner[0][1], inner[0][0]], dim=1) if prefix else inner[0][0]
        if cls is None:
            return patches, None, None
        attention = _cls_attention(self.vit.blocks[last], before_last, prefix)
        return patches, cls, None if attention is None else attention.unflatten(2, grid)

    def geometry(self, image_size: tuple[int, int]) -> ImageGeometry:
        """The pixel-to-patch map for a photo of (width, height)."""
        return self.preprocessing.geometry(image_size)


def _create(name: str, pretrained: bool) -> Any:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or [
            "vit_small_patch14_dinov2"
        ]
        raise UnknownNameError(f"timm has no model {name!r}: did you mean {', '.join(close)}?")
    try:
        vit = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except (TypeError, RuntimeError) as error:
        raise _no_vit(name, str(error)) from error
    if missing := [part for part in _NEEDED if not hasattr(vit, part)]:
        raise _no_vit(name, f"it lacks {', '.join(missing)}")
    return vit


def _no_vit(name: str, reason: str) -> OptionError:
    return OptionError(f"{name!r} is not a vision transformer that takes any input size ({reason})")


def _cls_attention(block: Any, inputs: Tensor, prefix: int) -> Tensor | None:
    """Softmax attention of the CLS query over the patch keys of one block, (B, heads, patches); None if not plain.

    Only timm's plain pre-norm block is taken apart: others rotate queries and keys, add biases, or norm elsewhere.
    """
    attention = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention:
        return None
    normed = block.norm1(inputs)
    heads = int(attention.num_heads)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    query = nn.functional.linear(
        normed[:, :1], weight[:width], None if bias is None else bias[:width]
    )
    keys = nn.functional.linear(
        normed[:, prefix:],
        weight[width : 2 * width],
        None if bias is None else bias[width : 2 * width],
    )
    query, keys = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (query, keys))
    query, keys = attention.q_norm(query), attention.k_norm(keys)
    maps: Tensor = ((query * attention.scale) @ keys.transpose(2, 3)).softmax(dim=-1)
    return maps[:, :, 0]
