"""BLEU-1 to BLEU-4 of captions.

Knows: clipped n-gram precision and the brevity penalty. Does NOT know: images, models, or files.

Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation" (2002),
with the closest reference length and the small constants of the COCO caption evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.ngrams import NGram, check_pairs, count_ngrams
from benchmarks.metrics.tokenize import tokenize

# They keep a precision of 0/0 finite without moving any other score visibly.
_TINY = 1e-15
_SMALL = 1e-9


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    max_order: int = 4,
    tokenizer: Callable[[str], list[str]] = tokenize,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score captions by BLEU-1 .. BLEU-`max_order`, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        max_order: the longest n-gram counted.
        tokenizer: turns a caption into words.

    Returns:
        The score of the whole set (from pooled counts, so not the mean of the samples), shape
        (max_order,), and the scores of the single samples, shape (n, max_order); both float64.

    Raises:
        OptionError: the lists cannot be paired.

    Example:
        >>> corpus, samples = bleu(["a red bus"], [["a red bus"]], max_order=2)
        >>> corpus.round(3).tolist()
        [100.0, 100.0]
    """
    statistics = bleu_statistics(predictions, references, max_order=max_order, tokenizer=tokenizer)
    return bleu_of(statistics.sum(axis=0, keepdims=True))[0], bleu_of(statistics)


def bleu_statistics(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    max_order: int = 4,
    tokenizer: Callable[[str], list[str]] = tokenize,
) -> NDArray[np.float64]:
    """What BLEU counts of each sample, (n, 2 * max_order + 2) float64; sums of rows are the counts of a set.

    Args, errors: as `bleu`.

    Example:
        >>> bleu_statistics(["a red bus"], [["a bus"]], max_order=1).tolist()  # right, guessed, own and due length
        [[2.0, 3.0, 3.0, 2.0]]
    """
    check_pairs(predictions, references)
    rows = [
        _statistics(tokenizer(text), [tokenizer(other) for other in group], max_order)
        for text, group in zip(predictions, references, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def _statistics(words: list[str], group: list[list[str]], max_order: int) -> list[int]:
    """Clipped matches and guesses per order, own length, closest reference length."""
    counts = count_ngrams(words, max_order)
    allowed: list[Counter[NGram]] = [Counter() for _ in range(max_order)]
    for reference in group:
        for most, found in zip(allowed, count_ngrams(reference, max_order), strict=True):
            most |= found  # the largest count in any one reference
    matches = [(mine & most).total() for mine, most in zip(counts, allowed, strict=True)]
    guesses = [max(0, len(words) - order) for order in range(max_order)]
    closest = min((abs(len(other) - len(words)), len(other)) for other in group)[1]
    return [*matches, *guesses, len(words), closest]


def bleu_of(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1 .. BLEU-N, times 100, of rows (or sums of rows) of `bleu_statistics`: (rows, N).

    Example:
        >>> bleu_of(np.array([[2.0, 3.0, 3.0, 2.0]])).round(2).tolist()
        [[66.67]]
    """
    max_order = statistics.shape[1] // 2 - 1
    matches, guesses = statistics[:, :max_order], statistics[:, max_order : 2 * max_order]
    precision = (matches + _TINY) / (guesses + _SMALL)
    means = np.exp(np.cumsum(np.log(precision), axis=1) / np.arange(1, max_order + 1))
    ratio = (statistics[:, -2] + _TINY) / (statistics[:, -1] + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return np.asarray(100.0 * means * penalty[:, None], dtype=np.float64)
