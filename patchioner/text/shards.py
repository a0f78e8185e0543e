"""Embedding a corpus shard by shard, so that a killed run goes on where it stopped.

Knows: a text tower and a folder of shards. Does not know: whether the shards there are of this corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError
from patchioner.base.files import atomic_path
from patchioner.base.progress import progress
from patchioner.base.weights import load_weights
from patchioner.text.base import TextTower

SHARD = 2048
_NAME = "embeddings"


def embed_texts(
    tower: TextTower, texts: Sequence[str], folder: Path, *, shard: int = SHARD, unit: bool = True
) -> Tensor:
    """Embeddings of texts, (N, dim) float32, by way of shards in `folder`.

    Args:
        tower: embeds.
        texts: N of them, not blank.
        folder: shards that are already there are read, the others written.
        shard: texts in one shard.
        unit: unit vectors, kept as fp16; False: vectors as the tower gives them, kept as fp32.

    Raises:
        CheckpointError: a shard is damaged or of other texts.
    """
    rows = torch.empty((len(texts), tower.dim), dtype=torch.float32)
    starts = range(0, len(texts), shard)
    for start in progress(starts, description="embedding the corpus", unit="shard"):
        path = folder / f"{start:09d}.safetensors"
        batch = list(texts[start : start + shard])
        if not path.exists():
            with atomic_path(path) as temporary:
                # Rounded even in a run that is never killed: both kinds of run train on the same numbers.
                found = tower.encode(batch)
                save_file({_NAME: F.normalize(found, dim=1).half() if unit else found}, temporary)
        rows[start : start + shard] = _read(path, (len(batch), tower.dim))
    return rows


def _read(path: Path, shape: tuple[int, int]) -> Tensor:
    rows = load_weights(path).get(_NAME)
    if rows is None or tuple(rows.shape) != shape:
        raise CheckpointError(f"{path} does not hold {shape} embeddings: remove it and go on")
    return rows
