"""Options of the authors' interface against twins written from the facts (sections 1.4 and 1.5), number by number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memory_bank import MemoryBank
from patchioner.backbones import PatchFeatures, TimmViT, preprocess
from patchioner.backbones.vit import published_heads
from patchioner.base.errors import OptionError
from patchioner.checkpoints.published.interface import (
    attention_embedding,
    clean_features,
    head_embeddings,
    register_embeddings,
)
from patchioner.geometry import Preprocessing
from tests.support.tiny import noise_photo

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def backbone(name: str = "vit_small_patch14_reg4_dinov2") -> TimmViT:
    torch.manual_seed(0)
    model = TimmViT(name, Preprocessing("stretch", 56, 14), overrides=SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def features() -> PatchFeatures:
    return backbone().encode([noise_photo()])[0]


def project(rows: Tensor) -> Tensor:
    memory = torch.randn(30, 48, generator=torch.Generator().manual_seed(5))
    return MemoryBank(memory).project(rows)


def test_registers_are_the_tokens_between_cls_and_patches(features: PatchFeatures) -> None:
    model = backbone()
    pixels, _ = preprocess(noise_photo(), model.preprocessing)
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])[0]
    torch.testing.assert_close(register_embeddings(features), tokens[1:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "slices"), [(48, 16), (384, 6), (768, 16)])
def test_published_heads_are_slices_of_the_full_width(width: int, slices: int) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(1, 12, 1, width // 12, generator=random)
    keys = torch.randn(1, 12, 9, width // 12, generator=random)
    found = published_heads(query, keys)
    assert found is not None
    flat_query = query[0, :, 0].flatten().tolist()
    flat_keys = [keys[0, :, patch].flatten().tolist() for patch in range(9)]
    size = width // slices
    for head in range(slices):
        own = range(head * size, (head + 1) * size)
        logits = [sum(flat_query[i] * 0.125 * key[i] for i in own) for key in flat_keys]
        powers = [math.exp(logit) for logit in logits]
        expected = torch.tensor([power / sum(powers) for power in powers])
        torch.testing.assert_close(found[0, head], expected, rtol=1e-4, atol=1e-6)


def test_heads_and_attention_are_means_over_patches(features: PatchFeatures) -> None:
    heads, attention = features.reference_heads, features.reference_attention
    assert heads is not None and attention is not None
    cells = [(row, column) for row in range(4) for column in range(4)]
    for head, vector in enumerate(head_embeddings(features)):
        summed = sum((heads[head][cell] * features.tokens[cell] for cell in cells), torch.zeros(48))
        torch.testing.assert_close(vector, summed / 16, rtol=1e-4, atol=1e-6)
    summed = sum((attention[cell] * features.tokens[cell] for cell in cells), torch.zeros(48))
    torch.testing.assert_close(attention_embedding(features), summed / 16, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("context", ["cls", "attention"])
@pytest.mark.parametrize(
    ("kind", "alpha"),
    [("orthogonal_projection", 1.0), ("orthogonal_projection", 0.5), ("contrastive_mask", 1.0)],
)
def test_cleaning_is_the_formula_token_by_token(
    features: PatchFeatures, kind: Any, alpha: float, context: Any, after: bool
) -> None:
    before = features.tokens.clone()
    cleaned = clean_features(
        features, project, kind, context=context, alpha=alpha, after_projection=after
    )
    own = features.cls if context == "cls" else attention_embedding(features)
    assert own is not None
    own = project(own[None])[0] if after else own / own.norm()
    for row, column in ((0, 0), (1, 3), (3, 2)):
        token = features.tokens[row, column]
        token = project(token[None])[0] if after else token / token.norm()
        if kind == "orthogonal_projection":
            token = token - alpha * float(token @ own) / float(own @ own) * own
        else:
            token = token * (1 - own / (float(own @ own) ** 0.5 + 1e-6))
        expected = token if after else project(token[None])[0]
        torch.testing.assert_close(cleaned.tokens[row, column], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(features.tokens, before)
    assert cleaned.geometry == features.geometry


def test_what_a_backbone_does_not_have_is_refused() -> None:
    torch.manual_seed(0)
    bare = TimmViT("test_vit2", Preprocessing("stretch", 64, 16)).encode([noise_photo()])[0]
    for missing in (register_embeddings, attention_embedding, head_embeddings):
        with pytest.raises(OptionError):
            missing(bare)
    with pytest.raises(OptionError, match="CLS"):
        clean_features(bare, project, "contrastive_mask")
    with pytest.raises(OptionError, match="soap"):
        clean_features(bare, project, "soap")  # type: ignore[arg-type]
