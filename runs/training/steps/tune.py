"""Step 3: tune the backbone against the aligned captions, anchored to the teacher's tokens."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from patchioner.images import load_image
from runs.training.pairs import read_pairs
from runs.training.settings import RunSettings
from runs.training.steps.parts import read_head, read_projection
from runs.training.teacher import load_teacher
from runs.training.token_cache import read_cache
from runs.training.tuning import TuneData, TuneOptions, tune


def run(settings: RunSettings) -> None:
    """Write the tuned backbone's state under ``work/tune``."""
    pairs = read_pairs(settings.data("pairs"))
    aligned = load_file(settings.work / "alignment.safetensors")
    section = settings.section("tune")
    options = TuneOptions(**{**section, "sizes": tuple(section["sizes"])}, seed=settings.seed)
    with torch.no_grad():
        captions = F.normalize(read_projection(aligned)(aligned["sentences"]), dim=1)
    photos = [load_image(settings.data("photos") / name) for name in pairs.names]
    teacher = [photo.tokens for photo in read_cache(settings.work / "tokens", pairs.names)]
    data = TuneData(photos, teacher, captions, pairs.owner)
    tune(load_teacher(settings), read_head(aligned), data, options, settings.work / "tune")
