"""One measured value of a run, with its interval over photos.

Knows: how an interval is put around a metric's result. Does NOT know: which metrics a task has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import Interval, bootstrap_mean, bootstrap_pooled
from benchmarks.metrics import MetricResult
from benchmarks.runner.settings import RunSettings

POOLED = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor")
"""Metrics that pool their counts over the set, so that their value is not the mean of the samples."""


@dataclass(frozen=True)
class Score:
    """One measured value.

    Attributes:
        name: its key.
        value: of the whole set, as papers print it.
        interval: its bounds over photos; None where resampling was not done.
        mean: for a score that pools counts over the set (BLEU, METEOR), the mean of the samples with its own interval.
        samples: the score of each answered sample, in the order of the predictions; None where it has none.
        made: how it was made, in words.
        higher_is_better: False for a rate of repetition.
    """

    name: str
    value: float
    interval: Interval | None
    samples: tuple[float, ...] | None
    made: str
    mean: Interval | None = None
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """All but the samples, which results.json keeps in a place of their own."""
        values: dict[str, Any] = {"value": self.value, "interval": _bounds(self.interval)}
        if self.mean is not None:
            values["mean_of_samples"] = _bounds(self.mean)
        return values | {"higher_is_better": self.higher_is_better, "made": self.made}


def caption_score(result: MetricResult, photos: Sequence[str], settings: RunSettings) -> Score:
    """A metric's result with its interval.

    Args:
        result: of n samples.
        photos: the photo of each.
        settings: rounds and seed of the bootstrap.

    Example:
        >>> caption_score(result, ["a.jpg", "b.jpg"], RunSettings("image")).interval.low  # doctest: +SKIP
        41.2
    """
    how: dict[str, Any] = {"rounds": settings.rounds, "seed": settings.seed}
    mean = bootstrap_mean(result.samples, photos, **how)
    # A score that pools its counts over the set is not the mean, so the mean's interval is not its own.
    pooled = result.name in POOLED or not np.isclose(mean.value, result.corpus, rtol=1e-9)
    interval: Interval | None = None if pooled else mean
    if pooled and result.resample is not None:
        interval = bootstrap_pooled(result.resample, photos, **how)
    return Score(
        result.name, result.corpus, interval, result.samples, str(result.made), mean if pooled else None
    )  # fmt: skip


def _bounds(interval: Interval | None) -> dict[str, float | None] | None:
    """As JSON, where an undefined bound is null."""
    if interval is None:
        return None
    return {
        key: float(number) if np.isfinite(number) else None
        for key, number in vars(interval).items()
    }
