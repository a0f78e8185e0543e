"""ROUGE-L of captions.

Knows: the longest common subsequence of two word lists. Does NOT know: images, models, or files.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), with beta = 1.2 and
the best precision and best recall taken over the references, as in the COCO caption evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.ngrams import check_pairs
from benchmarks.metrics.tokenize import tokenize

BETA = 1.2


def rouge_l(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Callable[[str], list[str]] = tokenize,
) -> tuple[float, NDArray[np.float64]]:
    """Score captions by ROUGE-L, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        tokenizer: turns a caption into words.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired.

    Example:
        >>> rouge_l(["a red bus"], [["a red bus"]])[0]
        100.0
    """
    check_pairs(predictions, references)
    scores = np.array(
        [
            100.0 * _score(tokenizer(text), [tokenizer(other) for other in group])
            for text, group in zip(predictions, references, strict=True)
        ]
    )
    return float(scores.mean()), scores


def _score(words: list[str], group: list[list[str]]) -> float:
    if not words:
        return 0.0
    shared = [longest_common_subsequence(words, reference) for reference in group]
    precision = max(shared) / len(words)
    recall = max(
        length / len(reference) if reference else 0.0
        for length, reference in zip(shared, group, strict=True)
    )
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two word lists.

    Example:
        >>> longest_common_subsequence(["a", "red", "bus"], ["a", "bus"])
        2
    """
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
