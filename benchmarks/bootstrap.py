"""Confidence intervals by resampling photos.

Knows: numbers and the group (photo) that each belongs to. Does NOT know: what the numbers measure.

Samples of one photo are alike, so whole photos are drawn with replacement, each with all of its
samples (cluster bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993); the
interval runs between percentiles of the resampled statistic.

Scores that depend on their set (CIDEr's idf) are computed once, over the full set, and then resampled: the idf stays
that of the full reference set in every resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]

_PIECE = 2_000_000  # counts at a time: 16 MB
_NOT_FINITE = "the statistic is not finite for every resample: it must be defined for any photos"


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


@dataclass(frozen=True)
class Difference:
    """How much the second of two runs exceeds the first, on the same samples.

    Attributes:
        value: the difference on the samples as they are.
        low, high: percentile bounds over photos.
        level: share of resampled values between the bounds.
        below_zero: share of resamples in which the second run is worse; ties count half. Near 0 or 1: more than noise.
    """

    value: float
    low: float
    high: float
    level: float
    below_zero: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


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
    groups, draws = _draw(photos, rounds, seed)
    # Sums per photo: a resample is then a matrix product with how often each photo was drawn.
    sums = np.stack([np.bincount(groups, side) for side in (above, below)], axis=1)
    resampled = draws.astype(np.float64) @ sums
    low, high = _bounds(_divide(resampled[:, 0], resampled[:, 1]), level)
    value = _divide(above.sum(keepdims=True), below.sum(keepdims=True))[0]
    return Interval(float(value), low, high, level)


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    photos: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Compare two runs over the same samples: mean(second) - mean(first), photos resampled for both together.

    Args:
        first, second: n scores of the same samples, in the same order.
        photos: the photo of each sample.
        rounds: number of resamples.
        seed: of the resampling.
        level: confidence level.

    Raises:
        OptionError: as `bootstrap_mean`.

    Example:
        >>> bootstrap_difference([1.0, 2.0], [2.0, 3.0], ["a", "b"])
        Difference(value=1.0, low=1.0, high=1.0, level=0.95, below_zero=0.0)
    """
    gains = _checked(second, photos, rounds, level) - _checked(first, photos, rounds, level)
    groups, draws = _draw(photos, rounds, seed)
    sums, sizes = np.bincount(groups, gains), np.bincount(groups)
    resampled = (draws @ sums) / (draws @ sizes)
    return _difference(float(gains.mean()), resampled, level)


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.int64]], float],
    photos: Sequence[Hashable],
    *,
    rounds: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Interval of any statistic of whole photos, for scores that are no mean over samples (BLEU, mAP).

    Args:
        statistic: takes how often each of the n samples counts, (n,) int64, and gives a number; of all ones it is the
            measured value. A difference of two runs is a statistic too.
        photos: the photo of each sample.
        rounds: number of resamples (the statistic is computed that often).
        seed: of the resampling.
        level: confidence level.

    Returns:
        The value with its bounds; `below_zero` means something when the statistic is a difference.

    Raises:
        OptionError: nothing to resample, a bad setting, or a statistic that is not finite.

    Example:
        >>> bootstrap_statistic(lambda often: float(often.sum()), ["a", "b"], rounds=10).value
        2.0
    """
    _checked(np.zeros(len(photos)), photos, rounds, level)
    groups, draws = _draw(photos, rounds, seed)
    value = statistic(np.ones(len(photos), dtype=np.int64))
    resampled = np.array([statistic(draw[groups]) for draw in draws], dtype=np.float64)
    if not (math.isfinite(value) and np.isfinite(resampled).all()):
        raise OptionError(_NOT_FINITE)
    return _difference(value, resampled, level)


def bootstrap_pooled(
    resample: Callable[[NDArray[np.int64]], Floats],
    photos: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """As `bootstrap_statistic`, for statistics that take many resamples at once.

    Args:
        resample: takes how often each of the n samples counts in each of some rounds, (some, n) int64, and gives their
            values, (some,); it is asked in pieces, since all rounds of a large set together are gigabytes.
        photos, rounds, seed, level: as there, with the same resamples.

    Raises:
        OptionError: as `bootstrap_statistic`.

    Example:
        >>> bootstrap_pooled(lambda often: often.sum(axis=1).astype(float), ["a", "b"], rounds=10).high
        2.0
    """
    _checked(np.zeros(len(photos)), photos, rounds, level)
    groups, draws = _draw(photos, rounds, seed)
    value = float(resample(np.ones((1, len(photos)), dtype=np.int64))[0])
    piece = max(1, _PIECE // len(photos))
    starts = range(0, rounds, piece)
    found = [resample(draws[start : start + piece][:, groups]) for start in starts]
    resampled = np.concatenate(found)
    if not (math.isfinite(value) and np.isfinite(resampled).all()):
        raise OptionError(_NOT_FINITE)
    return Interval(value, *_bounds(resampled, level), level)


def _draw(
    photos: Sequence[Hashable], rounds: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Photo index of each sample, and how often each photo is drawn in each round, (rounds, photos)."""
    index = {photo: position for position, photo in enumerate(dict.fromkeys(photos))}
    groups = np.array([index[photo] for photo in photos])
    count = len(index)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return groups, draws


def _bounds(resampled: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(value: float, resampled: Floats, level: float) -> Difference:
    below = float(np.mean((resampled < 0) + 0.5 * (resampled == 0)))
    return Difference(value, *_bounds(resampled, level), level, below)


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
