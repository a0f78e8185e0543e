"""CIDEr-D, the consensus score of a caption against several references.

Knows: tf-idf vectors of n-grams and their clipped, length-penalised cosine. Does NOT know: images,
models, or files.

Source: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation" (2015),
the CIDEr-D variant, with the constants of the COCO caption evaluation: n = 1..4, sigma = 6, idf
from the references of the scored set, and lengths counted in bigrams as that evaluation does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.ngrams import NGram, check_pairs, count_ngrams
from benchmarks.metrics.tokenize import tokenize

MAX_ORDER = 4
SIGMA = 6.0


@dataclass(frozen=True)
class _Vector:
    """Tf-idf weights of one caption by n-gram order, their norms, and the caption's length."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


def cider(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Callable[[str], list[str]] = tokenize,
    idf_from: Sequence[Sequence[str]] | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """Score captions by CIDEr-D, on the scale of papers' tables (CIDEr 1.0 is 100).

    The rarity of an n-gram (idf) is counted over the references given here, one document per
    sample. A score therefore belongs to its set: the same caption scores otherwise in a subset,
    and a set of one sample scores 0, since nothing in it is rarer than anything else.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        tokenizer: turns a caption into words.
        idf_from: reference lists (of the full set) to count the idf over instead, so that samples of a subset score
            what they score in the full set.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired.

    Example:
        >>> mean, scores = cider(["a red bus", "a dog"], [["a red bus"], ["a black cat"]])
        >>> scores.shape
        (2,)
    """
    check_pairs(predictions, references)
    if idf_from is not None:
        check_pairs([""] * len(idf_from), idf_from)
    documents = references if idf_from is None else idf_from
    # Each different text is counted and weighed once: whoever compares regions asks about the same ones many times.
    asked = [*predictions, *(text for group in (*references, *documents) for text in group)]
    counts = {text: count_ngrams(tokenizer(text), MAX_ORDER) for text in dict.fromkeys(asked)}
    idf = _inverse_document_frequency([[counts[text] for text in group] for group in documents])
    rarest = math.log(len(documents))
    vectors = {text: _vector(found, idf, rarest) for text, found in counts.items()}
    scores = np.array(
        [
            _score(vectors[text], [vectors[other] for other in group])
            for text, group in zip(predictions, references, strict=True)
        ]
    )
    return float(scores.mean()), scores


def _inverse_document_frequency(
    reference_counts: Sequence[Sequence[list[Counter[NGram]]]],
) -> dict[NGram, float]:
    """Log of (number of samples / samples in whose references the n-gram occurs)."""
    documents: Counter[NGram] = Counter()
    for group in reference_counts:
        documents.update({ngram for counts in group for order in counts for ngram in order})
    total = math.log(len(reference_counts))
    return {ngram: total - math.log(count) for ngram, count in documents.items()}


def _vector(counts: list[Counter[NGram]], idf: dict[NGram, float], rarest: float) -> _Vector:
    """Weigh raw counts by idf; an n-gram that no reference has is as rare as can be."""
    weights = [
        {ngram: count * idf.get(ngram, rarest) for ngram, count in order.items()}
        for order in counts
    ]
    norms = [math.sqrt(sum(w * w for w in order.values())) for order in weights]
    return _Vector(weights, norms, length=counts[1].total())


def _score(candidate: _Vector, group: Sequence[_Vector]) -> float:
    """Mean similarity to the references, times 10 (CIDEr-D's own factor), times 100."""
    mean = sum(_similarity(candidate, reference) for reference in group) / len(group)
    return 10.0 * 100.0 * mean


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, damped by the difference in length."""
    damping = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for order in range(MAX_ORDER):
        norms = candidate.norms[order] * reference.norms[order]
        if norms == 0.0:
            continue
        other = reference.weights[order]
        # Clipping at the reference's weight keeps a repeated word from paying twice.
        shared = sum(
            min(weight, other[ngram]) * other[ngram]
            for ngram, weight in candidate.weights[order].items()
            if ngram in other
        )
        total += shared / norms
    return damping * total / MAX_ORDER
