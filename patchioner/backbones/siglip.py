"""SigLIP and SigLIP 2: patch tokens in the space of their text tower.

Knows: timm's SigLIP networks and their attention pool. Does not know: regions, text.

SigLIP (arXiv 2303.15343; SigLIP 2: arXiv 2502.14786) has no CLS token. A learned query attends to the patches, and
the result goes through a projection and a residual MLP into the space of the text. A patch token here is what that
pool would give if all of its attention were on the one patch: value, projection, MLP. That is MaskCLIP's treatment
of CLIP's attention pool (arXiv 2112.01071, section 3.2) carried over to a pool with an MLP. The MLP is not linear, so
the mean of such tokens is not the pool with uniform attention (TextRegion, arXiv 2505.23769, pools values first).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import AttentionPoolLatent  # type: ignore[attr-defined]
from torch import Tensor, nn

from patchioner.backbones.base import BACKBONES, SingleViT
from patchioner.backbones.features import Dense
from patchioner.backbones.timm_vit import check_patches, create_vit, preprocessing_config
from patchioner.base.errors import OptionError
from patchioner.checkpoints.stored import settings_of
from patchioner.geometry import Preprocessing


class SiglipViT(SingleViT):
    """A SigLIP vision tower, dense: every patch through the attention pool's value path.

    ``cls`` of its features is the pooled vector, SigLIP's own image embedding; ``attention`` is the pool's.

    Args:
        name: a timm architecture with an attention pool, e.g. ``vit_base_patch16_siglip_512``.
        preprocessing: SigLIP stretches to a square and maps pixels to -1..1 (mean and std 0.5).
        pretrained: fetch timm's weights (name them with their tag, ``.v2_webli`` for SigLIP 2).
        overrides: arguments of the architecture in timm.

    Raises:
        OptionError: the architecture has no attention pool of SigLIP's kind; and as `TimmViT`.

    Example:
        >>> settings = Preprocessing("stretch", 64, 16, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> backbone = SiglipViT("vit_base_patch16_siglip_512", settings, overrides={"depth": 2})
        >>> tuple(backbone.encode([Image.new("RGB", (320, 240))])[0].tokens.shape)
        (4, 4, 768)
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        pretrained: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.overrides = dict(overrides or {})
        self.vit: Any = create_vit(name, pretrained=pretrained, overrides=self.overrides)
        check_patches(self.vit, name, preprocessing)
        pool = getattr(self.vit, "attn_pool", None)
        if not isinstance(pool, AttentionPoolLatent) or pool.latent_len != 1:
            raise OptionError(
                f"{name} has no attention pool, so its patches have no way into the space of the text: "
                "use a SigLIP architecture without 'gap' in its name"
            )
        if self.vit.num_prefix_tokens or pool.pos_embed is not None:
            raise OptionError(f"{name} is not built as SigLIP is: use the backbone type 'timm'")
        self.eval()

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return int(self.vit.attn_pool.out_features)

    @property
    def config(self) -> dict[str, Any]:
        """Type, architecture, preprocessing and, where there are, overrides."""
        return {
            "type": "siglip",
            "name": self.name,
            "preprocessing": preprocessing_config(self.preprocessing),
            **({"overrides": dict(self.overrides)} if self.overrides else {}),
        }

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        tokens = self.vit.forward_features(pixels)
        pool = self.vit.attn_pool
        return Dense(
            patches_through_pool(pool, tokens).unflatten(1, grid),
            pool(tokens),
            pool_attention(pool, tokens).unflatten(2, grid),
            None,
        )


def patches_through_pool(pool: Any, tokens: Tensor) -> Tensor:
    """Each token as the pool would give it with all attention there: (B, N, width) -> (B, N, out width)."""
    width = pool.kv.weight.shape[0] // 2
    bias = None if pool.kv.bias is None else pool.kv.bias[width:]
    projected = pool.proj(nn.functional.linear(tokens, pool.kv.weight[width:], bias))
    if pool.mlp is None:
        return projected  # type: ignore[no-any-return]
    return projected + pool.mlp(pool.norm(projected))  # type: ignore[no-any-return]


def pool_attention(pool: Any, tokens: Tensor) -> Tensor:
    """Softmax attention of the pool's learned query over N tokens (B, N, width) -> (B, heads, N) float32."""
    width = pool.kv.weight.shape[0] // 2
    bias = None if pool.kv.bias is None else pool.kv.bias[:width]
    keys = nn.functional.linear(tokens, pool.kv.weight[:width], bias)
    query, keys = (t.unflatten(2, (pool.num_heads, -1)) for t in (pool.q(pool.latent), keys))
    query, keys = pool.q_norm(query), pool.k_norm(keys)
    logits = torch.einsum("qhd,bnhd->bhn", query[0] * pool.scale, keys)
    return logits.float().softmax(dim=-1)


@BACKBONES.register("siglip")
def _load(folder: Path, config: dict[str, Any]) -> SiglipViT:
    with settings_of(folder):
        preprocessing = Preprocessing.from_config(config["preprocessing"])
        backbone = SiglipViT(config["name"], preprocessing, overrides=config.get("overrides"))
    backbone.restore(folder)
    return backbone
