"""Options of the authors' interface, with their arithmetic: registers, single heads, the averaged attention, cleaning.

Each gives vectors or features for `Patchioner`: a model whose settings say `projection="memory"` sends vectors through
the memory, one with "raw" takes what is there already. The double pass of their interface is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError

Cleaning = Literal["orthogonal_projection", "contrastive_mask"]
Context = Literal["cls", "attention"]
_SMALL = 1e-6


def register_embeddings(features: PatchFeatures) -> Tensor:
    """The register tokens, (count, dim): what `get_register_capts` captions; OptionError without registers."""
    if features.registers is None:
        raise OptionError("the backbone has no registers: use one with 'reg' in its name")
    return features.registers


def attention_embedding(features: PatchFeatures) -> Tensor:
    """`avg_self_attn_token`, (dim,): the mean over patches, not the sum, of attention times token."""
    if features.reference_attention is None:
        raise OptionError("the backbone has no attention of its CLS token: use another one")
    weighted = features.reference_attention.flatten()[:, None] * features.tokens.flatten(0, 1)
    return weighted.mean(dim=0)


def head_embeddings(features: PatchFeatures) -> Tensor:
    """`attn_heads_capts`: for each published head the mean over patches of its map times token, (slices, dim)."""
    if features.reference_heads is None:
        raise OptionError("the backbone has no attention of single heads: use another one")
    tokens = features.tokens.flatten(0, 1)
    return features.reference_heads.flatten(1) @ tokens / len(tokens)


def clean_features(
    features: PatchFeatures,
    project: Callable[[Tensor], Tensor],
    kind: Cleaning,
    *,
    context: Context = "cls",
    alpha: float = 1.0,
    after_projection: bool = True,
) -> PatchFeatures:
    """Take the photo's context out of every patch token, as `cleaning_type` does.

    Boxes and patches of the result are captioned without another projection: by a model whose projection is "raw".

    Args:
        features: left as they are.
        project: (n, dim) -> (n, dim), the memory projection, e.g. ``model.parts.bank.project``.
        kind: "orthogonal_projection": t - alpha (t . c / c . c) c; "contrastive_mask": t (1 - c / (|c| + 1e-6)).
        context: c, the CLS token or `attention_embedding`.
        alpha: share that the orthogonal projection takes away.
        after_projection: project tokens and context and clean then; else scale both to unit length, clean, and
            project what comes out.

    Raises:
        OptionError: an unknown kind or context, or one that the backbone does not have.
    """
    if kind not in ("orthogonal_projection", "contrastive_mask") or context not in (
        "cls",
        "attention",
    ):
        raise OptionError(f"cleaning {kind!r} by {context!r} is unknown")
    found = features.cls if context == "cls" else attention_embedding(features)
    if found is None:
        raise OptionError("the backbone has no CLS token: clean by attention")
    step = project if after_projection else F.normalize
    tokens, own = step(features.tokens.flatten(0, 1)), step(found[None])
    if kind == "orthogonal_projection":
        share = (tokens @ own.T) / own.square().sum()
        cleaned = tokens - alpha * share * own
    else:
        cleaned = tokens * (1 - own / (own.norm() + _SMALL))
    if not after_projection:
        cleaned = project(cleaned)
    return replace(features, tokens=cleaned.view_as(features.tokens))
