"""Command: finished runs side by side, with what the authors published.

    python -m benchmarks.compare build/benchmarks/dev/dense build/benchmarks/dev/dense-gaussian

Where two runs have the same samples, photos are resampled for both together (a paired difference: what a hard photo
does to both cancels out). Where they do not, the two intervals are joined by the method of variance estimates recovery
(Zou, Donner, Statistics in Medicine 2008, equation 2), which takes the runs for independent: right for different data,
too wide for the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.answerers import FILE, Prediction, read_predictions
from benchmarks.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_ratio,
    bootstrap_statistic,
)
from benchmarks.command import CIDER_WARNING, HIDDEN, SHOWN, run_command, with_interval
from benchmarks.data import TASK_NAMES, BenchmarkDataError, task_named
from benchmarks.metrics import text_measure
from benchmarks.metrics.dense_map import summarize
from benchmarks.published import MARK, SOURCES, published_rows, published_table
from benchmarks.run import BASELINE_FOLDER, FORMAT, RESULTS_FILE, VERSION
from benchmarks.scoring import MAP_ROUNDS, PERSON, Regional, dense_matches, measure_regions
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import read_json

PAIRED, UNPAIRED, NONE = "paired", "unpaired", "none"
UNCOMPARED = ("detmap", "unique_captions")
"""The same for all runs on one set of boxes; and a twin of `repeated_pairs`."""
NAMES = {
    "cider": "CIDEr", "meteor": "METEOR", "stem_f": "stem-F", "rouge_l": "ROUGE-L", "spice": "SPICE",
    "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4",
    "grounding_margin": "grounding margin", "grounding_wins": "grounding wins, %",
    "repeated_pairs": "repeated pairs, % (lower is better)", "unique_captions": "unique captions, %",
    "object_hits": "objects named, %", "object_hits_but_person": "objects named but people, %",
    "object_margin": "object margin, %", "object_wins": "object wins, %",
    "cider_one_reference": "CIDEr, one reference each", "rouge_l_one_reference": "ROUGE-L, one reference each",
    "bleu4_one_reference": "BLEU-4, one reference each",
    "clip_s": "CLIP-S", "ref_clip_s": "RefCLIP-S", "pac_s": "PAC-S", "ref_pac_s": "RefPAC-S",
    "clip_text_cosine": "best text cosine (CLIP)", "pac_text_cosine": "best text cosine (PAC), the tables' P",
}  # fmt: skip
_SIGNS = {"better": "\u25b2", "worse": "\u25bc", "within noise": "\u2248", "not judged": "\u2013"}
_TOLD = (
    "weighting", "variance", "rounding", "temperature", "context", "beam", "crop", "limit", "seed"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run as its folder holds it: a label unlike those read with it, results.json, predictions (those without a
    caption included), and the runs of its baselines, each labelled "baseline: NAME".
    """

    label: str
    folder: Path
    results: Mapping[str, Any] = field(repr=False)
    predictions: tuple[Prediction, ...] = field(repr=False)
    baselines: tuple[MeasuredRun, ...] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.results["task"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the run, as JSON values."""
        return cast(Mapping[str, Any], self.results["settings"])

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Scores of the whole set by metric."""
        return cast(Mapping[str, Mapping[str, Any]], self.results["metrics"])

    @property
    def data(self) -> Mapping[str, str | None]:
        """The sha256 of its files."""
        return cast(Mapping[str, str | None], self.results["data"]["sha256"])

    @property
    def how(self) -> dict[str, int]:
        """Rounds and seed of its bootstrap."""
        return {key: int(self.settings[key]) for key in ("rounds", "seed")}

    @cached_property
    def by_id(self) -> dict[str, Prediction]:
        """The predictions with a caption, by the id of their sample."""
        return {p.id: p for p in self.predictions if p.caption is not None}

    def scores(self, metric: str) -> dict[str, float]:
        """The score of each answered sample by its id; empty where the metric has none."""
        found = self.results["samples"]["scores"].get(metric, ())
        return dict(zip(self.by_id, found, strict=True)) if found else {}

    @cached_property
    def regional(self) -> Regional | None:
        """Distinctness and grounding sample by sample; None where no photo has two regions."""
        if self.task == "image":
            return None
        return measure_regions(list(self.by_id.values()), classes=self.task == "objects")


def read_runs(paths: Sequence[Path]) -> list[MeasuredRun]:
    """Read runs with their baselines, in the order given, one that comes twice once.

    Args:
        paths: folders of runs (with results.json), or folders that hold such folders, as `benchmarks.all` makes them:
            then all runs below, in the order of their names.

    Returns:
        Runs of one name get the settings in which they differ, or else the name of their folder, into their labels.

    BenchmarkDataError: no run in a folder, or files that do not belong together.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _folders(path))
    runs = [_read(folder) for folder in folders]
    for suffix in (_changed, lambda run: run.folder.name, lambda run: run.folder.parent.name):
        labels = [(run.task, run.label) for run in runs]
        runs = [
            replace(run, label=f"{run.label} ({more})")
            if labels.count((run.task, run.label)) > 1
            and (more := suffix(run))
            and more != run.label
            else run
            for run in runs
        ]
    counts: dict[tuple[str, str], int] = {}
    for index, run in enumerate(runs):
        counts[run.task, run.label] = times = counts.get((run.task, run.label), 0) + 1
        if times > 1:
            runs[index] = replace(run, label=f"{run.label} #{times}")
    # Where several runs of a task have baselines, these carry the name of their run.
    owners = [run.task for run in runs if run.baselines]
    for index, run in enumerate(runs):
        if owners.count(run.task) > 1:
            below = [replace(one, label=f"{run.label}, {one.label}") for one in run.baselines]
            runs[index] = replace(run, baselines=tuple(below))
    return runs


def _changed(run: MeasuredRun) -> str:
    """The settings in which a run departs from what the model itself says."""
    given = {key: run.settings.get(key) for key in _TOLD}
    return ", ".join(
        key if value is True else f"{key} {value}"
        for key, value in given.items()
        if value is not None and value is not False and (key, value) != ("seed", 0)
    )


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
    predictions = tuple(read_predictions(folder / FILE))
    below = (_read(folder / summary["folder"]) for summary in results["baselines"].values())
    name = results["baseline"]
    label = results["label"] if name is None else f"baseline: {name}"
    run = MeasuredRun(label, folder, results, predictions, tuple(below))
    if list(run.by_id) != results["samples"]["ids"]:
        raise BenchmarkDataError(
            f"{folder}: {RESULTS_FILE} and {FILE} are of different runs: run again with --resume to score anew"
        )
    return run


@dataclass(frozen=True)
class Change:
    """How one metric changes from a first run to a second: second minus first, with bounds where there are any.

    Of pooled scores (BLEU, METEOR) and of runs that share only some samples, the mean over the `samples` that both
    have. `method` is "paired", "unpaired" or "none"; `note` says what a reader should know.
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
        """ "better", "worse", "within noise" or "not judged" (no interval), of the second run."""
        if self.low is None or self.high is None:
            return "not judged"
        if self.low <= 0.0 <= self.high:
            return "within noise"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"

    @property
    def signed_verdict(self) -> str:
        """The verdict with a sign that does not need colour."""
        return f"{_SIGNS[self.verdict]} {self.verdict}"


def changes(first: MeasuredRun, second: MeasuredRun, *, same_data: bool = True) -> list[Change]:
    """The change of every metric that both runs of a task have; `same_data` False takes all samples for different."""
    names = [name for name in second.metrics if name in first.metrics and name not in UNCOMPARED]
    return [_change(name, first, second, same_data) for name in names]


def _change(name: str, first: MeasuredRun, second: MeasuredRun, same_data: bool) -> Change:
    higher = bool(second.metrics[name]["higher_is_better"])
    made = [run.metrics[name]["made"] for run in (first, second)]
    by_sample = bool(first.scores(name) and second.scores(name))
    plain = second.metrics[name]["value"] - first.metrics[name]["value"]
    if by_sample and made[0] != made[1]:
        note = f"made differently: {made[0]} and {made[1]}"
        return Change(name, plain, None, None, NONE, 0, higher, note)
    if same_data:
        found = _by_sample(name, first, second) if by_sample else _whole(name, first, second)
        if found is not None:
            interval, samples, note = found
            ends = (interval.low, interval.high)
            low, high = ends if math.isfinite(sum(ends)) else (None, None)
            return Change(name, interval.value, low, high, PAIRED, samples, higher, note)
    one, other = (_bounds(run.metrics[name]) for run in (first, second))
    if one is None or other is None:
        note = "no interval: nothing to judge it by"
        return Change(name, plain, None, None, NONE, 0, higher, note)
    note = "the two intervals joined, as if the samples were different"
    return Change(name, *join_intervals(one, other), UNPAIRED, 0, higher, note)


Paired = tuple[Interval, int, str]
"""A paired difference, how many samples it rests on, and a note."""


def _by_sample(name: str, first: MeasuredRun, second: MeasuredRun) -> Paired | None:
    """Over the samples that both runs answered."""
    ours, theirs = second.scores(name), first.scores(name)
    ids = [id_ for id_ in ours if id_ in theirs and _same_region(id_, first, second)]
    if not ids:
        return None
    # Scores by sample are kept with six digits.
    mean, value = float(np.mean(list(ours.values()))), second.metrics[name]["value"]
    pooled = not math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-5)
    notes = ["difference of the samples' means"] if pooled else []
    if len(ids) < max(len(ours), len(theirs)):
        notes.append(f"over the {len(ids)} samples that both have")
    if any(first.by_id[id_].references != second.by_id[id_].references for id_ in ids):
        notes.append("scored against other references")
    return _difference(theirs, ours, ids, second, "; ".join(notes))


def _difference(
    theirs: Mapping[str, float],
    ours: Mapping[str, float],
    ids: Sequence[str],
    run: MeasuredRun,
    note: str = "",
) -> Paired:
    photos = [run.by_id[id_].photo for id_ in ids]
    before, after = ([scores[id_] for id_ in ids] for scores in (theirs, ours))
    return bootstrap_difference(before, after, photos, **run.how), len(ids), note


def _same_region(id_: str, first: MeasuredRun, second: MeasuredRun) -> bool:
    one, other = first.by_id[id_], second.by_id[id_]
    return one.photo == other.photo and one.region == other.region


def _whole(name: str, first: MeasuredRun, second: MeasuredRun) -> Paired | None:
    """Of scores that results.json has no samples of; None where they cannot be paired."""
    keys = [
        [(p.id, p.photo, p.references, p.caption is None) for p in run.predictions]
        for run in (first, second)
    ]
    if keys[0] != keys[1]:
        return None
    if name == "mAP (stem-F)":
        return _dense_map(first, second)
    if name == "object_hits_but_person":
        theirs, ours = first.scores("object_hits"), second.scores("object_hits")
        kept = [id_ for id_ in ours if second.by_id[id_].references[0] != PERSON]
        return _difference(theirs, ours, kept, second) if kept else None
    before, after = first.regional, second.regional
    if before is None or after is None:
        return None
    if name.endswith(("_margin", "_wins")):
        column = "margins" if name.endswith("_margin") else "wins"
        theirs, ours = getattr(before, column), getattr(after, column)
        if theirs.keys() != ours.keys() or not ours:
            return None
        return _difference(theirs, ours, list(ours), second)
    if name != "repeated_pairs":
        return None
    one, other = before.pairs, after.pairs
    if {p: of for p, (_, of) in one.items()} != {p: of for p, (_, of) in other.items()}:
        return None
    gains = [100.0 * (other[photo][0] - one[photo][0]) for photo in other]
    found = bootstrap_ratio(gains, [of for _, of in other.values()], list(other), **second.how)
    return found, len(second.by_id), ""


def _dense_map(first: MeasuredRun, second: MeasuredRun) -> Paired:
    """The mAP over the same ground truths, measured anew: results.json has only its value."""
    with text_measure("stem-F") as measure:
        (_, theirs), (photos, ours) = (
            dense_matches(run.predictions, measure) for run in (first, second)
        )

    def gain(often: NDArray[np.int64]) -> float:
        after, before = (summarize(one, name="stem-F", weights=often) for one in (ours, theirs))
        return after.value - before.value

    rounds = min(second.how["rounds"], MAP_ROUNDS)
    found = bootstrap_statistic(gain, photos, rounds=rounds, seed=second.how["seed"])
    return found, len(second.by_id), f"{rounds} resamples"


def join_intervals(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Difference of two independent values, second minus first, each given as (value, low, high)."""
    difference = second[0] - first[0]
    below = math.hypot(second[0] - second[1], first[2] - first[0])
    above = math.hypot(second[2] - second[0], first[0] - first[1])
    return difference, difference - below, difference + above


def _bounds(score: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """(value, low, high) of a score in results.json; of a pooled one, of the mean of its samples."""
    interval = score["interval"] or score.get("mean_of_samples")
    if interval is None or interval["low"] is None or interval["high"] is None:
        return None
    return interval["value"], interval["low"], interval["high"]


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of the terminal's table, without those that say little."""
    there = list(dict.fromkeys(metrics))
    first = [name for name in SHOWN if name in there]
    return first + [
        n for n in there if n not in SHOWN and (n not in HIDDEN or n == "unique_captions")
    ]


def figure(value: float, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """A value with one digit, and with its bounds if it has them; never -0.0."""
    text = f"{value:+z.1f}" if signed else f"{value:z.1f}"
    return text if low is None or high is None else f"{text} ({low:z.1f} to {high:z.1f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Lay finished runs side by side: scores, differences, what is larger than noise.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN", help="folder of a run, or one that holds such folders; the first"
        " run of a task is what others are compared with")  # fmt: skip
    add("--baselines", action="store_true", help="also the baselines of each run")
    add("--allow-different-data", action="store_true", help="compare all the same, unpaired")
    add("--json", action="store_true", help="print JSON instead of Markdown tables")
    return run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    runs = read_runs(arguments.run)
    if arguments.baselines:
        runs = [one for run in runs for one in (run, *run.baselines)]
    compared = compare(runs, allow_different_data=arguments.allow_different_data)
    text = json.dumps(compared, indent=2, ensure_ascii=False) + "\n"
    sys.stdout.write(text if arguments.json else markdown(compared))


def compare(
    runs: Sequence[MeasuredRun], *, allow_different_data: bool = False
) -> dict[str, dict[str, Any]]:
    """Compare runs, task by task: each with the first of its task. Plain JSON values.

    Returns:
        By task: "runs" (label -> metrics with intervals, data, samples), "differences" (a list with "run", "against",
        "same_data", "changes"), "published" rows with their "sources" and the mark they carry.

    OptionError: no task has two runs, or runs of one task are on different data (unless that is allowed: their
        difference is then unpaired).
    """
    tasks = {name: [run for run in runs if run.task == name] for name in TASK_NAMES}
    if all(len(members) < 2 for members in tasks.values()):
        given = ", ".join(f"{run.label} ({run.task})" for run in runs) or "none"
        raise OptionError(
            f"nothing to compare, given: {given}. Give two runs of one task, or --baselines for those of a run"
        )
    groups = {name: members for name, members in tasks.items() if members}
    for first, *others in groups.values():
        for run in others if not allow_different_data else ():
            _require_same_data(first, run)
    return {name: _compared(name, members) for name, members in groups.items()}


def _require_same_data(first: MeasuredRun, run: MeasuredRun) -> None:
    for kind, now in run.data.items():
        then = first.data.get(kind)
        if now != then:
            raise OptionError(
                f"{first.label} and {run.label} ({run.task}) are of different data: the sha256 of {kind} is"
                f" {str(then)[:12]} and {str(now)[:12]}. Figures on different data say nothing about models;"
                " --allow-different-data compares them all the same, unpaired"
            )


def _compared(task: str, runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    first, *others = runs
    differences = []
    for run in others:
        same = run.data == first.data
        found = {one.metric: one for one in changes(first, run, same_data=same)}
        listed = [
            asdict(found[name]) | {"verdict": found[name].verdict} for name in in_order(found)
        ]
        differences.append(
            {"run": run.label, "against": first.label, "same_data": same, "changes": listed}
        )
    rows = published_rows(task)
    sources = {key: SOURCES[key] for key in sorted({row.source for row in rows})}
    published = {"mark": MARK, "sources": sources, "rows": [asdict(row) for row in rows]}
    told = {
        run.label: {
            "data": run.data,
            **{key: run.results["data"][key] for key in ("samples", "photos")},
            "metrics": {n: {k: score[k] for k in ("value", "interval", "made")} for n, score in run.metrics.items()},
        }
        for run in runs
    }  # fmt: skip
    return {"runs": told, "differences": differences, "published": published}


def markdown(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """What `compare` found: scores, differences and published rows of each task."""
    return "\n".join(_task_markdown(task, found) for task, found in compared.items())


def _task_markdown(task: str, found: Mapping[str, Any]) -> str:
    runs = found["runs"]
    names = in_order(name for run in runs.values() for name in run["metrics"])
    rows = [
        [NAMES.get(name, name), *(with_interval(run["metrics"].get(name)) for run in runs.values())]
        for name in names
    ]
    text = f"## {task_named(task).title}\n\n{_table(['metric', *runs], rows)}"
    if "cider" in names:
        text += f"\n{CIDER_WARNING}\n"
    if len({json.dumps(run["data"], sort_keys=True) for run in runs.values()}) > 1:
        text += "\nDifferent data: figures side by side, not like with like.\n"
    if found["differences"]:
        text += f"\n{_differences_markdown(found['differences'])}"
    if found["published"]["rows"]:
        head, *body = published_table(task)
        sources = [f"{key}: {one}\n" for key, one in found["published"]["sources"].items()]
        shown = _table([NAMES.get(name, name) for name in head], body)
        text += f"\n{MARK.capitalize()}:\n\n{shown}\n{''.join(sources)}"
    return text


def _differences_markdown(differences: Sequence[Mapping[str, Any]]) -> str:
    notes: dict[str, int] = {}
    head = ["metric"]
    columns: list[dict[str, str]] = []
    for difference in differences:
        kind = "" if difference["same_data"] else ", unpaired: different data"
        head.append(f"{difference['run']} minus {difference['against']}{kind}")
        columns.append({})
        for values in difference["changes"]:
            change = Change(**{key: value for key, value in values.items() if key != "verdict"})
            words = figure(change.value, change.low, change.high, signed=True)
            mark = f" [{notes.setdefault(change.note, len(notes) + 1)}]" if change.note else ""
            columns[-1][change.metric] = f"{words} {change.signed_verdict}{mark}"
    metrics = in_order(name for column in columns for name in column)
    rows = [[NAMES.get(n, n), *(column.get(n, "") for column in columns)] for n in metrics]
    text = (
        "Differences, 95 % intervals over photos; larger than noise (better, worse) where the interval leaves out zero."
        f" Of many comparisons, one in twenty does so by chance.\n\n{_table(head, rows)}"
    )
    text += "".join(f"\n[{index}] {note}" for note, index in notes.items())
    return text + ("\n" if notes else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    sys.exit(main())
