"""Step 5: choose the decoder's corpus and embed it with the tuned text tower, in shards that resume."""

from __future__ import annotations

from torch import Tensor

from memory_bank.build import embed_texts
from patchioner.adaptation.sentences import caption_like, clean_corpus
from patchioner.base.files import atomic_path
from patchioner.text import load_tower
from runs.training.pairs import read_lines, read_pairs
from runs.training.settings import RunSettings

SHARD = 8192


def run(settings: RunSettings) -> None:
    """Write ``work/corpus/texts.txt`` and its unit embeddings ``work/corpus/*.safetensors``, in fp16."""
    folder = settings.work / "corpus"
    texts = choose(settings)
    with atomic_path(folder / "texts.txt") as path:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    read_corpus(settings)


def choose(settings: RunSettings) -> list[str]:
    """The corpus of the run."""
    examples = clean_corpus(read_pairs(settings.data("pairs")).captions)
    mixed = clean_corpus([*examples, *read_lines(settings.data("captions"))])
    return caption_like(mixed, examples, int(settings.section("corpus")["keep"]))


def read_corpus(settings: RunSettings) -> tuple[list[str], Tensor]:
    """Texts, and their (N, dim) unit embeddings, rounded to fp16."""
    folder = settings.work / "corpus"
    texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    tower = load_tower(settings.work / "text_tower")
    return texts, embed_texts(tower.encode, texts, folder, shard=SHARD)
