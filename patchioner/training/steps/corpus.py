"""Step 5: choose the decoder's corpus and embed it with the tuned text tower, in shards that resume."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from patchioner.text_towers import BertTower, load_tower
from patchioner.training.corpus import caption_like, clean_corpus
from patchioner.training.pairs import read_lines, read_pairs
from patchioner.training.settings import RunSettings
from patchioner_base.files import atomic_path
from patchioner_base.progress import progress

SHARD = 8192


def run(settings: RunSettings) -> None:
    """Write ``work/corpus/texts.txt`` and its unit embeddings ``work/corpus/*.safetensors``, in fp16."""
    folder = settings.work / "corpus"
    texts = choose(settings)
    with atomic_path(folder / "texts.txt") as path:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    embed(load_tower(settings.work / "text_tower"), texts, folder)


def choose(settings: RunSettings) -> list[str]:
    """The corpus of the run."""
    examples = clean_corpus(read_pairs(settings.data("pairs")).captions)
    mixed = clean_corpus([*examples, *read_lines(settings.data("captions"))])
    return caption_like(mixed, examples, int(settings.section("corpus")["keep"]))


def embed(tower: BertTower, texts: list[str], folder: Path) -> None:
    """Embed texts shard by shard; shards that are there are left alone."""
    starts = range(0, len(texts), SHARD)
    for start in progress(starts, description="embedding the corpus", unit="shard"):
        target = folder / f"{start:07d}.safetensors"
        if not target.exists():
            vectors = F.normalize(tower.encode(texts[start : start + SHARD]), dim=1)
            with atomic_path(target) as path:
                save_file({"embeddings": vectors.to(torch.float16)}, path)


def read_corpus(folder: Path) -> tuple[list[str], Tensor]:
    """Texts, and their (N, dim) fp16 unit embeddings."""
    texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    shards = [load_file(path)["embeddings"] for path in sorted(folder.glob("*.safetensors"))]
    return texts, torch.cat(shards)
