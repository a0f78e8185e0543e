"""Finished runs side by side, the first of a task against the others, with what the authors published: `python -m
benchmarks.compare RUN RUN`; photos are resampled for both runs together.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, scoring
from benchmarks.answerers import FILE, read_predictions
from benchmarks.command import CIDER_WARNING, figure, markdown_table, with_interval
from benchmarks.data import TASK_NAMES, BenchmarkDataError, task_named
from benchmarks.metrics.regions import dense_map
from benchmarks.run import BASELINE_FOLDER, FORMAT, RESULTS_FILE, VERSION, in_order
from benchmarks.scoring import MAP_ROUNDS, Interval, dense_matches, stem_f_measure
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import read_json

NAMES = {
    "cider": "CIDEr", "meteor": "METEOR", "stem_f": "stem-F", "rouge_l": "ROUGE-L", "spice": "SPICE",
    "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4",
    "grounding_margin": "grounding margin", "grounding_wins": "grounding wins, %",
    "repeated_pairs": "repeated pairs, % (lower is better)",
    "object_hits": "objects named, %", "object_hits_but_person": "objects named but people, %",
    "object_margin": "object margin, %", "object_wins": "object wins, %",
    "cider_one_reference": "CIDEr, one reference each", "rouge_l_one_reference": "ROUGE-L, one reference each",
    "bleu4_one_reference": "BLEU-4, one reference each",
    "clip_s": "CLIP-S", "ref_clip_s": "RefCLIP-S", "pac_s": "PAC-S", "ref_pac_s": "RefPAC-S",
    "clip_text_cosine": "best text cosine (CLIP)", "pac_text_cosine": "best text cosine (PAC), the tables' P",
}  # fmt: skip
DIFFERENCES = (
    "Differences, 95 % intervals over photos, resampled for both runs together; larger than noise (better, worse) where"
    " the interval leaves out zero. Of many comparisons, one in twenty does so by chance."
)
SIGNS = {"better": "\u25b2", "worse": "\u25bc", "within noise": "\u2248", "not judged": "\u2013"}


class MeasuredRun:
    """A run as its folder holds it: results.json, the predictions (`by_id`: those with a caption), its `baselines`.

    `metrics` are the scores of the whole set, `data` the sha256 of the files, `how` rounds and seed of its bootstrap.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, _read_results(folder / RESULTS_FILE)
        self.task: str = self.results["task"]
        self.settings: dict[str, Any] = self.results["settings"]
        self.metrics: dict[str, dict[str, Any]] = self.results["metrics"]
        self.data: dict[str, str | None] = self.results["data"]["sha256"]
        self.how = {key: int(self.settings[key]) for key in ("rounds", "seed")}
        self.predictions = tuple(read_predictions(folder / FILE))
        self.by_id = {p.id: p for p in self.predictions if p.caption is not None}
        name = self.results["baseline"]
        self.label = self.results["label"] if name is None else f"baseline: {name}"
        below = self.results["baselines"].values()
        self.baselines = [MeasuredRun(folder / summary["folder"]) for summary in below]
        if list(self.by_id) != self.results["samples"]["ids"]:
            told = f"{folder}: {RESULTS_FILE} and {FILE} are of different runs"
            raise BenchmarkDataError(f"{told}: run again with --resume to score anew")

    def scores(self, metric: str) -> dict[str, float]:
        """The score of each answered sample by its id; empty where the metric has none."""
        found = self.results["samples"]["scores"].get(metric) or [None] * len(self.by_id)
        pairs = zip(self.by_id, found, strict=True)
        return {id_: number for id_, number in pairs if number is not None}


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = read_json(path)
    except CheckpointError as error:
        raise BenchmarkDataError(str(error)) from error
    known = isinstance(results, dict) and results.get("format") == FORMAT
    if not known or results.get("version") != VERSION:
        told = f"{path} is no {FORMAT} of version {VERSION}"
        raise BenchmarkDataError(f"{told}: run the benchmark again with this version")
    return dict(results)


def read_runs(paths: Sequence[Path]) -> list[MeasuredRun]:
    """Read runs with their baselines, in the order given, one that comes twice once.

    `paths` are folders of runs, or hold such folders: then all runs below, in the order of their names. Runs of one
    task and name get their folders into their labels. BenchmarkDataError: no run in a folder, or files that do not fit.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _folders(path))
    runs = [MeasuredRun(folder) for folder in folders]
    names, above = [(run.task, run.label) for run in runs], os.path.commonpath(folders)
    owners = [run.task for run in runs if run.baselines]
    for run in runs:
        if names.count((run.task, run.label)) > 1:
            run.label += f" ({run.folder.relative_to(above).as_posix()})"
        # Where several runs of a task have baselines, these carry the name of their run.
        for one in run.baselines if owners.count(run.task) > 1 else ():
            one.label = f"{run.label}, {one.label}"
    return runs


def _folders(path: Path) -> list[Path]:
    if (path / RESULTS_FILE).is_file():
        return [path]
    found = sorted(file.parent for file in path.rglob(RESULTS_FILE)) if path.is_dir() else []
    runs = [folder for folder in found if BASELINE_FOLDER not in folder.relative_to(path).parts]
    if not runs:
        told = f"{path} holds no {RESULTS_FILE}, nor does a folder in it"
        raise BenchmarkDataError(f"{told}: give what --out of a benchmark command named")
    return runs


@dataclass(frozen=True)
class Change:
    """Second run minus first, with bounds where there are any; of pooled scores, the mean over samples of both."""

    metric: str
    value: float
    low: float | None
    high: float | None
    higher_is_better: bool
    note: str = ""

    @property
    def verdict(self) -> str:
        """Of the second run; "not judged" without an interval."""
        if self.low is None or self.high is None:
            return "not judged"
        if self.low <= 0.0 <= self.high:
            return "within noise"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"

    @property
    def figure(self) -> str:
        """The change with its bounds."""
        return figure(self.value, self.low, self.high, signed=True)

    @property
    def signed_verdict(self) -> str:
        """The verdict with a sign that does not need colour."""
        return f"{SIGNS[self.verdict]} {self.verdict}"


def changes(first: MeasuredRun, second: MeasuredRun) -> list[Change]:
    """The change of every metric that both runs of a task have, in the order of tables."""
    names = in_order(name for name in second.metrics if name in first.metrics)
    return [_change(name, first, second) for name in names]


def _change(name: str, first: MeasuredRun, second: MeasuredRun) -> Change:
    higher = bool(second.metrics[name]["higher_is_better"])
    made = [run.metrics[name]["made"] for run in (first, second)]
    by_sample = bool(first.scores(name) and second.scores(name))
    if by_sample and made[0] != made[1]:
        found, note = None, f"made differently: {made[0]} and {made[1]}"
    else:
        found = _by_sample(name, first, second) if by_sample else _whole(name, first, second)
        note = "not of the same samples: nothing to judge it by"
    if found is None:
        plain = second.metrics[name]["value"] - first.metrics[name]["value"]
        return Change(name, plain, None, None, higher, note)
    interval, note = found
    ends = (interval.low, interval.high)
    low, high = ends if math.isfinite(sum(ends)) else (None, None)
    return Change(name, interval.value, low, high, higher, note)


def _by_sample(name: str, first: MeasuredRun, second: MeasuredRun) -> tuple[Interval, str] | None:
    """The paired difference over the samples that both runs answered, and a note."""
    ours, theirs = second.scores(name), first.scores(name)
    ids = [id_ for id_ in ours if id_ in theirs and _same_region(id_, first, second)]
    among = name.endswith(("_margin", "_wins"))  # what a sample gets depends on the photo's others
    if not ids or (among and not len(ids) == len(ours) == len(theirs)):
        return None
    # Scores by sample are kept with six digits.
    mean, value = float(np.mean(list(ours.values()))), second.metrics[name]["value"]
    pooled = not math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-5)
    notes = ["difference of the samples' means"] if pooled else []
    if len(ids) < max(len(ours), len(theirs)):
        notes.append(f"over the {len(ids)} samples that both have")
    if any(first.by_id[id_].references != second.by_id[id_].references for id_ in ids):
        notes.append("scored against other references")
    photos = [second.by_id[id_].photo for id_ in ids]
    gains = [ours[id_] - theirs[id_] for id_ in ids]
    return scoring.bootstrap_mean(gains, photos, **second.how), "; ".join(notes)


def _same_region(id_: str, first: MeasuredRun, second: MeasuredRun) -> bool:
    one, other = first.by_id[id_], second.by_id[id_]
    return one.photo == other.photo and one.region == other.region


def _whole(name: str, first: MeasuredRun, second: MeasuredRun) -> tuple[Interval, str] | None:
    """Of scores that results.json has no samples of; None where they cannot be paired."""
    asked = lambda p: (p.id, p.photo, p.references, p.caption is None)  # noqa: E731
    if [*map(asked, first.predictions)] != [*map(asked, second.predictions)]:
        return None
    if name == "mAP (stem-F)":
        return _dense_map(first, second)
    one, other = (run.results["samples"]["pairs"] for run in (first, second))
    totals = [of for _, of in other.values()]
    if name != "repeated_pairs" or [of for _, of in one.values()] != totals:
        return None
    gains = [100.0 * (other[photo][0] - one[photo][0]) for photo in other]
    return scoring.bootstrap_ratio(gains, totals, list(other), **second.how), ""


def _dense_map(first: MeasuredRun, second: MeasuredRun) -> tuple[Interval, str]:
    """The mAP over the same ground truths, measured anew: results.json has only its value."""
    _, theirs = dense_matches(first.predictions, stem_f_measure)
    photos, ours = dense_matches(second.predictions, stem_f_measure)

    gain = lambda often: dense_map(ours, often) - dense_map(theirs, often)  # noqa: E731
    rounds = min(second.how["rounds"], MAP_ROUNDS)
    found = scoring.bootstrap_statistic(gain, photos, rounds=rounds, seed=second.how["seed"])
    return found, f"{rounds} resamples"


MARK = "published, not measured here; other data"
SOURCES = {
    "A": "main comparison table (results-table.webp)",
    "B": "dense captioning table (dense-captioning/dense-table.webp); data not printed, agrees with VG v1.2 of A",
    "C": "trace captioning table (trace-captioning/trace-table.webp); agrees with the COCO traces of A",
    "D": "radar charts, best setting (radar-charts.webp); data not printed",
}
"""Pictures on the project page of Patch-ioner (branch gh-pages, static/images/)."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table (key of `SOURCES`), on the authors' data, splits and metric programs, x 100.

    "P" is the mean best text cosine in the space of PAC-S, which the tables call RefPAC-S (ours: `pac_text_cosine`).
    """

    source: str
    model: str
    task: str
    data: str
    values: dict[str, float]
    note: str = ""


@cache
def published_rows(task: str | None = None) -> tuple[PublishedRow, ...]:
    """All published rows of a task, or of all tasks."""
    text = Path(__file__).with_name("published.jsonl").read_text(encoding="utf-8")
    rows = (PublishedRow(**json.loads(line)) for line in text.splitlines())
    return tuple(row for row in rows if task in (None, row.task))


def published_table(task: str) -> tuple[list[str], list[list[str]], list[str]] | None:
    """Head and rows of a table of `published_rows`, and its sources; None where there are none."""
    rows = published_rows(task)
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    body = []
    for row in rows:
        values = [f"{row.values[name]:z.1f}" if name in row.values else "" for name in names]
        body.append([row.model, row.data, *values, row.source, row.note])
    head = ["model", "data", *(NAMES.get(name, name) for name in names), "source", "note"]
    sources = [f"{key}: {SOURCES[key]}" for key in dict.fromkeys(row.source for row in rows)]
    return (head, body, sources) if rows else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    told = "Lay finished runs side by side: scores, differences."
    parser = command.command_parser("compare", told)
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="folder of a run, or one that holds such"
        " folders; the first run of a task is what others are compared with")  # fmt: skip
    parser.add_argument("--baselines", action="store_true", help="also the baselines of each run")
    return command.run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    runs = read_runs(arguments.run)
    if arguments.baselines:
        runs = [one for run in runs for one in (run, *run.baselines)]
    sys.stdout.write(compare(runs))


def compare(runs: Sequence[MeasuredRun]) -> str:
    """Runs against the first of their task, beside published rows, as Markdown; OptionError: not to be compared."""
    tasks = {name: [run for run in runs if run.task == name] for name in TASK_NAMES}
    if all(len(members) < 2 for members in tasks.values()):
        given = ", ".join(f"{run.label} ({run.task})" for run in runs) or "none"
        remedy = "Give two runs of one task, or --baselines for those of a run"
        raise OptionError(f"nothing to compare, given: {given}. {remedy}")
    for first, *others in filter(None, tasks.values()):
        for run in others:
            if run.data != first.data:
                told = f"{first.label} and {run.label} ({run.task}) are of different data"
                hashes = f"by their sha256: {first.data} and {run.data}"
                raise OptionError(f"{told}, {hashes}. Such figures say nothing about models")
    return "\n".join(_compared(name, members) for name, members in tasks.items() if members)


def _compared(task: str, runs: Sequence[MeasuredRun]) -> str:
    names = in_order(name for run in runs for name in run.metrics)
    scores = [run.metrics for run in runs]
    rows = [[NAMES.get(n, n), *(with_interval(of.get(n)) for of in scores)] for n in names]
    head = ["metric", *(run.label for run in runs)]
    text = f"## {task_named(task).title}\n\n{markdown_table(head, rows)}"
    if "cider" in names:
        text += f"\n{CIDER_WARNING}\n"
    if len(runs) > 1:
        text += f"\n{_differences(*runs)}"
    if published := published_table(task):
        head, body, sources = published
        shown = markdown_table(head, body)
        text += f"\n{MARK.capitalize()}:\n\n{shown}\n" + "".join(f"{one}\n" for one in sources)
    return text


def _differences(first: MeasuredRun, *others: MeasuredRun) -> str:
    notes: dict[str, int] = {}
    columns = []
    for run in others:
        cells = {}
        for change in changes(first, run):
            mark = f" [{notes.setdefault(change.note, len(notes) + 1)}]" if change.note else ""
            cells[change.metric] = f"{change.figure} {change.signed_verdict}{mark}"
        columns.append(cells)
    metrics = in_order(name for cells in columns for name in cells)
    rows = [[NAMES.get(n, n), *(cells.get(n, "") for cells in columns)] for n in metrics]
    head = ["metric", *(f"{run.label} minus {first.label}" for run in others)]
    text = f"{DIFFERENCES}\n\n{markdown_table(head, rows)}"
    text += "".join(f"\n[{index}] {note}" for note, index in notes.items())
    return text + ("\n" if notes else "")


if __name__ == "__main__":
    sys.exit(main())
