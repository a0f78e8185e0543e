"""Step 4: tune the whole text tower towards the photos, anchored to where the alignment put every caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones.vit import StandardiseHead
from patchioner.base.progress import progress
from patchioner.text import BertTower, equal_lengths
from runs.training.alignment import blend_views, info_nce, mix_context
from runs.training.pairs import Pairs, read_lines, read_pairs
from runs.training.settings import RunSettings
from runs.training.state import load_state, save_state
from runs.training.steps.parts import read_head, read_projection
from runs.training.teacher import load_sentence_tower, sentence_folder


@dataclass(frozen=True)
class TextOptions:
    """Settings: `anchor` is the weight of staying near the alignment's embedding (1 - cosine)."""

    epochs: float = 1.0
    batch: int = 128
    learning_rate: float = 2e-5
    anchor: float = 2.0
    temperature: float = 0.05
    context: float = 0.5
    checkpoint_every: int = 25
    seed: int = 0


def run(settings: RunSettings) -> None:
    """Write the tuned tower to ``work/text_tower``."""
    pairs = read_pairs(settings.data("pairs"))
    aligned = load_file(settings.work / "alignment.safetensors")
    projection = read_projection(aligned)
    hidden = projection.project_in.out_features
    corpus = read_lines(settings.data("captions"))
    dim = projection.project_out.out_features
    tower = load_sentence_tower(sentence_folder(settings), corpus, dim=dim, projection=hidden)
    tower.project_in.load_state_dict(projection.project_in.state_dict())
    tower.project_out.load_state_dict(projection.project_out.state_dict())
    options = TextOptions(**settings.section("text"), seed=settings.seed)
    tune_tower(tower, read_head(aligned), pairs, aligned, options, settings.work / "text_tune")
    tower.save(settings.work / "text_tower", storage="fp32")


def tune_tower(
    tower: BertTower,
    head: StandardiseHead,
    pairs: Pairs,
    aligned: dict[str, Tensor],
    options: TextOptions,
    folder: Path,
) -> None:
    """Tune in place: InfoNCE of captions and photos' blended views, plus the anchor."""
    patches, cls = head(aligned["patches"], aligned["cls"])
    ids, captions_of = tower.token_ids(pairs.captions), pairs.captions_of
    with torch.no_grad():
        anchors = F.normalize(tower.project(aligned["sentences"]), dim=1)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=options.learning_rate, weight_decay=0.01)
    total = round(options.epochs * len(ids) / options.batch)
    first = load_state(folder, tower, optimiser, {})
    for step in progress(range(first, total), description="tuning the text tower", unit="step"):
        torch.manual_seed(options.seed * 1_000_003 + step)
        photos = torch.randperm(len(pairs.names))[: options.batch]
        rows = torch.stack(
            [own[torch.randint(len(own), ())] for own in (captions_of[i] for i in photos.tolist())]
        )
        texts = _embed(tower, [ids[row] for row in rows.tolist()])
        images = mix_context(blend_views(patches[photos]), cls[photos], options.context)
        drift = (1 - F.cosine_similarity(texts, anchors[rows])).mean()
        loss = info_nce(images, texts, options.temperature) + options.anchor * drift
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * min((step + 1) / 20, 1 - step / total)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % options.checkpoint_every == 0:
            save_state(folder, tower, optimiser, step + 1, {})
    tower.eval()


def _embed(tower: BertTower, ids: list[list[int]]) -> Tensor:
    """(B, dim) of token lists of mixed lengths, differentiable."""
    parts = [(rows, tower(batch)) for rows, batch in equal_lengths(ids, len(ids))]
    order = torch.tensor([row for rows, _ in parts for row in rows])
    return torch.cat([vectors for _, vectors in parts])[order.argsort()]
