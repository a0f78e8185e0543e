"""Confidence intervals by resampling photos.

Samples of one photo are alike, so whole photos are drawn with replacement, each with all of its samples (cluster
bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993); the interval runs between percentiles of the
resampled statistic. Scores that depend on their set (CIDEr's idf) are computed once, over the full set, and resampled.

Everywhere: `photos` names the photo of each of n samples; `rounds` resamples, drawn with `seed`. OptionError for
lengths that differ, nothing to resample, values that are not finite, or bad settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Photos = Sequence[Hashable]

LEVEL = 0.95  # share of resampled values between the bounds
_PIECE = 2_000_000  # counts at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A measured value with percentile bounds, NaN where resampling leaves the statistic undefined."""

    value: float
    low: float
    high: float
    level: float = LEVEL


def bootstrap_mean(
    values: ArrayLike, photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:
    """Mean of n `values`."""
    ones = np.ones(np.shape(values))
    return bootstrap_ratio(values, ones, photos, rounds=rounds, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:  # fmt: skip
    """sum(numerators) / sum(denominators), both resampled together; NaN where denominators sum to zero.

    For two scores of the same samples (one caption of the region, one of the whole photo), what a hard photo does to
    both cancels out.
    """
    above, below = _checked(numerators, photos, rounds), _checked(denominators, photos, rounds)
    groups, draws = _draw(photos, rounds, seed)
    # Sums per photo: a resample is then a matrix product with how often each photo was drawn.
    sums = np.stack([np.bincount(groups, side) for side in (above, below)], axis=1)
    resampled = draws.astype(np.float64) @ sums
    low, high = _bounds(_divide(resampled[:, 0], resampled[:, 1]))
    value = _divide(above.sum(keepdims=True), below.sum(keepdims=True))[0]
    return Interval(float(value), low, high)


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:
    """mean(second) - mean(first) over the same n samples, photos resampled for both together."""
    gains = _checked(second, photos, rounds) - _checked(first, photos, rounds)
    groups, draws = _draw(photos, rounds, seed)
    sums, sizes = np.bincount(groups, gains), np.bincount(groups)
    return Interval(float(gains.mean()), *_bounds((draws @ sums) / (draws @ sizes)))


def bootstrap_statistic(
    statistic: Callable[[Counts], float], photos: Photos, *, rounds: int = 1000, seed: int = 0
) -> Interval:
    """Any statistic of whole photos, for scores that are no mean over samples (mAP), or their difference.

    `statistic` takes how often each of the n samples counts, (n,); of all ones it is the measured value.
    """
    one_by_one = lambda often: np.array([statistic(one) for one in often], np.float64)  # noqa: E731
    return bootstrap_pooled(one_by_one, photos, rounds=rounds, seed=seed)


def bootstrap_pooled(
    resample: Callable[[Counts], Floats], photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:
    """As `bootstrap_statistic`, with the same resamples, for statistics that take many at once: (some, n) -> (some,).

    It is asked in pieces, since all rounds of a large set together are gigabytes.
    """
    _checked(np.zeros(len(photos)), photos, rounds)
    groups, draws = _draw(photos, rounds, seed)
    value = float(resample(np.ones((1, len(photos)), dtype=np.int64))[0])
    piece = max(1, _PIECE // len(photos))
    starts = range(0, rounds, piece)
    found = np.concatenate([resample(draws[at : at + piece][:, groups]) for at in starts])
    if not (math.isfinite(value) and np.isfinite(found).all()):
        raise OptionError(
            "the statistic is not finite for every resample: it must be defined for any photos"
        )
    return Interval(value, *_bounds(found))


def _draw(photos: Photos, rounds: int, seed: int) -> tuple[NDArray[np.intp], Counts]:
    """Photo index of each sample, and how often each photo is drawn in each round, (rounds, photos)."""
    index = {photo: position for position, photo in enumerate(dict.fromkeys(photos))}
    groups = np.array([index[photo] for photo in photos])
    count = len(index)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return groups, draws


def _bounds(resampled: Floats) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _checked(values: ArrayLike, photos: Photos, rounds: int) -> Floats:
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
    if rounds < 1:
        raise OptionError(f"rounds={rounds} must be at least 1")
    return numbers
