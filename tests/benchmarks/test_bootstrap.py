"""Intervals: known values, resampling of whole photos, a plain twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_pooled,
    bootstrap_ratio,
    bootstrap_statistic,
)
from patchioner.base.errors import OptionError


def test_mean_and_bounds() -> None:
    """The value is the plain mean; the bounds hold it and are near the normal ones."""
    values = np.random.default_rng(1).normal(10, 2, 400)
    interval = bootstrap_mean(values, range(400))
    assert interval.value == pytest.approx(values.mean())
    margin = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.05)


def test_seeded() -> None:
    """The same seed gives the same interval, another seed another one."""
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, range(30), seed=1) == bootstrap_mean(values, range(30), seed=1)
    assert bootstrap_mean(values, range(30), seed=1) != bootstrap_mean(values, range(30), seed=2)


def test_whole_photos_are_drawn() -> None:
    """Copies of a sample in one photo add no certainty; as photos of their own they would."""
    values = [0.0, 1.0, 0.0, 1.0]
    once = bootstrap_mean(values, list("abcd"))
    copied = bootstrap_mean(values * 50, list("abcd") * 50)
    apart = bootstrap_mean(values * 50, range(200))
    assert (copied.low, copied.high) == (once.low, once.high)
    assert apart.high - apart.low < (once.high - once.low) / 3


def test_plain_twin() -> None:
    """The matrix product equals drawing photos one by one and pooling their samples."""
    values, others = [1.0, 2.0, 6.0, 3.0], [1.0, 1.0, 2.0, 5.0]
    photos = ["a", "a", "b", "c"]
    draws = np.random.default_rng(5).multinomial(3, np.full(3, 1 / 3), size=200)
    ratios = []
    for draw in draws:
        above = below = 0.0
        for count, name in zip(draw, "abc", strict=True):
            for value, other, photo in zip(values, others, photos, strict=True):
                if photo == name:
                    above += count * value
                    below += count * other
        ratios.append(above / below)
    interval = bootstrap_ratio(values, others, photos, rounds=200, seed=5)
    assert interval.low == pytest.approx(np.quantile(ratios, 0.025))
    assert interval.high == pytest.approx(np.quantile(ratios, 0.975))
    assert interval.value == pytest.approx(12 / 9)


def test_paired_scores_cancel_what_a_photo_does_to_both() -> None:
    """One score is always twice the other: the ratio is certain though the scores vary."""
    scores = np.random.default_rng(2).random(20) + 0.1
    interval = bootstrap_ratio(2 * scores, scores, range(20))
    assert interval.low == pytest.approx(2.0)
    assert interval.high == pytest.approx(2.0)


def test_ratio_to_zero_is_undefined() -> None:
    """NaN, without a warning."""
    assert math.isnan(bootstrap_ratio([1.0], [0.0], ["a"]).value)


@pytest.mark.parametrize(
    ("values", "photos", "settings", "message"),
    [
        ([1.0], ["a", "b"], {}, "one number per sample"),
        ([], [], {}, "at least one"),
        ([math.nan], ["a"], {}, "must be finite"),
        ([1.0], ["a"], {"rounds": 0}, "rounds=0"),
    ],
)
def test_bad_input(
    values: list[float], photos: list[str], settings: dict[str, float], message: str
) -> None:
    """A typed error with the value."""
    with pytest.raises(OptionError, match=message):
        bootstrap_mean(values, photos, **settings)  # type: ignore[arg-type]


def test_difference_of_two_runs() -> None:
    """A gain of one on every sample is certain, however much photos differ."""
    scores = np.random.default_rng(0).normal(50, 20, 40)
    photos = [i // 4 for i in range(40)]
    found = bootstrap_difference(scores, scores + 1, photos)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert (found.below_zero, found.beyond_noise) == (0.0, True)
    worse = bootstrap_difference(scores + 1, scores, photos)
    assert (worse.below_zero, worse.beyond_noise) == (1.0, True)


def test_no_difference() -> None:
    """A run against itself: nothing, half of the resamples on either side, not beyond noise."""
    found = bootstrap_difference([1.0, 5.0], [1.0, 5.0], ["a", "b"])
    assert (found.value, found.below_zero, found.beyond_noise) == (0.0, 0.5, False)


def test_difference_plain_twin() -> None:
    first, second, photos = [1.0, 4.0, 2.0, 3.0], [2.0, 1.0, 5.0, 3.5], ["a", "a", "b", "c"]
    draws = np.random.default_rng(9).multinomial(3, np.full(3, 1 / 3), size=300)
    gains = []
    for draw in draws:
        often = [draw["abc".index(photo)] for photo in photos]
        sides = [np.repeat(side, often).mean() for side in (first, second)]
        gains.append(sides[1] - sides[0])
    found = bootstrap_difference(first, second, photos, rounds=300, seed=9)
    assert found.low == pytest.approx(np.quantile(gains, 0.025))
    assert found.high == pytest.approx(np.quantile(gains, 0.975))
    assert found.below_zero == pytest.approx(np.mean(np.array(gains) < 0), abs=0.02)


def test_statistic_of_photos() -> None:
    """A mean as a statistic has the interval of the mean: the same photos are drawn."""
    values, photos = np.array([1.0, 4.0, 2.0, 3.0]), ["a", "a", "b", "c"]
    found = bootstrap_statistic(
        lambda often: float(often @ values / often.sum()), photos, rounds=500, seed=3
    )
    mean = bootstrap_mean(values, photos, rounds=500, seed=3)
    assert (found.value, found.low, found.high) == pytest.approx((mean.value, mean.low, mean.high))
    with pytest.raises(OptionError, match="not finite for every resample"):
        bootstrap_statistic(lambda often: math.nan, photos)
    with pytest.raises(OptionError, match="at least one"):
        bootstrap_statistic(lambda often: 1.0, [])


def test_pooled_equals_one_resample_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in pieces of any size, with the same resamples as `bootstrap_statistic`."""
    values = np.random.default_rng(2).normal(size=12) ** 2
    photos = [index % 5 for index in range(12)]

    def pooled(often: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(often @ values) / often.sum(axis=1), dtype=np.float64)

    due = bootstrap_statistic(
        lambda often: float(pooled(often[None])[0]), photos, rounds=50, seed=3
    )
    for piece in (1, 100, 10_000):
        monkeypatch.setattr("benchmarks.bootstrap._PIECE", piece)
        found = bootstrap_pooled(pooled, photos, rounds=50, seed=3)
        assert (found.value, found.low, found.high) == pytest.approx((due.value, due.low, due.high))
    with pytest.raises(OptionError, match="not finite"):
        bootstrap_pooled(lambda often: np.full(len(often), np.nan), photos, rounds=5)
