"""How alike sentences are: by the words that they share, and by embeddings where there are any.

Knows: content words and their weights. Does NOT know: photos, regions, which sentence is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError
from patchioner.detail.text.words import word_weights

FloatArray = npt.NDArray[np.float64]
Embed = Callable[[Sequence[str]], npt.ArrayLike]
"""Texts -> (n, dim) vectors; compared by cosine."""

# Of the two ways in which one sentence may cover another. Containment alone would call "a dog" the same as all that
# has a dog in it; Jaccard alone would not see that a short sentence says nothing new.
_CONTAINMENT = 0.5


def similarity_matrix(
    sentences: Sequence[str], *, embed: Embed | None = None, share: float = 0.5
) -> FloatArray:
    """How alike n sentences are, each with each.

    The mean of two shares of the weighted content words: of those that both have among all of the two (Jaccard), and
    among those of the poorer one (containment). Equal sentences are 1 alike even without such words.

    Args:
        sentences: n.
        embed: gives vectors of them to blend in; None goes by words alone.
        share: of the embeddings' cosine (negative ones count 0), where `embed` is given.

    Returns:
        (n, n) float64, symmetric, 0 to 1, with ones on the diagonal.

    Raises:
        OptionError: a share outside 0..1.

    Example:
        >>> found = similarity_matrix(["A red bus.", "The bus is red.", "A bus on a road.", "A cat."])
        >>> found[0].round(2).tolist()
        [1.0, 1.0, 0.48, 0.0]
    """
    return similarity_to(sentences, sentences, embed=embed, share=share)


def similarity_to(
    sentences: Sequence[str],
    others: Sequence[str],
    *,
    embed: Embed | None = None,
    share: float = 0.5,
) -> FloatArray:
    """How alike n sentences and m others are: (n, m) float64; see `similarity_matrix`."""
    if not 0 <= share <= 1:
        raise OptionError(f"share of the embeddings is {share}; it must be from 0 to 1")
    lexical = _overlap(sentences, others)
    if embed is None or not lexical.size:
        return lexical
    left, right = _units(embed(sentences)), _units(embed(others))
    blended: FloatArray = (1 - share) * lexical + share * np.clip(left @ right.T, 0.0, 1.0)
    blended[_equal(sentences, others)] = 1.0
    return blended


def _overlap(sentences: Sequence[str], others: Sequence[str]) -> FloatArray:
    columns: dict[str, int] = {}
    left, right = _rows(sentences, columns), _rows(others, columns)
    shared = np.zeros((len(sentences), len(others)))
    for row, weights in enumerate(left):
        for column, candidate in enumerate(right):
            shared[row, column] = sum(
                min(weight, candidate[word])
                for word, weight in weights.items()
                if word in candidate
            )
    of_left = np.array([sum(row.values()) for row in left]).reshape(-1, 1)
    of_right = np.array([sum(row.values()) for row in right]).reshape(1, -1)
    either = np.maximum(of_left + of_right - shared, 1e-12)
    poorer = np.maximum(np.minimum(of_left, of_right), 1e-12)
    found: FloatArray = (1 - _CONTAINMENT) * shared / either + _CONTAINMENT * shared / poorer
    found[_equal(sentences, others)] = 1.0
    return np.clip(found, 0.0, 1.0)


def _rows(sentences: Sequence[str], columns: dict[str, int]) -> list[dict[int, float]]:
    return [
        {
            columns.setdefault(word, len(columns)): weight
            for word, weight in word_weights(one).items()
        }
        for one in sentences
    ]


def _equal(sentences: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.bool_]:
    left = np.array([one.casefold().strip(" .") for one in sentences], dtype=object)
    right = np.array([one.casefold().strip(" .") for one in others], dtype=object)
    return np.asarray(left[:, None] == right[None, :], dtype=np.bool_)


def _units(vectors: npt.ArrayLike) -> FloatArray:
    rows = np.asarray(vectors, dtype=np.float64)
    units: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units
