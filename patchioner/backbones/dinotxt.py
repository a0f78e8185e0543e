"""DINO.txt's vision side (arXiv 2412.16334): a frozen DINOv2 or DINOv3, and a head that aligns tokens with texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from patchioner.backbones import Dense
from patchioner.backbones.vit import TimmNetwork, cls_attention, cls_query_keys, fit_vit, is_plain_block
from patchioner.base.errors import OptionError
from patchioner.base.files import check
from patchioner.base.weights import fit_weights
from patchioner.checkpoints import PRETRAINED, WeightSource, existing_path, part_of, read_tensors
from patchioner.geometry import Preprocessing

Space = Literal["patch", "both"]
_HEAD_PREFIXES = ("visual_model.head.", "head.", "")
_BACKBONE_PREFIXES = ("visual_model.backbone.", "backbone.", "")


class DinoTxtHead(nn.Module):
    """Transformer blocks (2 as published) and a LayerNorm over [CLS, registers, patches]; published names."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.ln_final = nn.LayerNorm(width, eps=1e-5)
        made = (Block(width, heads, qkv_bias=True, init_values=1e-5, norm_layer=nn.LayerNorm) for _ in range(blocks))
        self.blocks = nn.ModuleList(made)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) -> what goes into the last block, and the aligned tokens, both (B, N, width)."""
        before_last = tokens
        for block in self.blocks:
            before_last, tokens = tokens, block(tokens)
        return before_last, self.ln_final(tokens)


class DinoTxtViT(TimmNetwork):
    """DINO.txt's vision tower, dense.

    Features with ``space="patch"`` live in the second half of the text's columns; their ``cls`` is the mean of the
    patch tokens, which training aligned with that half. With ``space="both"`` each token is [CLS | patch], in the whole
    space, and ``cls`` [CLS | mean of the patches], the image embedding of the paper. ``attention`` is the CLS token's
    in the head's last block. Inferred, and not checked against the weights: that registers pass through the head, that
    its blocks are not rotary for DINOv3 either, and the prefixes of DINOv2's separate file of the head.

    Args:
        name, preprocessing, pretrained, overrides: see `TimmNetwork`; ``vit_large_patch14_reg4_dinov2`` or
            ``vit_large_patch16_dinov3`` with ImageNet's statistics. The head's weights are read by `read_published`.
        blocks, registers: of the head: how many it has, and whether the registers pass through it too.
    """

    kind, own_keys = "dinotxt", ("blocks", "registers", "space", "overrides")

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        blocks: int = 2,
        registers: bool = True,
        space: Space = "patch",
        pretrained: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        check(get_args(Space), space=space)
        check("int [1, inf)", blocks=blocks)
        super().__init__(name, preprocessing, pretrained=pretrained, overrides=overrides)
        self.registers, self.space = registers, space
        self.dim = int(self.vit.embed_dim) * (2 if space == "both" else 1)
        self.own |= {"blocks": blocks, "registers": registers, "space": space}
        if not self.has_cls:
            raise OptionError(f"{name} has no CLS token, which the head of dino.txt needs")
        heads = int(self.vit.blocks[0].attn.num_heads)
        self.head = DinoTxtHead(int(self.vit.embed_dim), heads, blocks)
        self._has_attention = is_plain_block(self.head.blocks[-1])
        self.eval()

    @classmethod
    def pretrained_of(cls, source: WeightSource) -> bool:
        """Published weights are two files, {vision: pretrained or PATH, head: PATH}."""
        parts = dict(source.parts or {})
        if source.fetched or source.file is not None or parts.keys() - {"vision", "head"}:
            given = parts or source.file or PRETRAINED
            raise OptionError(f"give two files, {{vision: PATH, head: PATH}}, not {given}")
        return parts.get("vision") == PRETRAINED

    def read_files(self, source: WeightSource, folder: Path) -> None:
        """See `SingleViT.read_files`."""
        parts, vision = dict(source.parts or {}), None
        head = existing_path(parts.get("head"), folder, "head of dino.txt")
        if parts.get("vision") != PRETRAINED:
            vision = read_tensors(existing_path(parts.get("vision"), folder, "vision backbone of dino.txt"))
        self.read_published(vision, read_tensors(head), source=str(head))

    def read_published(self, vision: Mapping[str, Tensor] | None, head: Mapping[str, Tensor], *, source: str) -> None:
        """Load the weights as published, in place, strictly: CheckpointError where a tensor does not fit.

        `vision` (None: as it is) in DINOv2's or DINOv3's layout; `head` of DINOv2's file of it, or DINOv3's with texts.
        """
        fit_weights(self.head, part_of(head, _HEAD_PREFIXES), source=source)
        if vision is not None:
            fit_vit(self.vit, part_of(vision, _BACKBONE_PREFIXES), source=source)

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        tokens = self.vit.forward_features(pixels)
        prefix = int(self.vit.num_prefix_tokens)
        if not self.registers:
            tokens, prefix = torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1), 1
        before_last, aligned = self.head(tokens)
        patches, cls = aligned[:, prefix:].float(), aligned[:, 0].float()
        attention = None
        if self._has_attention:
            parts = cls_query_keys(self.head.blocks[-1], before_last, prefix)
            attention = cls_attention(*parts).unflatten(2, grid)
        whole = patches.mean(dim=1)
        if self.space == "both":
            patches = torch.cat([cls[:, None].expand_as(patches), patches], dim=2)
            whole = torch.cat([cls, whole], dim=1)
        return Dense(patches.unflatten(1, grid), whole, attention)
