"""Step `cache`: one pass of the frozen teacher over the training photos, kept on disk.

Knows: photos, a backbone, files of tokens. Does not know: text or what the tokens are for. Written in shards, so that
a run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchioner.backbones import preprocess
from patchioner.backbones.vit import TimmViT
from patchioner.base.files import atomic_path
from patchioner.base.progress import progress
from patchioner.images import load_image
from runs.training.pairs import read_pairs

SHARD = 128
KEPT = ("tokens", "cls", "attention")


@dataclass(frozen=True)
class CachedPhoto:
    """One photo, fp16: tokens (rows, columns, dim), cls (dim,), attention (heads, rows, columns)."""

    name: str
    tokens: Tensor
    cls: Tensor
    attention: Tensor


def photo_names(pairs: Path) -> list[str]:
    """File names of the pairs file, sorted."""
    return read_pairs(pairs).names


def cache_tokens(backbone: TimmViT, photos: Path, names: Sequence[str], folder: Path) -> None:
    """Write the tokens of every photo under `folder`; shards that are there are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(names), SHARD)
    for start in progress(starts, description="caching tokens", unit="shard"):
        path = folder / f"{start:06d}.safetensors"
        if path.exists():
            continue
        tensors: dict[str, Tensor] = {}
        for name in names[start : start + SHARD]:
            pixels, geometry = preprocess(load_image(photos / name), backbone.preprocessing)
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                views = backbone.dense(pixels[None], geometry.grid)
            for key in KEPT:
                view = getattr(views, key)
                assert view is not None, "the teacher has a CLS token"
                tensors[f"{name}/{key}"] = view[0].to(torch.float16).contiguous()
        with atomic_path(path) as partial:
            save_file(tensors, partial)


def read_cache(folder: Path, names: Sequence[str]) -> Iterator[CachedPhoto]:
    """Yield the cached photos in the order of `names` (the order they were cached in)."""
    for start in range(0, len(names), SHARD):
        shard = load_file(folder / f"{start:06d}.safetensors")
        for name in names[start : start + SHARD]:
            yield CachedPhoto(name, *(shard[f"{name}/{key}"] for key in KEPT))
