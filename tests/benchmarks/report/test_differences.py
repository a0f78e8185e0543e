"""Differences between runs against plain computations, and what may not be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bootstrap import bootstrap_difference
from benchmarks.report import read_runs
from benchmarks.report.differences import NONE, PAIRED, UNPAIRED, Change, changes, join_intervals


def by_metric(first: Path, second: Path, **options: bool) -> dict[str, Change]:
    one, other = read_runs([first, second])
    return {change.metric: change for change in changes(one, other, **options)}


def test_sample_scores_are_paired(run: Callable[..., Path]) -> None:
    folder = run("region_set", "--baseline=whole")
    found = by_metric(folder / "baselines/whole", folder)["cider"]
    one, other = read_runs([folder / "baselines/whole", folder])
    photos = [prediction.photo for prediction in other.said]
    due = bootstrap_difference(
        list(one.scores("cider").values()), list(other.scores("cider").values()), photos,
        rounds=50, seed=0,
    )  # fmt: skip
    assert (found.value, found.low, found.high) == (due.value, due.low, due.high)
    assert found.method == PAIRED and found.samples == 6 and not found.note


@pytest.mark.parametrize("task", ["region_set", "objects", "dense"])
def test_differences_of_whole_scores_are_those_of_the_results(
    task: str, run: Callable[..., Path]
) -> None:
    """Measured anew from the predictions, with an interval around exactly the difference that the tables show."""
    folder = run(task, "--baseline=whole")
    found = by_metric(folder / "baselines/whole", folder)
    one, other = read_runs([folder / "baselines/whole", folder])
    whole = {
        "region_set": {"grounding_margin", "grounding_wins", "repeated_pairs"},
        "objects": {"object_margin", "object_wins", "object_hits_but_person", "repeated_pairs"},
        "dense": {"mAP (stem-F)"},
    }[task]
    assert whole <= found.keys()
    for name in whole:
        change = found[name]
        assert change.method == PAIRED
        due = other.metrics[name]["value"] - one.metrics[name]["value"]
        assert change.value == pytest.approx(due, abs=1e-9)
        assert change.low is not None and change.high is not None
        assert change.low <= change.value <= change.high
    assert "detmap" not in found and "unique_captions" not in found


def test_repetition_is_better_the_less_there_is(run: Callable[..., Path]) -> None:
    folder = run("region_set", "--baseline=whole")
    repeated = by_metric(folder / "baselines/whole", folder)["repeated_pairs"]
    assert repeated.value == -100.0 and repeated.verdict == "better"


def test_a_run_differs_from_itself_by_nothing(run: Callable[..., Path]) -> None:
    one, other = run("dense", name="a"), run("dense", name="b")
    found = by_metric(one, other)
    assert found
    for change in found.values():
        assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0)
        assert change.verdict == "within noise"


def test_only_common_samples_are_paired(run: Callable[..., Path]) -> None:
    one, other = run("region_set", name="a"), run("region_set", "--limit=4", name="b")
    found = by_metric(one, other)
    assert found["cider"].samples == 4 and "over the 4 samples" in found["cider"].note
    assert found["grounding_margin"].method == UNPAIRED, "its value depends on the other regions"


def test_other_references_are_said(run: Callable[..., Path]) -> None:
    folder = run("image", "--baseline=oracle")
    assert "other references" in by_metric(folder / "baselines/oracle", folder)["cider"].note


def test_metrics_made_differently_are_not_compared(run: Callable[..., Path]) -> None:
    one, other = run("region_set", name="a"), run("region_set", name="b")
    path = other / "results.json"
    results = json.loads(path.read_text())
    results["metrics"]["cider"]["made"] = "pycocoevalcap; java 17"
    path.write_text(json.dumps(results))
    found = by_metric(one, other)
    assert found["cider"].method == NONE and found["cider"].verdict == "not judged"
    assert "made differently" in found["cider"].note
    assert found["rouge_l"].method == PAIRED


def test_the_mean_stands_in_for_pooled_scores(run: Callable[..., Path]) -> None:
    """Every caption of these runs has four words, so that pooling changes nothing: say that it did."""
    folder = run("region_set", "--baseline=whole")
    assert not by_metric(folder / "baselines/whole", folder)["bleu1"].note
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["metrics"]["bleu1"]["value"] += 0.1
    path.write_text(json.dumps(results))
    assert "samples' means" in by_metric(folder / "baselines/whole", folder)["bleu1"].note


def test_different_data_is_unpaired(run: Callable[..., Path]) -> None:
    folder = run("region_set", "--baseline=whole")
    paired = by_metric(folder / "baselines/whole", folder)["cider"]
    unpaired = by_metric(folder / "baselines/whole", folder, same_data=False)["cider"]
    assert unpaired.method == UNPAIRED and unpaired.value == pytest.approx(paired.value)


def test_joined_intervals_cover_two_independent_means() -> None:
    """The recovered bounds are close to those of the plain simulation."""
    random = np.random.default_rng(0)
    one, other = random.normal(3.0, 2.0, 20_000), random.normal(7.0, 1.0, 20_000)
    bounds = [(float(x.mean()), *np.quantile(x, [0.025, 0.975]).tolist()) for x in (one, other)]
    value, low, high = join_intervals(*bounds)
    due = np.quantile(other - one, [0.025, 0.975])
    assert value == pytest.approx(4.0, abs=0.1)
    np.testing.assert_allclose([low, high], due, atol=0.15)


@pytest.mark.parametrize(
    ("low", "high", "higher", "verdict"),
    [
        (1.0, 2.0, True, "better"), (1.0, 2.0, False, "worse"), (-2.0, -1.0, True, "worse"),
        (-2.0, -1.0, False, "better"), (0.0, 1.0, True, "within noise"),
        (None, None, True, "not judged"),
    ],
)  # fmt: skip
def test_verdicts(low: float | None, high: float | None, higher: bool, verdict: str) -> None:
    assert Change("x", math.pi, low, high, PAIRED, 9, higher).verdict == verdict
