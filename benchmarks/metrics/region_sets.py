"""Scores of samples that have several references: all of them together, or one at a time.

Knows: the two ways in which papers count a region set with several captions. Does NOT know: any metric.

The files of region sets give some sets several captions (keys with newlines). With "several", a set is one sample
scored against all its captions, as the published system does; with "one", every caption makes a sample of its own with
the same prediction, which is what comparisons with single-reference systems need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.ngrams import check_pairs
from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class OneReferenceEach:
    """Samples taken apart: one row per reference.

    Attributes:
        predictions: (m,) captions, repeated.
        references: (m,) lists of one reference.
        origin: (m,) index of the sample that each row comes from.
    """

    predictions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    origin: tuple[int, ...]

    def back(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Mean of the rows of each sample, (m,) -> (n,).

        Raises:
            OptionError: another number of scores than of rows.

        Example:
            >>> one_reference_each(["a"], [["b", "c"]]).back([1.0, 3.0]).tolist()
            [2.0]
        """
        rows = np.asarray(scores, dtype=np.float64)
        if rows.shape != (len(self.origin),):
            raise OptionError(
                f"scores of shape {rows.shape} for {len(self.origin)} rows: give one per row"
            )
        return np.asarray(
            np.bincount(self.origin, rows) / np.bincount(self.origin), dtype=np.float64
        )


def one_reference_each(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> OneReferenceEach:
    """Take samples with several references apart.

    Raises:
        OptionError: the lists cannot be paired.

    Example:
        >>> one_reference_each(["a dog", "a cat"], [["dog", "the dog"], ["cat"]]).origin
        (0, 0, 1)
    """
    check_pairs(predictions, references)
    rows = [(i, text) for i, group in enumerate(references) for text in group]
    return OneReferenceEach(
        tuple(predictions[i] for i, _ in rows),
        tuple((text,) for _, text in rows),
        tuple(i for i, _ in rows),
    )
