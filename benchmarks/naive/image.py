"""What the published system computes of every image: tokens, and attention whether asked for or not.

Knows: a plain vision transformer of timm. Does NOT know regions or text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from patchioner.backbones import preprocess
from patchioner.geometry import ImageGeometry

HEADS, SCALE = 16, 0.125  # assumed for every width but ViT-S's, though ViT-B has 12 heads


@dataclass(frozen=True)
class NaiveFeatures:
    """Of one image.

    Attributes:
        tokens: (rows, columns, dim) float32.
        geometry: from pixels to patches.
        extras: the attention map (patches,), the token (dim,) it averages to, one token a head (16, dim).
    """

    tokens: Tensor
    geometry: ImageGeometry
    extras: tuple[Tensor, Tensor, Tensor]


@torch.inference_mode()
def encode(backbone: Any, image: Image.Image) -> NaiveFeatures:
    """One backbone pass, and the attention extras.

    Args:
        backbone: a `patchioner.backbones.TimmViT` of plain blocks, whose weights and preprocessing are used.
        image: upright RGB.

    Example:
        >>> encode(backbone, photo).tokens.shape  # doctest: +SKIP
        torch.Size([37, 37, 768])
    """
    pixels, geometry = preprocess(image, backbone.preprocessing)
    prefix = int(backbone.vit.num_prefix_tokens)
    caught: list[Tensor] = []
    hook = backbone.vit.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    try:
        tokens = backbone.vit.forward_features(pixels[None])
    finally:
        hook.remove()  # the published hook stays for ever, which costs nothing
    patches, _ = backbone.head(tokens[0, prefix:], tokens[0, 0])
    extras = attention_extras(caught[0], patches, prefix)
    return NaiveFeatures(patches.unflatten(0, geometry.grid), geometry, extras)


def attention_extras(
    projected: Tensor, patches: Tensor, prefix: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What is derived of the last block's queries and keys on every forward.

    Args:
        projected: (1, tokens, 3 * width) queries, keys and values of the last block.
        patches: (patches, dim).
        prefix: tokens before the patches.

    Returns:
        The softmax over patches of the heads' mean logits (patches,); the mean over patches of map x token (dim,);
        the same for each head's own map (16, dim).
    """
    count, width = projected.shape[1], projected.shape[2] // 3
    parts = projected.reshape(1, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
    query, keys = parts[0] * SCALE, parts[1]
    logits = query[:, :, 0:1] @ keys[:, :, prefix:].transpose(-2, -1)  # (1, 16, 1, patches)
    mean_map = logits.mean(dim=1).softmax(dim=-1)[0, 0]
    head_maps = logits[:, :, 0].softmax(dim=-1)  # (1, 16, patches)
    averaged = (mean_map[:, None] * patches).mean(dim=0)
    by_head = (head_maps[..., None] * patches[None, None]).mean(dim=2)[0]
    return mean_map, averaged, by_head
