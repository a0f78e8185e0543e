"""Visual heads: the last step from a backbone's own tokens to text-aligned tokens.

Knows: token tensors. Does not know: photos, networks, text. Every head is affine, so pooling before the head and
after it give the same embedding, and one head serves patches and regions alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError


class IdentityHead(nn.Module):
    """No visual head: tokens are text-aligned as they are (Talk2DINO projects on the text side only)."""

    def forward(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return tokens (..., dim) and cls (..., dim) unchanged."""
        return tokens, cls


class StandardiseHead(nn.Module):
    """Per-dimension standardisation ``(t - mean) * inverse_std``, with statistics of their own for the CLS token.

    The tokens of a self-supervised ViT share a large common mean that drowns what tells photos apart under a cosine;
    removing it is worth more than any other single step for a small backbone.
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


def build_head(config: dict[str, Any], dim: int) -> nn.Module:
    """The head named by ``config["type"]``: "none", "standardise" or "linear" (with "dim" = its output width)."""
    kind = config.get("type", "none")
    if kind == "none":
        return IdentityHead()
    if kind == "standardise":
        return StandardiseHead(dim)
    if kind == "linear":
        return LinearHead(dim, int(config["dim"]))
    raise CheckpointError(f"visual head {kind!r} is unknown: use 'none', 'standardise' or 'linear'")
