"""stem-F: METEOR's formula over exact and stem matches only, without Java and without dictionaries.

Knows: the alignment of two word lists, METEOR 1.5's weights for English, and a list of English function words.
Does NOT know: synonyms and paraphrases, which the official METEOR matches too; so stem-F is not METEOR and never
carries its name. Where nothing but equal words match, both are the same number (tested against the official program).

Source: Denkowski, Lavie, "Meteor Universal" (2014), equations of section 2.1 with the tuned values for English:
alpha 0.85, beta 0.2, gamma 0.6, delta 0.75; an exact match weighs 1, a stem match 0.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.ngrams import check_pairs
from benchmarks.metrics.stems import stem
from benchmarks.metrics.tokenize import tokenize

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STEM_WEIGHT: Final = 0.6

# No places ("near", "under", "between"): in captions they carry content.
_CLOSED_CLASS: Final = """
a an the this that these those some any each every all both no not n't 's of in on at by to from with into over as for
about after and or but if so than then there it its he she they them his her their him i you we our your my me us who
which what when where be is am are was were been being has have had do does did will would can could may might should
must
"""
FUNCTION_WORDS: Final = frozenset(_CLOSED_CLASS.split())
"""Closed-class words; they weigh a quarter of a whole (1 - delta), content words three quarters."""


@dataclass(frozen=True)
class _Words:
    """A tokenised caption: its words, their stems, and the weight of each."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> _Words:
        weights = tuple(1 - DELTA if word in FUNCTION_WORDS else DELTA for word in words)
        return cls(tuple(words), tuple(map(stem, words)), weights)


def stem_f(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Callable[[str], list[str]] = tokenize,
) -> tuple[float, NDArray[np.float64]]:
    """Score captions by stem-F against the best of their references, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        tokenizer: turns a caption into words.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired.

    Example:
        >>> stem_f(["a red bus"], [["a red bus"]])[0]
        100.0
    """
    check_pairs(predictions, references)
    known: dict[str, _Words] = {}

    def words_of(text: str) -> _Words:
        if text not in known:
            known[text] = _Words.of(tokenizer(text))
        return known[text]

    scores = np.array(
        [
            100.0 * max(_score(words_of(text), words_of(other)) for other in group)
            for text, group in zip(predictions, references, strict=True)
        ]
    )
    return float(scores.mean()), scores


def _score(said: _Words, due: _Words) -> float:
    pairs = align(said.stems, due.stems)
    if not pairs:
        return 0.0
    kinds = [1.0 if said.words[i] == due.words[j] else STEM_WEIGHT for i, j in pairs]
    matched = zip(pairs, kinds, strict=True)
    shares = [(kind * said.weights[i], kind * due.weights[j]) for (i, j), kind in matched]
    precision = sum(share for share, _ in shares) / sum(said.weights)
    recall = sum(share for _, share in shares) / sum(due.weights)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    chunks = 1 + sum(
        (i + 1, j + 1) != following for (i, j), following in zip(pairs, pairs[1:], strict=False)
    )
    if chunks == 1 and len(pairs) == len(said.words) == len(due.words):
        return mean  # nothing out of order and nothing left over: METEOR takes no penalty
    return float((1 - GAMMA * (chunks / len(pairs)) ** BETA) * mean)


def align(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Match equal items of two lists one to one, in few runs.

    Takes the longest run of items that are neighbours on both sides, again and again; of equally long ones that which
    starts first on the left, then on the right. So as many items are matched as possible, and equal lists match whole.

    Returns:
        (index in `left`, index in `right`) pairs, sorted.

    Example:
        >>> align(["a", "red", "bus"], ["red", "bus", "a"])
        [(0, 2), (1, 0), (2, 1)]
    """
    free_left, free_right = [True] * len(left), [True] * len(right)
    if not set(left) & set(right):
        return []
    pairs: list[tuple[int, int]] = []
    while True:
        length, start, other = _longest_run(left, right, free_left, free_right)
        if length == 0:
            return sorted(pairs)
        for step in range(length):
            free_left[start + step] = free_right[other + step] = False
            pairs.append((start + step, other + step))


def _longest_run(
    left: Sequence[str], right: Sequence[str], free_left: list[bool], free_right: list[bool]
) -> tuple[int, int, int]:
    """Length and both starts of the longest common run of free items."""
    best = (0, 0, 0)
    after = [0] * (len(right) + 1)
    for i in range(len(left) - 1, -1, -1):
        row = [0] * (len(right) + 1)
        if free_left[i]:
            for j in range(len(right) - 1, -1, -1):
                if free_right[j] and left[i] == right[j]:
                    row[j] = after[j + 1] + 1
                    # Going backwards, a tie found later starts earlier.
                    best = max(best, (row[j], -i, -j))
        after = row
    return best[0], -best[1], -best[2]
