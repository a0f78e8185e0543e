"""Intervals: known values, resampling of whole photos, a plain twin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.scoring import (
    bootstrap_mean,
    bootstrap_pooled,
    bootstrap_ratio,
    bootstrap_statistic,
)
from patchioner.base.errors import OptionError


def test_mean_and_bounds() -> None:
    """The value is the plain mean, the bounds are near the normal ones; the seed decides."""
    values = np.random.default_rng(1).normal(10, 2, 400)
    interval = bootstrap_mean(values, range(400))
    margin = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.05)
    assert bootstrap_mean(values, range(400)) == interval
    assert bootstrap_mean(values, range(400), seed=2) != interval


def test_whole_photos_are_drawn() -> None:
    """Copies of a sample in one photo add no certainty; as photos of their own they would."""
    values = [0.0, 1.0, 0.0, 1.0]
    once = bootstrap_mean(values, list("abcd"))
    copied = bootstrap_mean(values * 50, list("abcd") * 50)
    apart = bootstrap_mean(values * 50, range(200))
    assert (copied.low, copied.high) == (once.low, once.high)
    assert apart.high - apart.low < (once.high - once.low) / 3


def test_plain_twins() -> None:
    """Photos drawn one by one: the ratio of pooled samples, and the difference of two runs."""
    first, second, photos = [1.0, 2.0, 6.0, 3.0], [1.0, 1.0, 2.0, 5.0], ["a", "a", "b", "c"]
    draws = np.random.default_rng(5).multinomial(3, np.full(3, 1 / 3), size=200)
    ratios, gains = [], []
    for draw in draws:
        often = [draw["abc".index(photo)] for photo in photos]
        one, other = (np.repeat(side, often) for side in (first, second))
        ratios.append(one.sum() / other.sum())
        gains.append(other.mean() - one.mean())
    how: dict[str, Any] = {"rounds": 200, "seed": 5}
    ratio = bootstrap_ratio(first, second, photos, **how)
    gain = bootstrap_mean(np.subtract(second, first), photos, **how)
    for found, plain in ((ratio, ratios), (gain, gains)):
        expected = np.quantile(plain, [0.025, 0.975])
        np.testing.assert_allclose([found.low, found.high], expected)
    assert ratio.value == pytest.approx(12 / 9)


def test_paired_scores_cancel_what_a_photo_does_to_both() -> None:
    """A score that is always twice the other; a gain of one on every sample; no gain at all."""
    scores = np.random.default_rng(2).random(20) + 0.1
    ratio = bootstrap_ratio(2 * scores, scores, range(20))
    assert (ratio.low, ratio.high) == pytest.approx((2.0, 2.0))
    photos = [i // 4 for i in range(20)]
    for gain in (1.0, -1.0, 0.0):
        found = bootstrap_mean(scores + gain - scores, photos)
        assert (found.value, found.low, found.high) == pytest.approx((gain, gain, gain))
    assert math.isnan(bootstrap_ratio([1.0], [0.0], ["a"]).value)


@pytest.mark.parametrize(
    ("values", "photos", "settings", "message"),
    [
        ([1.0], ["a", "b"], {}, r"\(1,\) for 2"),
        ([], [], {}, "at least one"),
        ([math.nan], ["a"], {}, "nan"),
        ([1.0], ["a"], {"rounds": 0}, "rounds=0"),
    ],
)
def test_bad_input(values: Any, photos: Any, settings: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bootstrap_mean(values, photos, **settings)


def test_statistics_of_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked one resample at a time, or many in pieces of any size: the same resamples as of a mean."""
    values = np.random.default_rng(2).normal(size=12) ** 2
    photos = [index % 5 for index in range(12)]

    def pooled(often: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(often @ values / often.sum(axis=1), dtype=np.float64)

    due = bootstrap_mean(values, photos, rounds=50, seed=3)
    expected = pytest.approx((due.value, due.low, due.high))
    one = bootstrap_statistic(
        lambda often: float(pooled(often[None])[0]), photos, rounds=50, seed=3
    )
    assert (one.value, one.low, one.high) == expected
    for piece in (1, 100, 10_000):
        monkeypatch.setattr("benchmarks.scoring._PIECE", piece)
        found = bootstrap_pooled(pooled, photos, rounds=50, seed=3)
        assert (found.value, found.low, found.high) == expected
    with pytest.raises(OptionError, match="not finite"):
        bootstrap_pooled(lambda often: np.full(len(often), np.nan), photos, rounds=5)
    with pytest.raises(OptionError, match="not finite"):
        bootstrap_statistic(lambda often: math.nan, photos)
