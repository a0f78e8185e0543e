"""Tuning the backbone end to end: image-text contrast, anchored to the frozen teacher's dense tokens.

Knows: photos, the backbone, the teacher's cached tokens and the (fixed) caption embeddings. Does not know: regions,
boxes, class names. The anchor keeps the regional sense of the teacher while the contrast moves tokens towards text;
captions of all training photos serve as negatives, so small batches do.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from decoders.train import load_training, save_training
from patchioner.backbones import preprocess
from patchioner.backbones.vit import StandardiseHead, TimmViT
from patchioner.base.progress import progress
from patchioner.geometry import Preprocessing, fit_image
from runs.training.alignment import mix_context

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuneOptions:
    """Settings of a tuning run.

    Attributes:
        epochs: passes over the photos.
        batch: photos per step, all of one grid.
        sizes: input sizes (model pixels), one drawn per step.
        learning_rate: peak rate, after `warmup` steps, with cosine decay.
        contrast: weight of the image-text loss beside the anchor.
        temperature: of the contrast.
        context: how much of the CLS token is mixed into the pooled embedding.
        layer_decay: factor on the learning rate per block from the last to the first.
        seed: of the order of photos, sizes and flips.
    """

    epochs: float = 2.0
    batch: int = 16
    sizes: tuple[int, ...] = (224,)
    learning_rate: float = 3e-5
    weight_decay: float = 0.02
    warmup: int = 50
    contrast: float = 0.1
    temperature: float = 0.05
    context: float = 0.5
    layer_decay: float = 0.9
    checkpoint_every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class TuneData:
    """What a run learns from.

    Attributes:
        photos: upright RGB images, P of them.
        teacher: (rows, columns, dim) fp16 tokens of the frozen teacher per photo, raw.
        captions: (N, dim) unit caption embeddings.
        owner: (N,) index of the photo that each caption belongs to.
    """

    photos: list[Image.Image]
    teacher: list[Tensor]
    captions: Tensor
    owner: Tensor


def tune(backbone: TimmViT, head: StandardiseHead, data: TuneData, options: TuneOptions, folder: Path) -> None:
    """Tune `backbone.vit` in place; checkpoints go to `folder` and are resumed from."""
    vit = backbone.vit
    optimiser = torch.optim.AdamW(_groups(vit, options), weight_decay=options.weight_decay)
    total = max(1, round(options.epochs * len(data.photos) / options.batch))
    images = torch.zeros(len(data.photos), data.captions.shape[1])
    state = torch.nn.ModuleDict({"vit": vit})
    state.register_buffer("images", images)
    saved = partial(save_training, folder, module=state, optimizer=optimiser, run={})
    first = load_training(folder, module=state, optimizer=optimiser, run={})
    run = _Run(backbone, head, data, options, images)
    meter = {"anchor": 0.0, "contrast": 0.0}
    for step in progress(range(first, total), description="tuning the backbone", unit="step"):
        rate = _schedule(step, total, options.warmup)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        anchor, contrast = run.losses(step)
        optimiser.zero_grad(set_to_none=True)
        (anchor + options.contrast * contrast).backward()
        torch.nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        optimiser.step()
        for name, value in (("anchor", anchor), ("contrast", contrast)):
            meter[name] = 0.95 * meter[name] + 0.05 * float(value.detach())
        done = step + 1
        if done % options.checkpoint_every == 0 or done == total:
            bias = 1 - 0.95 ** (done - first)
            logger.info("step %d/%d %s", done, total, {k: round(v / bias, 4) for k, v in meter.items()})
            saved(step=done)
    vit.eval()


class _Run:
    """The two losses of one step; holds nothing but what the caller gave and the photos' latest embeddings."""

    def __init__(self, backbone: TimmViT, head: StandardiseHead, data: TuneData, options: TuneOptions, images: Tensor):
        self.backbone, self.head, self.data, self.options, self.images = backbone, head, data, options, images
        self.buckets: defaultdict[float, list[int]] = defaultdict(list)
        for index, photo in enumerate(data.photos):
            self.buckets[round(photo.width / photo.height, 1)].append(index)

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + step)
        chosen, size = self._draw(generator)
        flip = bool(torch.rand((), generator=generator) < 0.5)
        settings = Preprocessing(**{**vars(self.backbone.preprocessing), "size": size})
        shape = self.data.photos[chosen[0]].size
        grid = fit_image(shape, mode=settings.mode, size=size, patch_size=settings.patch_size).grid
        inputs = [preprocess(self.data.photos[i].resize(shape), settings)[0] for i in chosen]
        pixels = torch.stack(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, cls, *_ = self.backbone.dense(pixels.flip(3) if flip else pixels, grid)
        patches, whole = self.head(tokens.float(), None if cls is None else cls.float())
        return self._anchor(patches, chosen, flip), self._contrast(patches, whole, chosen)

    def _draw(self, generator: torch.Generator) -> tuple[list[int], int]:
        """A photo at random, then others of about its aspect ratio; and an input size."""
        count = len(self.data.photos)
        seed = self.data.photos[int(torch.randint(count, (), generator=generator))]
        bucket = self.buckets[round(seed.width / seed.height, 1)]
        order = torch.randperm(len(bucket), generator=generator)[: self.options.batch]
        size = self.options.sizes[int(torch.randint(len(self.options.sizes), (), generator=generator))]
        return [bucket[i] for i in order.tolist()], size

    def _anchor(self, patches: Tensor, chosen: list[int], flip: bool) -> Tensor:
        """1 - cosine to the teacher's standardised tokens, resampled to the student's grid."""
        targets = []
        for index in chosen:
            tokens = self.head(self.data.teacher[index].float(), None)[0].permute(2, 0, 1)
            resampled = F.adaptive_avg_pool2d(tokens, (patches.shape[1], patches.shape[2])).permute(1, 2, 0)
            targets.append(resampled.flip(1) if flip else resampled)
        return (1 - F.cosine_similarity(patches, torch.stack(targets), dim=-1)).mean()

    def _contrast(self, patches: Tensor, cls: Tensor | None, chosen: list[int]) -> Tensor:
        """Photo against all captions (any of its own counts), and its captions against all photos seen so far."""
        photos = F.normalize(mix_context(patches.mean((1, 2)), cls, self.options.context), dim=1)
        rows = torch.tensor(chosen)
        logits = photos @ self.data.captions.T / self.options.temperature
        own = self.data.owner[None] == rows[:, None]
        to_text = (logits.logsumexp(1) - logits.masked_fill(~own, -math.inf).logsumexp(1)).mean()
        seen = self.images.clone()
        seen[rows] = photos
        mine = own.any(0)
        known = seen.norm(dim=1) > 0
        back = (self.data.captions[mine] @ seen.T / self.options.temperature).masked_fill(~known, -math.inf)
        self.images[rows] = photos.detach()
        return (to_text + F.cross_entropy(back, self.data.owner[mine])) / 2


def _groups(vit: torch.nn.Module, options: TuneOptions) -> list[dict[str, object]]:
    """Parameters with their peak rates: lower for earlier blocks."""
    depth = len(vit.blocks)  # type: ignore[arg-type]
    groups = []
    for name, parameter in vit.named_parameters():
        level = (
            int(name.split(".")[1]) + 1
            if name.startswith("blocks.")
            else 0
            if name.startswith(("patch", "pos", "cls"))
            else depth
        )
        groups.append(
            {"params": [parameter], "peak": options.learning_rate * options.layer_decay ** (depth - level), "lr": 0.0}
        )
    return groups


def _schedule(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
