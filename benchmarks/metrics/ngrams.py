"""Counts the n-grams of tokenised captions.

Knows: words and their runs. Does NOT know: any score made of the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from patchioner.base.errors import OptionError

NGram = tuple[str, ...]


def count_ngrams(words: Sequence[str], max_order: int) -> list[Counter[NGram]]:
    """Return one counter per order: entry `n - 1` counts the n-grams of `words`.

    Example:
        >>> count_ngrams(["a", "dog", "a"], 2)[0][("a",)]
        2
    """
    return [
        Counter(zip(*(words[start:] for start in range(order)), strict=False))
        for order in range(1, max_order + 1)
    ]


def check_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse lists that cannot be scored together.

    Raises:
        OptionError: the lists differ in length, are empty, or a sample has no reference, or is a
            bare string where a list of strings is due.
    """
    if len(predictions) != len(references):
        raise OptionError(
            f"{len(predictions)} predictions for {len(references)} reference lists: give one list"
            " of references per prediction"
        )
    if not predictions:
        raise OptionError("nothing to score: give at least one prediction with its references")
    for index, group in enumerate(references):
        if isinstance(group, str):
            raise OptionError(
                f"references[{index}] is the string {group[:40]!r}: put it in a list, [[...], ...]"
            )
        if not group:
            raise OptionError(f"references[{index}] is empty: every sample needs a reference")
