"""The last block of a CLIP vision transformer, taken apart, so that patch tokens say what is where they are.

Knows: one plain pre-norm transformer block and its input. Does not know: whole networks, photos, text, files.

CLIP is trained on its CLS token alone: the last block gathers into every token what the whole photo shows, and patches
lose their place. Three ways out, none of which needs training, differ in what replaces the last attention:

* "value": nothing; each patch keeps its own value, sent through the output projection (MaskCLIP, arXiv 2112.01071);
* "self_self": softmax(q q^T) + softmax(k k^T), each scaled as usual, applied to the values (SCLIP, arXiv 2312.01597);
* affinities of another backbone (ProxyCLIP, see `patchioner.backbones.proxy_clip`).

No hook is registered and nothing is written into the block: threads may share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DenseMode = Literal["plain", "value", "self_self"]

# Whether skip connection and MLP of the last block are kept, as published for each mode: MaskCLIP's patches are the
# value path alone; SCLIP swaps the attention and leaves the rest of the block.
KEEPS_REST: dict[DenseMode, bool] = {"plain": True, "value": False, "self_self": True}


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
