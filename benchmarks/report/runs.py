"""Finished runs, read back from the folders that the benchmark commands wrote.

Knows: results.json, predictions.jsonl, folders of runs, names that tell runs apart. Does NOT know: models, photos,
HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.report.regional import Regional, measure_regions
from benchmarks.runner.plan import BASELINE_FOLDER
from benchmarks.runner.predictions import FILE, Prediction, read_predictions
from benchmarks.runner.results import FORMAT, RESULTS_FILE, VERSION
from patchioner.base.errors import CheckpointError
from patchioner.base.files import read_json

_TOLD = (
    "model",
    "weighting",
    "variance",
    "rounding",
    "temperature",
    "context",
    "beam",
    "crop",
    "limit",
    "seed",
)


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run as its folder holds it.

    Attributes:
        label: what tables call it; unlike those of the other runs read with it.
        folder: where it lies.
        results: results.json.
        predictions: predictions.jsonl, samples without a caption included.
        baselines: the runs below it, each labelled "baseline: NAME".
    """

    label: str
    folder: Path
    results: Mapping[str, Any] = field(repr=False)
    predictions: tuple[Prediction, ...] = field(repr=False)
    baselines: tuple[MeasuredRun, ...] = ()

    @property
    def task(self) -> str:
        """Name of its task."""
        return str(self.results["task"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings."""
        return dict(self.results["settings"])

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Its scores by metric: value, interval, how they were made."""
        return dict(self.results["metrics"])

    @property
    def data(self) -> Mapping[str, str | None]:
        """Sha256 of its data files."""
        return dict(self.results["data"]["sha256"])

    @property
    def how(self) -> dict[str, int]:
        """Rounds and seed of its bootstrap."""
        return {"rounds": int(self.settings["rounds"]), "seed": int(self.settings["seed"])}

    @cached_property
    def said(self) -> tuple[Prediction, ...]:
        """The predictions with a caption: the columns of scores are aligned with them."""
        return tuple(p for p in self.predictions if p.caption is not None)

    @cached_property
    def by_id(self) -> dict[str, Prediction]:
        """The predictions with a caption, by the id of their sample."""
        return {prediction.id: prediction for prediction in self.said}

    def scores(self, metric: str) -> dict[str, float]:
        """The score of each answered sample by its id; empty where the metric has none."""
        found = self.results["samples"]["scores"].get(metric, ())
        return dict(zip(self.by_id, found, strict=True)) if found else {}

    @cached_property
    def regional(self) -> Regional | None:
        """Distinctness and grounding sample by sample; None where no photo has two regions."""
        if self.task == "image":
            return None
        return measure_regions(self.said, classes=self.task == "objects")


def read_runs(paths: Sequence[Path]) -> list[MeasuredRun]:
    """Read runs with their baselines.

    Args:
        paths: folders of runs (with results.json), or folders that hold such folders, as `benchmarks.all` makes them:
            then all runs below, in the order of their names.

    Returns:
        In the order given, a run that comes twice once; runs of one name get the settings in which they differ, or
        else the name of their folder, into their labels.

    Raises:
        BenchmarkDataError: no run in a folder, or files that do not belong together.

    Example:
        >>> [run.label for run in read_runs([Path("build/benchmarks")])]  # doctest: +SKIP
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _folders(path))
    return _own_baselines(_told_apart([_read(folder) for folder in folders]))


def _folders(path: Path) -> list[Path]:
    if (path / RESULTS_FILE).is_file():
        return [path]
    found = sorted(file.parent for file in path.rglob(RESULTS_FILE)) if path.is_dir() else []
    runs = [folder for folder in found if BASELINE_FOLDER not in folder.relative_to(path).parts]
    if not runs:
        raise BenchmarkDataError(
            f"{path} holds no {RESULTS_FILE}, nor does a folder in it: give what --out of a benchmark command named"
        )
    return runs


def _read(folder: Path) -> MeasuredRun:
    results = _results(folder)
    predictions = tuple(read_predictions(folder / FILE))
    baselines = []
    for name, summary in results["baselines"].items():
        baselines.append(replace(_read(folder / summary["folder"]), label=f"baseline: {name}"))
    name = results["baseline"]
    label = results["label"] if name is None else f"baseline: {name}"
    run = MeasuredRun(label, folder, results, predictions, tuple(baselines))
    if list(run.by_id) != results["samples"]["ids"]:
        raise BenchmarkDataError(
            f"{folder}: {RESULTS_FILE} and {FILE} are of different runs: run again with --resume to score anew"
        )
    return run


def _results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS_FILE
    try:
        results = read_json(path)
    except CheckpointError as error:
        raise BenchmarkDataError(str(error)) from error
    known = isinstance(results, dict) and results.get("format") == FORMAT
    if not known or results.get("version") != VERSION:
        raise BenchmarkDataError(
            f"{path} is no {FORMAT} of version {VERSION}: run the benchmark again with this version"
        )
    return dict(results)


def _told_apart(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """Labels that differ within each task."""
    found = list(runs)
    for suffix in (_changed, lambda run: run.folder.name, lambda run: run.folder.parent.name):
        labels = [(run.task, run.label) for run in found]
        found = [
            replace(run, label=f"{run.label} ({more})")
            if labels.count((run.task, run.label)) > 1
            and (more := suffix(run))
            and more != run.label
            else run
            for run in found
        ]
    counts: dict[tuple[str, str], int] = {}
    for index, run in enumerate(found):
        counts[run.task, run.label] = number = counts.get((run.task, run.label), 0) + 1
        if number > 1:
            found[index] = replace(run, label=f"{run.label} #{number}")
    return found


def _own_baselines(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """Where several runs of a task have baselines, these carry the name of their run."""
    owners = [run.task for run in runs if run.baselines]
    return [
        replace(
            run,
            baselines=tuple(
                replace(below, label=f"{run.label}, {below.label}") for below in run.baselines
            ),
        )
        if owners.count(run.task) > 1
        else run
        for run in runs
    ]


def _changed(run: MeasuredRun) -> str:
    """The settings in which a run departs from what the model itself says."""
    given = {key: run.settings.get(key) for key in _TOLD[1:]}
    return ", ".join(
        key if value is True else f"{key} {value}"
        for key, value in given.items()
        if value is not None and value is not False and (key, value) != ("seed", 0)
    )
