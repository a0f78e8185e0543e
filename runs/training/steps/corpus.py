"""Step 5: choose the decoder's corpus and embed it with the tuned text tower, in shards that resume."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

from memory_bank.build import embed_texts
from patchioner.adaptation import normalise
from patchioner.base.errors import TextError
from patchioner.base.files import atomic_path
from patchioner.text import load_tower
from runs.training.pairs import read_lines, read_pairs
from runs.training.settings import RunSettings

SHARD = 8192
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


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
    return texts, embed_texts(tower.encode, texts, folder, shard=SHARD).float()


def clean_corpus(texts: Iterable[str], *, shortest: int = 4, longest: int = 24) -> list[str]:
    """Normalised sentences of `shortest` to `longest` words, each once, in order."""
    kept = dict.fromkeys(normalise(text) for text in texts)
    return [text for text in kept if shortest <= len(text.split()) <= longest]


def caption_like(texts: Sequence[str], examples: Sequence[str], keep: int) -> list[str]:
    """The `keep` texts that read most like the examples, in their old order.

    The measure is a smoothed log-likelihood ratio of words and word pairs (Moore & Lewis 2010).

    Args:
        texts: the corpus.
        examples: captions of the wanted style.
        keep: how many to keep.

    Raises:
        TextError: the corpus or the examples hold no word.
    """
    inside, outside = _counts(examples), _counts(texts)
    if not inside or not outside:
        raise TextError("the corpus or its examples hold no word: check the files of captions")
    scale = math.log(sum(outside.values()) / sum(inside.values()))
    scores = []
    for text in texts:
        grams = _grams(text)
        ratio = sum(math.log((inside[g] + 0.1) / (outside[g] + 1.0)) + scale for g in grams)
        scores.append(ratio / max(1, len(grams)))
    best = sorted(range(len(texts)), key=lambda row: -scores[row])[:keep]
    return [texts[row] for row in sorted(best)]


def _grams(text: str) -> list[str]:
    words = ["<", *WORD.findall(text), ">"]
    return words[1:-1] + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]


def _counts(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_grams(text))
    return counts
