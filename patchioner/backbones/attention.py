"""What the CLS token of a block attends to: the right way, and the published way.

Knows: the queries and keys of a plain pre-norm transformer block. Does not know: whole networks, photos, regions.
No hook is ever registered: attention is computed from the block's input with the block's own weights.
"""

from __future__ import annotations

from typing import Any

# Older timm releases define `Attention` here, newer ones import it here: the one place that serves both.
from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]
from torch import Tensor, nn

_PUBLISHED_SCALE = 0.125
_SMALL_WIDTH, _SMALL_HEADS, _OTHER_HEADS = 384, 6, 16


def cls_query_keys(block: Any, inputs: Tensor, prefix: int) -> tuple[Tensor, Tensor] | None:
    """CLS query and patch keys of a block.

    Args:
        block: a block of a timm ViT. Only the plain pre-norm block is taken apart: others rotate queries and keys, add
            biases, or norm elsewhere.
        inputs: (B, prefix + patches, width), what goes into the block.
        prefix: number of tokens before the patches; the first is the CLS token.

    Returns:
        query (B, heads, 1, head width) and keys (B, heads, patches, head width), unscaled; None for other blocks.
    """
    attention = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention:
        return None
    normed = block.norm1(inputs)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    parts = []
    for index, tokens in enumerate((normed[:, :1], normed[:, prefix:])):
        rows = slice(index * width, (index + 1) * width)
        part = nn.functional.linear(tokens, weight[rows], None if bias is None else bias[rows])
        parts.append(part.unflatten(2, (int(attention.num_heads), -1)).transpose(1, 2))
    return attention.q_norm(parts[0]), attention.k_norm(parts[1])


def cls_attention(query: Tensor, keys: Tensor) -> Tensor:
    """Softmax attention of the CLS token over the patches alone, (B, heads, patches) float32."""
    scale = query.shape[-1] ** -0.5
    # In float32 also for half-precision weights: shares of 1,369 patches would not sum to 1.
    maps: Tensor = ((query * scale) @ keys.transpose(2, 3)).float().softmax(dim=-1)
    return maps[:, :, 0]


def published_attention(query: Tensor, keys: Tensor) -> Tensor:
    """The CLS attention as published, (B, patches) float32: the mean of the heads' logits, then one softmax.

    The published code takes 16 heads for every width but 384, though ViT-B has 12, and a scale of 1 / 8. The mean over
    heads of per-head products is the product over the full width divided by the number of heads, so the assumption
    changes the temperature only. `cls_attention` is the right map; this one serves `rounding="reference"`.
    """
    full_query, full_keys = (t.transpose(1, 2).flatten(2) for t in (query, keys))
    heads = _SMALL_HEADS if full_query.shape[-1] == _SMALL_WIDTH else _OTHER_HEADS
    logits = (full_query @ full_keys.transpose(1, 2))[:, 0] * (_PUBLISHED_SCALE / heads)
    return logits.float().softmax(dim=-1)
