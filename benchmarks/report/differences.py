"""What changes from one run to another, and whether it is more than noise.

Knows: runs, their scores by sample, the bootstrap. Does NOT know: HTML, tables.

Where two runs have the same samples, photos are resampled for both together (a paired difference: what a hard photo
does to both cancels out). Where they do not, the two intervals are joined by the method of variance estimates recovery
(Zou, Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008, equation 2), which
takes the runs for independent: that is right for different data, and too wide for the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    Difference,
    bootstrap_difference,
    bootstrap_ratio,
    bootstrap_statistic,
)
from benchmarks.metrics import text_measure
from benchmarks.metrics.dense_map import DenseMatches, match, summarize
from benchmarks.report.runs import MeasuredRun
from benchmarks.runner.dense_scores import MAP_ROUNDS, dense_photos
from benchmarks.runner.regional import PERSON

PAIRED, UNPAIRED, NONE = "paired", "unpaired", "none"
FREE_MAP = "mAP (stem-F)"
UNCOMPARED = ("detmap", "unique_captions")
"""The same for all runs on one set of boxes; and a twin of `repeated_pairs`."""


@dataclass(frozen=True)
class Change:
    """How one metric changes from a first run to a second.

    Attributes:
        metric: its name.
        value: second minus first; of pooled scores (BLEU, METEOR) and of runs that share only some samples, the mean
            over the samples that both have.
        low, high: bounds of its interval; None where there is none.
        method: "paired", "unpaired" or "none".
        samples: how many samples both have.
        higher_is_better: as of the metric.
        note: what a reader should know about this figure; may be empty.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    method: str
    samples: int
    higher_is_better: bool
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "better", "worse", "within noise" or "not judged" (no interval), of the second run.

        Example:
            >>> Change("cider", 2.0, 1.0, 3.0, "paired", 9, True).verdict
            'better'
        """
        if self.low is None or self.high is None:
            return "not judged"
        if self.low <= 0.0 <= self.high:
            return "within noise"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def changes(first: MeasuredRun, second: MeasuredRun, *, same_data: bool = True) -> list[Change]:
    """The change of every metric that both runs have.

    Args:
        first, second: runs of one task.
        same_data: False takes the samples for different ones, whatever their ids.

    Example:
        >>> [change.verdict for change in changes(run.baselines[0], run)]  # doctest: +SKIP
        ['better', 'within noise']
    """
    names = [name for name in second.metrics if name in first.metrics and name not in UNCOMPARED]
    return [_change(name, first, second, same_data) for name in names]


def _change(name: str, first: MeasuredRun, second: MeasuredRun, same_data: bool) -> Change:
    made = [run.metrics[name]["made"] for run in (first, second)]
    by_sample = bool(first.scores(name) and second.scores(name))
    if by_sample and made[0] != made[1]:
        return _plain(name, first, second, f"made differently: {made[0]} and {made[1]}")
    if same_data:
        paired = _by_sample if by_sample else _WHOLE.get(name)
        found = None if paired is None else paired(name, first, second)
        if found is not None:
            return found
    return _unpaired(name, first, second)


def _by_sample(name: str, first: MeasuredRun, second: MeasuredRun) -> Change | None:
    """Paired over the samples that both runs answered."""
    ours, theirs = second.scores(name), first.scores(name)
    ids = [id_ for id_ in ours if id_ in theirs and _same_region(id_, first, second)]
    if not ids:
        return None
    photos = [second.by_id[id_].photo for id_ in ids]
    found = bootstrap_difference(
        [theirs[id_] for id_ in ids], [ours[id_] for id_ in ids], photos, **second.how
    )
    notes = ["difference of the samples' means"] if _pooled(name, second) else []
    if len(ids) < max(len(ours), len(theirs)):
        notes.append(f"over the {len(ids)} samples that both have")
    if any(first.by_id[id_].references != second.by_id[id_].references for id_ in ids):
        notes.append("scored against other references")
    return _paired(name, second, found, len(ids), "; ".join(notes))


def _pooled(name: str, run: MeasuredRun) -> bool:
    """Whether the score of the set is not the mean of its samples (whose scores are kept with six digits)."""
    mean = float(np.mean(list(run.scores(name).values())))
    return not math.isclose(mean, run.metrics[name]["value"], rel_tol=1e-6, abs_tol=1e-5)


def _but_person(name: str, first: MeasuredRun, second: MeasuredRun) -> Change | None:
    """Paired hits over the boxes of other classes than the commonest."""
    theirs, ours = first.scores("object_hits"), second.scores("object_hits")
    kept = [id_ for id_ in ours if second.by_id[id_].references[0] != PERSON]
    if not kept or not _same_samples(first, second):
        return None
    photos = [second.by_id[id_].photo for id_ in kept]
    found = bootstrap_difference(
        [theirs[id_] for id_ in kept], [ours[id_] for id_ in kept], photos, **second.how
    )
    return _paired(name, second, found, len(kept))


def _same_region(id_: str, first: MeasuredRun, second: MeasuredRun) -> bool:
    one, other = first.by_id[id_], second.by_id[id_]
    return one.photo == other.photo and one.region == other.region


def _same_samples(first: MeasuredRun, second: MeasuredRun) -> bool:
    """Whether scores that depend on the photo's other regions can be paired."""
    keys = [
        [(p.id, p.photo, p.references, p.caption is None) for p in run.predictions]
        for run in (first, second)
    ]
    return keys[0] == keys[1]


def _regional(name: str, first: MeasuredRun, second: MeasuredRun) -> Change | None:
    """Paired margins or wins: means over the samples whose photo has another region."""
    if not _same_samples(first, second) or first.regional is None or second.regional is None:
        return None
    column = "margins" if name.endswith("_margin") else "wins"
    theirs: dict[str, float] = getattr(first.regional, column)
    ours: dict[str, float] = getattr(second.regional, column)
    if theirs.keys() != ours.keys() or not ours:
        return None
    photos = [second.by_id[id_].photo for id_ in ours]
    found = bootstrap_difference(
        [theirs[id_] for id_ in ours], list(ours.values()), photos, **second.how
    )
    return _paired(name, second, found, len(ours))


def _repeats(name: str, first: MeasuredRun, second: MeasuredRun) -> Change | None:
    """Paired shares of equal captions among the same pairs of regions."""
    if not _same_samples(first, second) or first.regional is None or second.regional is None:
        return None
    ours, theirs = second.regional.pairs, first.regional.pairs
    if ours.keys() != theirs.keys() or any(ours[photo][1] != theirs[photo][1] for photo in ours):
        return None
    gains = [100.0 * (ours[photo][0] - theirs[photo][0]) for photo in ours]
    pairs = [ours[photo][1] for photo in ours]
    found = bootstrap_ratio(gains, pairs, list(ours), **second.how)
    difference = Difference(found.value, found.low, found.high, found.level, math.nan)
    return _paired(name, second, difference, len(second.said))


def _dense_map(name: str, first: MeasuredRun, second: MeasuredRun) -> Change | None:
    """Paired mAP over the same ground truths, measured anew: results.json has only its value."""
    if not _same_samples(first, second):
        return None
    with text_measure("stem-F") as measure:
        groups = [dense_photos(run.predictions) for run in (first, second)]
        theirs, ours = (match(list(group.values()), measure) for group in groups)
    rounds = min(second.how["rounds"], MAP_ROUNDS)

    def gain(often: NDArray[np.int64]) -> float:
        return _map(ours, often) - _map(theirs, often)

    found = bootstrap_statistic(gain, list(groups[1]), rounds=rounds, seed=second.how["seed"])
    return _paired(name, second, found, len(second.said), f"{rounds} resamples")


def _map(matches: DenseMatches, often: NDArray[np.int64]) -> float:
    return summarize(matches, name="stem-F", weights=often).value


def _paired(name: str, run: MeasuredRun, found: Difference, samples: int, note: str = "") -> Change:
    finite = math.isfinite(found.low + found.high)
    low, high = (found.low, found.high) if finite else (None, None)
    return Change(name, found.value, low, high, PAIRED, samples, _direction(run, name), note)


def _unpaired(name: str, first: MeasuredRun, second: MeasuredRun) -> Change:
    one, other = (_bounds(run.metrics[name]) for run in (first, second))
    if one is None or other is None:
        return _plain(name, first, second, "no interval: nothing to judge it by")
    joined = join_intervals(one, other)
    note = "the two intervals joined, as if the samples were different"
    higher = _direction(second, name)
    return Change(name, joined[0], joined[1], joined[2], UNPAIRED, 0, higher, note)


def join_intervals(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Difference of two independent values, second minus first, each given as (value, low, high).

    Example:
        >>> join_intervals((0.0, -3.0, 3.0), (10.0, 6.0, 14.0))
        (10.0, 5.0, 15.0)
    """
    difference = second[0] - first[0]
    below = math.hypot(second[0] - second[1], first[2] - first[0])
    above = math.hypot(second[2] - second[0], first[0] - first[1])
    return difference, difference - below, difference + above


def _plain(name: str, first: MeasuredRun, second: MeasuredRun, note: str) -> Change:
    value = second.metrics[name]["value"] - first.metrics[name]["value"]
    return Change(name, value, None, None, NONE, 0, _direction(second, name), note)


def _bounds(score: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """(value, low, high) of a score in results.json; of a pooled one, of the mean of its samples."""
    interval = score["interval"] or score.get("mean_of_samples")
    if interval is None or interval["low"] is None or interval["high"] is None:
        return None
    return interval["value"], interval["low"], interval["high"]


def _direction(run: MeasuredRun, name: str) -> bool:
    return bool(run.metrics[name]["higher_is_better"])


_WHOLE: dict[str, Callable[[str, MeasuredRun, MeasuredRun], Change | None]] = {
    "grounding_margin": _regional,
    "grounding_wins": _regional,
    "object_margin": _regional,
    "object_wins": _regional,
    "object_hits_but_person": _but_person,
    "repeated_pairs": _repeats,
    FREE_MAP: _dense_map,
}
