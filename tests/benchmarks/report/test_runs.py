"""Reading runs back, and telling them apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.readers import BenchmarkDataError
from benchmarks.report import read_runs


def test_scores_are_by_sample(run: Callable[..., Path]) -> None:
    folder = run("region_set", "--baseline=whole")
    (found,) = read_runs([folder])
    results = json.loads((folder / "results.json").read_text())
    assert list(found.scores("cider")) == results["samples"]["ids"] == list(found.by_id)
    assert found.scores("cider")["2/0"] == results["samples"]["scores"]["cider"][2]
    assert found.scores("no such metric") == {}
    assert [below.label for below in found.baselines] == ["baseline: whole"]


def test_names_differ(run: Callable[..., Path], tmp_path: Path) -> None:
    """By settings, else by folder, else by number; only within a task."""
    run("dense", "--baseline=whole", name="a")
    run("dense", "--limit=2", "--baseline=whole", name="b")
    run("dense", "--limit=2", name="c/one")
    run("trace", name="d")
    found = read_runs([tmp_path / "runs"])
    assert [one.label for one in found] == [
        "patchioner-mini",
        "patchioner-mini (limit 2) (b)",
        "patchioner-mini (limit 2) (one)",
        "patchioner-mini",
    ]
    assert found[1].baselines[0].label == "patchioner-mini (limit 2) (b), baseline: whole"


def test_a_run_given_twice_is_one(run: Callable[..., Path]) -> None:
    folder = run("dense")
    assert len(read_runs([folder, folder, folder.parent])) == 1


def test_a_baseline_can_be_read_alone(run: Callable[..., Path]) -> None:
    folder = run("dense", "--baseline=whole") / "baselines/whole"
    assert [one.label for one in read_runs([folder])] == ["baseline: whole"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no patchioner-benchmark of version 1"),
        ({"version": 2}, "run the benchmark again"),
        ({"samples": {"ids": ["x"], "scores": {}}}, "of different runs"),
        (None, "not valid JSON"),
    ],
)
def test_files_that_do_not_fit(
    change: dict[str, object] | None, message: str, run: Callable[..., Path]
) -> None:
    path = run("dense") / "results.json"
    content = "{" if change is None else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(content)
    with pytest.raises(BenchmarkDataError, match=message):
        read_runs([path.parent])
