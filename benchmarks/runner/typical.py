"""The most typical sentence of many: the one that agrees most with all others.

Knows: sentences and their n-grams. Does NOT know: photos or models.

Source: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation" (2015), equation 2 with the
other sentences as references: the mean over n = 1..4 of the cosine of tf-idf vectors, without the clipping and the
length penalty of CIDEr-D. Unlike those it is linear in the references, so the mean over all others costs one pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmarks.metrics import tokenize
from benchmarks.metrics.ngrams import NGram, count_ngrams
from patchioner.base.errors import OptionError

MAX_ORDER = 4


def most_typical(texts: Sequence[str], *, most: int = 20_000, seed: int = 0) -> str:
    """The sentence of highest consensus with the others; of equals, the first.

    Args:
        texts: the sentences.
        most: of more than this many, a sample is drawn.
        seed: of that draw.

    Raises:
        OptionError: no sentence.

    Example:
        >>> most_typical(["a dog on grass", "a dog on a bed", "two red kites"])
        'a dog on grass'
    """
    if not texts:
        raise OptionError("there is no sentence to choose from: the memory bank holds no texts")
    kept: Sequence[int] = range(len(texts))
    if len(texts) > most:
        drawn = np.random.default_rng(seed).choice(len(texts), size=most, replace=False)
        kept = sorted(int(index) for index in drawn)
    counted = [count_ngrams(tokenize(texts[index]), MAX_ORDER) for index in kept]
    totals = np.zeros(len(counted))
    for order in range(MAX_ORDER):
        totals += _agreement([counts[order] for counts in counted])
    return texts[kept[int(totals.argmax())]]


def _agreement(counted: Sequence[Counter[NGram]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(n,) mean cosine of each tf-idf vector with the others."""
    documents = Counter(ngram for counts in counted for ngram in counts)
    idf = {ngram: math.log(len(counted) / count) for ngram, count in documents.items()}
    vectors = [_unit(counts, idf) for counts in counted]
    total: Counter[NGram] = Counter()
    for vector in vectors:
        for ngram, weight in vector.items():
            total[ngram] += weight  # type: ignore[assignment]  # a Counter of floats
    own = [
        sum(weight * (total[ngram] - weight) for ngram, weight in vector.items())
        for vector in vectors
    ]
    return np.array(own, dtype=np.float64)


def _unit(counts: Counter[NGram], idf: dict[NGram, float]) -> dict[NGram, float]:
    weights = {ngram: count * idf[ngram] for ngram, count in counts.items()}
    norm = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {ngram: weight / norm for ngram, weight in weights.items()} if norm else {}
