"""Choosing, from a mixed corpus, the sentences that read like captions of photos.

Knows: words. Does not know: photos, embeddings, decoders. The measure is a smoothed log-likelihood ratio of words and
word pairs between the training pairs' captions and the whole corpus (Moore & Lewis 2010, with unigrams and bigrams).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from patchioner.base.errors import TextError

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def normalise(text: str) -> str:
    """Lower case, no final full stop, no blanks before punctuation: how the decoder is to write."""
    lowered = " ".join(text.lower().split()).strip(" .")
    return re.sub(r"\s+([,.;:!?'])", r"\1", lowered)


def clean_corpus(texts: Iterable[str], *, shortest: int = 4, longest: int = 24) -> list[str]:
    """Normalised sentences of `shortest` to `longest` words, each once, in order."""
    kept = dict.fromkeys(normalise(text) for text in texts)
    return [text for text in kept if shortest <= len(text.split()) <= longest]


def caption_like(texts: Sequence[str], examples: Sequence[str], keep: int) -> list[str]:
    """The `keep` texts that read most like the examples, in their old order.

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
