"""Confidence intervals by resampling photos.

Knows: numbers and the group (photo) that each belongs to. Does NOT know: what the numbers measure.

Samples of one photo are alike, so whole photos are drawn with replacement, each with all of its
samples (cluster bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993); the
interval runs between percentiles of the resampled statistic.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchioner_base.errors import OptionError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A measured value with its confidence interval.

    Attributes:
        value: the statistic of the samples as they are.
        low, high: percentile bounds; NaN where resampling leaves the statistic undefined.
        level: share of resampled values between the bounds (0.95).
    """

    value: float
    low: float
    high: float
    level: float = 0.95


def bootstrap_mean(
    values: ArrayLike,
    photos: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of `values` with an interval over photos.

    Args:
        values: n numbers.
        photos: the photo of each number, n hashable values.
        rounds: number of resamples.
        seed: of the resampling; the same seed gives the same interval.
        level: confidence level, between 0 and 1.

    Raises:
        OptionError: lengths differ, nothing to resample, a value is not finite, or a bad setting.

    Example:
        >>> bootstrap_mean([1.0, 1.0], ["a", "b"])
        Interval(value=1.0, low=1.0, high=1.0, level=0.95)
    """
    numbers = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(
        numbers, np.ones_like(numbers), photos, rounds=rounds, seed=seed, level=level
    )


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    photos: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return sum(numerators) / sum(denominators) with an interval over photos.

    For two scores of the same samples (one caption of the region, one of the whole photo): both are
    resampled together, so what a hard photo does to both cancels out.

    Args:
        numerators: n numbers.
        denominators: n numbers of the same samples.
        photos: the photo of each sample.
        rounds: number of resamples.
        seed: of the resampling.
        level: confidence level, between 0 and 1.

    Returns:
        The ratio; NaN for a value or bound whose denominators sum to zero.

    Raises:
        OptionError: as `bootstrap_mean`.

    Example:
        >>> bootstrap_ratio([2.0, 4.0], [1.0, 2.0], ["a", "b"]).value
        2.0
    """
    above = _checked(numerators, photos, rounds, level)
    below = _checked(denominators, photos, rounds, level)
    index = {photo: position for position, photo in enumerate(dict.fromkeys(photos))}
    groups = np.array([index[photo] for photo in photos])
    count = len(index)
    # Sums per photo: a resample is then a matrix product with how often each photo was drawn.
    sums = np.stack([np.bincount(groups, side, count) for side in (above, below)], axis=1)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    resampled = draws.astype(np.float64) @ sums
    low, high = np.quantile(
        _divide(resampled[:, 0], resampled[:, 1]), [(1 - level) / 2, (1 + level) / 2]
    )
    value = _divide(above.sum(keepdims=True), below.sum(keepdims=True))[0]
    return Interval(float(value), float(low), float(high), level)


def _divide(above: Floats, below: Floats) -> Floats:
    result = np.full_like(above, np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def _checked(values: ArrayLike, photos: Sequence[Hashable], rounds: int, level: float) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(photos):
        raise OptionError(
            f"values of shape {numbers.shape} for {len(photos)} photos: give one number per sample"
        )
    if not len(numbers):
        raise OptionError("no sample to resample: give at least one")
    if not np.isfinite(numbers).all():
        bad = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise OptionError(f"value {bad} is {numbers[bad]}: scores must be finite")
    if rounds < 1 or not 0 < level < 1:
        raise OptionError(f"rounds={rounds} must be at least 1 and level={level} within (0, 1)")
    return numbers
