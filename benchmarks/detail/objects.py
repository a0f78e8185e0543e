"""Objects that a text names against those that are in its photo: precision, recall, and texts that name nothing false.

Knows: COCO's 80 classes and their synonyms. Does NOT know: where texts or annotations come from.

After CHAIR (Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018): CHAIR_i is 100 - precision,
CHAIR_s is 100 - clean. No Java and no model: a table of synonyms (`benchmarks.metrics.class_names`). COCO's annotators
left out some things ("dining table" above all), so that precision is a little too low; objects outside of the classes
are not looked at, nor colours, numbers, places and deeds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    Difference,
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_statistic,
)
from benchmarks.metrics.class_names import SYNONYMS, named_classes
from patchioner.base.errors import OptionError

METRICS = ("precision", "recall", "clean")
_PERSON = "person"


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """Counts of n texts, each of another photo.

    Attributes:
        named: classes that each text names, (n,).
        right: those of them that are there, (n,).
        there: classes that are there, (n,).
        words: of each text, (n,).
    """

    named: NDArray[np.float64]
    right: NDArray[np.float64]
    there: NDArray[np.float64]
    words: NDArray[np.float64]

    def interval(self, metric: str, *, seed: int = 0) -> Interval:
        """One of `METRICS`, 0 to 1, with a bootstrap interval over photos.

        "precision": share of the named classes that are there; "recall": share of the classes there that are named;
        "clean": share of the texts that name no class that is not there.

        Raises:
            OptionError: no such metric.
        """
        photos = range(len(self.named))
        if metric == "clean":
            return bootstrap_mean(self.named == self.right, photos, seed=seed)
        return bootstrap_ratio(self.right, self._of(metric), photos, seed=seed)

    def gain_over(self, other: ObjectScores, metric: str, *, seed: int = 0) -> Difference:
        """How much a metric exceeds that of other texts of the same photos; photos are resampled for both together."""

        def difference(often: NDArray[np.int64]) -> float:
            return self._share(metric, often) - other._share(metric, often)

        return bootstrap_statistic(difference, range(len(self.named)), seed=seed)

    def _share(self, metric: str, often: NDArray[np.int64]) -> float:
        if metric == "clean":
            return float(often @ (self.named == self.right) / often.sum())
        below = float(often @ self._of(metric))
        return float(often @ self.right) / below if below else 0.0

    def _of(self, metric: str) -> NDArray[np.float64]:
        if metric not in METRICS:
            raise OptionError(f"{metric!r} is no measure of objects: use one of {METRICS}")
        return self.named if metric == "precision" else self.there


def object_scores(
    texts: Sequence[str], present: Sequence[Collection[str]], *, people: bool = True
) -> ObjectScores:
    """Count the objects that texts name.

    Args:
        texts: n, each of another photo.
        present: COCO classes that are in each photo.
        people: False leaves the class "person" out on both sides: it is in most photos, and named without looking.

    Raises:
        OptionError: another number of texts than of photos, or none.

    Example:
        >>> scores = object_scores(["A dog and a cat."], [{"dog", "chair"}])
        >>> scores.interval("precision").value, scores.interval("recall").value
        (0.5, 0.5)
    """
    if len(texts) != len(present) or not texts:
        raise OptionError(f"{len(texts)} texts for {len(present)} photos: give one text per photo")
    counts = np.array(
        [
            _counts(text, frozenset(classes) - ({_PERSON} if not people else set()), people=people)
            for text, classes in zip(texts, present, strict=True)
        ],
        dtype=np.float64,
    )
    words = np.array([len(text.split()) for text in texts], dtype=np.float64)
    return ObjectScores(counts[:, 0], counts[:, 1], counts[:, 2], words)


def _counts(text: str, there: frozenset[str], *, people: bool) -> tuple[int, int, int]:
    named = named_classes(text) - (frozenset() if people else {_PERSON})
    right = named & there
    # "glass" is a cup and a wine glass: where one of them is there, the other was not claimed.
    claimed = right | {name for name in named - right if not _SHARED[name] & right}
    return len(claimed), len(right), len(there)


def _shared() -> dict[str, frozenset[str]]:
    return {
        name: frozenset(
            other
            for other, words in SYNONYMS.items()
            if other != name and set(words) & set(SYNONYMS[name])
        )
        for name in SYNONYMS
    }


_SHARED = _shared()
