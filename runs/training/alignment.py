"""Aligning sentences with pooled patch tokens: InfoNCE on photo-caption pairs (Talk2DINO, arXiv 2411.19331).

Knows: pooled views of photos and sentence vectors. Does not know: files, networks that make them, regions or class
names - only whole photos with whole captions, so regions stay zero-shot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchioner.backbones.vit import StandardiseHead
from runs.training.teacher import CachedPhoto


@dataclass(frozen=True)
class PhotoViews:
    """Pooled raw tokens of P photos: patches (P, views, dim), the mean and then one per head; cls (P, dim)."""

    patches: Tensor
    cls: Tensor


def pool_views(photos: Iterable[CachedPhoto]) -> tuple[PhotoViews, StandardiseHead]:
    """Pool every photo and gather the per-dimension statistics of all its patch tokens and CLS tokens."""
    patches, cls, totals = [], [], torch.zeros(3, 0, dtype=torch.float64)
    count = 0
    for photo in photos:
        tokens = photo.tokens.float().flatten(0, 1)
        heads = photo.attention.float().flatten(1)
        weights = torch.cat([torch.full_like(heads[:1], 1.0 / len(tokens)), heads / heads.sum(1, keepdim=True)])
        patches.append(weights @ tokens)
        cls.append(photo.cls.float())
        moments = torch.stack([tokens.double().sum(0), tokens.double().square().sum(0)])
        totals = moments if count == 0 else totals + moments
        count += len(tokens)
    views = PhotoViews(torch.stack(patches), torch.stack(cls))
    return views, standardise_head(totals / count, views.cls)


def standardise_head(moments: Tensor, cls: Tensor) -> StandardiseHead:
    """A head from the patch tokens' first and second moments (2, dim) and the CLS tokens (P, dim)."""
    head = StandardiseHead(cls.shape[1])
    mean = moments[0]
    head.patch_mean.copy_(mean)
    head.patch_inverse_std.copy_((moments[1] - mean.square()).clamp_min(1e-12).rsqrt())
    head.cls_mean.copy_(cls.mean(0))
    head.cls_inverse_std.copy_(cls.std(0).clamp_min(1e-6).reciprocal())
    return head


def mix_context(patches: Tensor, cls: Tensor | None, context: float) -> Tensor:
    """``unit(patches) + context * unit(cls)``: a region's embedding with a little of its whole photo."""
    regions = F.normalize(patches, dim=-1)
    return regions if cls is None or context == 0 else regions + context * F.normalize(cls, dim=-1)


def info_nce(images: Tensor, texts: Tensor, temperature: float | Tensor) -> Tensor:
    """Symmetric InfoNCE (arXiv 1807.03748) of B matching pairs, images (B, dim) and texts (B, dim)."""
    logits = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@dataclass(frozen=True)
class AlignOptions:
    """Settings of the projection's training.

    Attributes:
        epochs: passes over the photos; each draws one of a photo's captions.
        batch: pairs per step.
        learning_rate: peak of a one-cycle schedule.
        weight_decay: of AdamW.
        temperature: of the contrast.
        hidden: hidden width of the projection.
        dropout: on the hidden layer.
        context: share of the CLS token in a photo's embedding.
        noise: length of the Gaussian noise added to a unit sentence vector.
        seed: of everything drawn.
    """

    epochs: int = 40
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 0.05
    hidden: int = 2048
    dropout: float = 0.5
    context: float = 0.5
    noise: float = 0.3
    seed: int = 0


class Projection(nn.Module):
    """Linear, tanh, dropout, Linear: the trainable twin of the text tower's last two layers."""

    def __init__(self, width: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, hidden)
        self.project_out = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, sentences: Tensor) -> Tensor:
        """(B, width) -> (B, dim)."""
        hidden = F.dropout(torch.tanh(self.project_in(sentences)), self.dropout, self.training)
        return self.project_out(hidden)  # type: ignore[no-any-return]


def blend_views(patches: Tensor) -> Tensor:
    """Random convex blends (B, dim) of pooled views (B, views, dim): texts meet parts, not only the mean."""
    weights = torch.distributions.Dirichlet(torch.full((patches.shape[1],), 0.5)).sample(patches.shape[:1])
    return (weights[..., None] * patches).sum(1)


def train_projection(
    views: PhotoViews, head: StandardiseHead, sentences: Tensor, captions_of: list[Tensor], options: AlignOptions
) -> Projection:
    """Train a projection from sentence vectors to the standardised visual space.

    Args:
        views: raw pooled tokens of P photos.
        head: the standardisation.
        sentences: (N, width) unit sentence vectors of all captions.
        captions_of: per photo, the indices of its captions.
        options: see `AlignOptions`.
    """
    torch.manual_seed(options.seed)
    projection = Projection(sentences.shape[1], options.hidden, views.cls.shape[1], options.dropout).train()
    optimiser = torch.optim.AdamW(projection.parameters(), weight_decay=options.weight_decay)
    steps = len(captions_of) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=options.epochs * steps, pct_start=0.05
    )
    patches, cls = head(views.patches, views.cls)
    for _ in range(options.epochs):
        order = torch.randperm(len(captions_of))
        for photos in order[: steps * options.batch].split(options.batch):
            rows = torch.stack([own[torch.randint(len(own), ())] for own in (captions_of[i] for i in photos.tolist())])
            texts = sentences[rows]
            texts = F.normalize(texts + options.noise * torch.randn_like(texts) / texts.shape[1] ** 0.5, dim=1)
            images = mix_context(blend_views(patches[photos]), cls[photos], options.context)
            loss = info_nce(images, projection(texts), options.temperature)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return projection.eval()
