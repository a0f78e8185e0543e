"""From settings to finished runs: reads data, asks models and baselines together, one backbone pass a photo, scores,
writes results.json, in which nothing depends on when it was made (run.json has the times); the command of one task.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import answerers
from benchmarks.answerers import FILE, Answer, Asked, Prediction, PredictionLog
from benchmarks.command import CIDER_WARNING, markdown_table, run_command, with_interval
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Sample, Task, task_named
from benchmarks.metrics import check_metric_names
from benchmarks.scoring import Scorer
from benchmarks.settings import BASELINES, RunSettings, parser_of, settings_of
from patchioner import Patchioner, __version__
from patchioner.base.errors import ImageError, OptionError, RegionError, UnknownNameError
from patchioner.base.files import differences, file_sha256, folder_lock, read_json, write_json
from patchioner.base.progress import progress
from patchioner.checkpoints import model_fingerprint

logger = logging.getLogger(__name__)

SETTINGS_FILE, TIMES_FILE, RESULTS_FILE = "settings.json", "run.json", "results.json"
BASELINE_FOLDER = "baselines"
FORMAT, VERSION = "patchioner-benchmark", 2
_NEEDS = ("nothing", "features", "photo")

Claims = dict[Path, tuple[Sample, ...]]


@dataclass(frozen=True)
class Run:
    """One run to do: its name in tables, its settings, its folder."""

    name: str
    settings: RunSettings
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """A finished run: what results.json holds, for the model and, by name, for each baseline."""

    run: Run
    results: dict[str, Any]
    baselines: dict[str, dict[str, Any]]


def load_pretrained(name: str, device: str) -> Patchioner:
    """Load a shipped model by name, or one from a folder, a YAML file or the hub."""
    return Patchioner.from_pretrained(name, device=device)


SHOWN = (
    "object_hits", "object_hits_but_person", "object_margin", "object_wins", "mAP", "mAP (stem-F)", "cider", "meteor",
    "stem_f", "rouge_l", "bleu4", "bleu1", "spice", "cider_one_reference", "grounding_margin", "grounding_wins",
    "repeated_pairs",
)  # fmt: skip
"""Metrics of the terminal table, in this order; further ones follow. results.json has all."""
HIDDEN = ("bleu2", "bleu3", "bleu4_one_reference", "rouge_l_one_reference")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of tables, without those that say little."""
    there = dict.fromkeys(metrics)
    first = [name for name in SHOWN if name in there]
    return first + [name for name in there if name not in (*SHOWN, *HIDDEN)]


_SHOWN_ROWS = 10
PACKAGES = [
    "torch", "timm", "numpy", "pillow", "tokenizers", "transformers", "open_clip_torch", "pycocoevalcap",
]  # fmt: skip


def versions() -> dict[str, str]:
    """Version of Python and of each package that takes part; those that are not installed are left out."""
    found = {"python": platform.python_version(), "patchioner": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine(device: str) -> dict[str, Any]:
    """What computes: processor family, cores, threads, system, and the accelerator where one is used."""
    found: dict[str, Any] = {
        "device": device, "architecture": platform.machine(), "system": platform.system(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    if device.startswith("cuda"):
        found["accelerator"] = torch.cuda.get_device_name(torch.device(device))
    return found


def execute(runs: Sequence[Run], *, resume: bool = False, load: Any = None) -> list[Outcome]:
    """Do all runs; those of one model, device and batch size share its weights and every backbone pass.

    With `resume` they go on with what their folders hold; `load` makes a model from (name, device). OptionError: a
    folder holds predictions of another run, another process writes into it, or two runs have one; BenchmarkDataError: a
    data file or, in a strict run, a row cannot be used.
    """
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise OptionError("two runs have the same folder: give each its own name")
    for run in runs:  # misspelt names are refused before a model is loaded
        check_metric_names(run.settings.metrics)
        for name in run.settings.baselines:
            if name not in BASELINES:
                raise UnknownNameError.among("baseline", name, BASELINES)
    readings = [_read(run.settings) for run in runs]
    load = load or load_pretrained
    outcomes: dict[int, Outcome] = {}
    groups: dict[Any, list[int]] = {}
    for index, of in enumerate(run.settings for run in runs):
        groups.setdefault((of.model, of.device, of.batch), []).append(index)
    with ExitStack() as stack:
        # Opened first: a Java that was asked for and is not there is known before an hour of captioning.
        wanted = dict.fromkeys(run.settings.java for run in runs)
        scorers = {java: stack.enter_context(Scorer(java)) for java in wanted}
        for run in runs:
            scorers[run.settings.java].prepare(run.settings)
        for run in runs:
            stack.enter_context(folder_lock(run.folder))
        for (name, device, batch), members in groups.items():
            model = load(name, device)
            own = model_fingerprint(model)
            parts = {i: _start(runs[i], readings[i], model, own, load, resume) for i in members}
            started = time.time()
            jobs = [part.job for index in members for part in parts[index]]
            encoded = run_jobs(jobs, model, batch=batch)
            for index in members:
                run = runs[index]
                _note_times(run.folder, started, encoded)
                results = partial(_results, run, readings[index], scorers[run.settings.java])
                # Baselines first: the model's file sums them up.
                below = {p.baseline: results(p, {}) for p in parts[index] if p.baseline}
                outcomes[index] = Outcome(run, results(parts[index][0], below), below)
    return [outcomes[index] for index in range(len(runs))]


def _read(settings: RunSettings) -> Reading:
    options = {"references": Path(settings.references)} if settings.references else {}
    photos = PhotoFolder(Path(settings.images))
    reading = task_named(settings.task).read(Path(settings.data), photos, **options)
    if settings.strict:
        reading.refuse_skipped(settings.data)
    return reading


class Job:
    """One answerer over its samples, by photo in the order of their names; what `log` holds is not asked again."""

    def __init__(
        self, samples: Sequence[Sample], images: Path, answerer: answerers.Answerer, log: PredictionLog, strict: bool
    ) -> None:  # fmt: skip
        groups: dict[Path, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(images / sample.photo, []).append(sample)
        self.groups: Claims = {path: tuple(groups[path]) for path in sorted(groups)}
        self.answerer, self.log, self.strict = answerer, log, strict
        self._position = 0
        log.check_order([sample for group in self.groups.values() for sample in group])

    def claim(self, photos: Sequence[Path]) -> Claims:
        """The samples of these photos, the next ones in order, unless all of them are in the log."""
        wanted = {path: self.groups[path] for path in photos if path in self.groups}
        count = sum(map(len, wanted.values()))
        if self._position + count <= len(self.log.ids):
            self._position += count
            return {}
        # Half a group: asked again as a whole, so that it is decoded in the same company as without the break.
        self.log.cut_to(self._position)
        self._position += count
        return wanted

    def predict(self, wanted: Claims, features: Mapping[Path, Any]) -> Iterator[Prediction]:
        """One prediction per sample, in order; `features` may hold the ImageError that came instead."""
        asked, broken = [], {}
        for path, samples in wanted.items():
            found = features.get(path)
            if isinstance(found, ImageError):
                broken[path] = [self._unanswered(samples[0], found)] * len(samples)
            else:
                asked.append(Asked(path, found, samples))
        answers = dict(zip((one.path for one in asked), self._ask(asked), strict=True)) | broken
        for path, samples in wanted.items():
            for sample, answer in zip(samples, answers[path], strict=True):
                yield Prediction.of(sample, answer)

    def _ask(self, asked: list[Asked]) -> list[list[Answer]]:
        """All answers in one batch; if something in it cannot be used, sample by sample."""
        try:
            return self.answerer.answer(asked) if asked else []
        except (RegionError, ImageError):
            return [[self._ask_one(one, sample) for sample in one.samples] for one in asked]

    def _ask_one(self, one: Asked, sample: Sample) -> Answer:
        try:
            return self.answerer.answer([Asked(one.path, one.features, (sample,))])[0][0]
        except (RegionError, ImageError) as error:
            return self._unanswered(sample, error)

    def _unanswered(self, sample: Sample, error: Exception) -> Answer:
        if self.strict:
            told = f"row {sample.row} ({sample.id}) cannot be captioned: {error}"
            raise BenchmarkDataError(f"{told}. Mend it, or run without --strict") from error
        logger.warning("row %d (%s) is skipped: %s", sample.row, sample.id, error)
        return Answer(None, skipped=str(error))


def run_jobs(jobs: Sequence[Job], model: Patchioner, *, batch: int) -> int:
    """Ask all jobs about all their photos, `batch` at a time; the number of photos that went through the backbone."""
    photos = sorted({path for job in jobs for path in job.groups})
    bar = progress(photos, description="photos", total=len(photos), unit="photo")
    encoded = 0
    while group := list(islice(bar, batch)):
        claims = [(job, wanted) for job in jobs if (wanted := job.claim(group))]
        needs: dict[Path, str] = {}
        for job, wanted in claims:
            for path in wanted:
                known = needs.get(path, "nothing")
                needs[path] = max(known, job.answerer.needs, key=_NEEDS.index)
        features: dict[Path, Any] = {}
        for path, need in needs.items():
            if need == "nothing":
                continue
            try:
                features[path] = model.encode(str(path), keep_image=need == "photo" or None)
                encoded += 1
            except ImageError as error:
                features[path] = error
        for job, wanted in claims:
            seen = {} if job.answerer.needs == "nothing" else features
            job.log.append(list(job.predict(wanted, seen)))
    return encoded


@dataclass(frozen=True)
class _Part:
    """The model's or a baseline's part of a run."""

    baseline: str | None
    folder: Path
    job: Job
    model: dict[str, Any]
    data: dict[str, Any]


def _start(run: Run, reading: Reading, model: Patchioner, own: dict[str, Any], load: Any, resume: bool) -> list[_Part]:
    """The jobs of a run, each with its log opened and its settings checked; `own` is the fingerprint of `model`."""
    settings = run.settings
    own_answers = answerers.by_model(model, settings, crop=settings.crop)
    asked: dict[str | None, answerers.Answerer] = {None: own_answers}
    for key in settings.baselines:
        asked[key] = answerers.baseline(key, model, settings, load)
    files = {"data": settings.data, "references": settings.references}
    hashes = {key: None if path is None else file_sha256(path) for key, path in files.items()}
    data = {"sha256": hashes, "samples_in_file": len(reading.samples)}
    parts = []
    for name, answerer in asked.items():
        folder = run.folder if name is None else run.folder / BASELINE_FOLDER / name
        samples = answerer.prepare(reading.samples[: settings.limit])
        if not samples:
            told = f"{settings.data} has no sample for the baseline {name!r}"
            raise BenchmarkDataError(f"{told} (the oracle needs two references): leave it out")
        of = own | {"settings": dict(model.settings.to_json())}
        if (other := answerer.other) is not None:
            of = model_fingerprint(other) | {"settings": dict(other.settings.to_json())}
        clip = settings.clip_model if name == "clip" else None
        deciding = replace(settings, clip_model=clip).deciding() | {"baseline": name}
        _claim(folder, {"settings": deciding, "model": of, "data": hashes}, resume)
        log = PredictionLog(folder / FILE)
        job = Job(samples, Path(settings.images), answerer, log, settings.strict)
        parts.append(_Part(name, folder, job, of, data))
    return parts


def _claim(folder: Path, deciding: dict[str, Any], resume: bool) -> None:
    """Take a folder for a run: refuse one that holds another's predictions, or any without `resume`."""
    mine = json.loads(json.dumps(deciding, sort_keys=True, default=str))
    path = folder / SETTINGS_FILE
    if (folder / FILE).exists() or path.exists():
        if not resume:
            told = f"{folder} holds predictions of an earlier run"
            raise OptionError(f"{told}: --resume goes on with them, another --out starts anew")
        if changed := differences(read_json(path), mine):
            told = f"{folder} holds a run with other settings ({', '.join(changed)})"
            raise OptionError(f"{told}: choose another --out, or the settings of then")
    write_json(path, mine)


def _note_times(folder: Path, started: float, encoded: int) -> None:
    """Times go into a file of their own, the only one that differs between two equal runs."""
    note = "of all runs that shared the model, and of this session only where a run was resumed"
    times = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": round(time.time() - started, 1),
        "photos_through_the_backbone": encoded, "note": note,
    }  # fmt: skip
    write_json(folder / TIMES_FILE, times)


def _results(
    run: Run, reading: Reading, scorer: Scorer, part: _Part, below: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Score one part and write its results.json; `below` are the results of the run's baselines."""
    predictions = answerers.read_predictions(part.folder / FILE)
    scores = scorer.score(predictions, run.settings)
    said = [prediction for prediction in predictions if prediction.caption is not None]
    photos = len({prediction.photo for prediction in said})
    baselines = {
        name: {"folder": f"{BASELINE_FOLDER}/{name}", "samples": of["data"]["samples"], "metrics": of["metrics"]}
        for name, of in below.items()
    }  # fmt: skip
    silent = [prediction for prediction in predictions if prediction.caption is None]
    unanswered = [{"row": p.row, "where": p.id, "reason": p.skipped} for p in silent]
    by_sample = {
        name: [None if value is None else round(value, 6) for value in score.samples]
        for name, score in scores.items()
        if score.samples is not None
    }
    results: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "task": run.settings.task, "label": part.baseline or run.name,
        "baseline": part.baseline, "settings": asdict(run.settings), "model": part.model,
        "data": part.data | {"samples": len(said), "photos": photos},
        "versions": versions(), "machine": machine(run.settings.device),
        "metrics": {name: score.to_json() for name, score in scores.items()},
        "baselines": baselines,
        "skipped": {"malformed": [asdict(row) for row in reading.skipped], "unanswered": unanswered},
        # Columns of numbers, aligned with `ids`: the samples of predictions.jsonl that have a caption, in its order.
        "samples": {
            "ids": [prediction.id for prediction in said], "scores": by_sample,
            "pairs": next((score.pairs for score in scores.values() if score.pairs), {}),
        },
    }  # fmt: skip
    write_json(part.folder / RESULTS_FILE, results)
    return results


def run_task(name: str, argv: Sequence[str] | None = None) -> int:
    """The command of one task."""
    task = task_named(name)
    return run_command(parser_of(task), partial(_run_task, task), argv)


def _run_task(task: Task, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch) / "run"
        name = Path(arguments.model).name or arguments.model
        run = Run(name, settings_of(task, arguments), folder)
        outcomes = execute([run], resume=arguments.resume)
        if arguments.out is not None:
            write_reports(outcomes)
    sys.stdout.write(report(outcomes))
    if arguments.out is not None:
        told = "predictions.jsonl, results.json and report.html"
        sys.stdout.write(f"\n{told} are in {arguments.out}\n")


def report(outcomes: Sequence[Outcome]) -> str:
    """A table per task (runs and their baselines down), then the rows that were left out."""
    text = ""
    for name in dict.fromkeys(outcome.run.settings.task for outcome in outcomes):
        of_task = [outcome for outcome in outcomes if outcome.run.settings.task == name]
        rows: list[Mapping[str, Any]] = []
        for outcome in of_task:
            # With other runs beside it, baselines carry the run's name.
            owner = "" if len(of_task) == 1 else f"{outcome.run.name}, "
            rows.append(outcome.results)
            rows += [r | {"label": f"{owner}baseline: {n}"} for n, r in outcome.baselines.items()]
        gap = "\n" if text else ""
        text += f"{gap}## {task_named(name).title}\n\n{score_table(rows)}"
        if any("cider" in row["metrics"] for row in rows):
            text += f"\n{CIDER_WARNING}\n"
        text += "".join(map(_left_out, of_task))
    return text


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown table: runs down, metrics across, each with its interval over photos."""
    names = in_order(name for row in rows for name in row["metrics"])
    body = []
    for row in rows:
        cells = [with_interval(row["metrics"].get(name)) for name in names]
        body.append([row["label"], str(row["data"]["samples"]), *cells])
    return markdown_table(["run", "samples", *names], body)


def _left_out(outcome: Outcome) -> str:
    skipped = outcome.results["skipped"]
    rows = [*skipped["malformed"], *skipped["unanswered"]]
    if not rows:
        return ""
    shown = [f"  row {row['row']} ({row['where']}): {row['reason']}\n" for row in rows]
    more = len(rows) - _SHOWN_ROWS
    rest = f"  and {more} more, see results.json\n" if more > 0 else ""
    count = f"{len(rows)} row{'s' * (len(rows) != 1)}"
    return f"\n{outcome.run.name}: {count} left out\n{''.join(shown[:_SHOWN_ROWS])}{rest}"


def write_reports(outcomes: Sequence[Outcome], together: Path | None = None) -> None:
    """The HTML report of each run, in its folder; and in `together`, if given, one of all of them."""
    from benchmarks.report import REPORT_FILE, write_report  # it reads what runs have written

    folders = [outcome.run.folder for outcome in outcomes]
    wanted = [([folder], folder / REPORT_FILE) for folder in folders]
    if together is not None:
        wanted.append((folders, together))
    for members, path in wanted:
        for note in write_report(members, path):
            logger.warning("%s: %s", path, note)
