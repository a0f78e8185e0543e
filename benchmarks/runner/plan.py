"""From settings to finished runs: reads data, makes jobs, asks them together, scores them.

Knows: the order of the work, which runs can share a model and its backbone passes, what may be resumed.
Does NOT know: how anything of it is done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.captioner import Captioner, LoadModel
from benchmarks.readers import BenchmarkDataError
from benchmarks.runner.answerers import BASELINES, Answerer, ByModel, ClipCls, Setting
from benchmarks.runner.lock import folder_lock
from benchmarks.runner.loop import Job, run_jobs
from benchmarks.runner.predictions import FILE, PredictionLog
from benchmarks.runner.provenance import model_fingerprint, settings_json
from benchmarks.runner.results import RunRecord, write_results
from benchmarks.runner.scoring import Scorer, check_metric_names
from benchmarks.runner.settings import RunSettings, resized, tuned
from benchmarks.tasks import PhotoFolder, Reading, ReadOptions, task_named
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.files import file_sha256, read_json, write_json

SETTINGS_FILE, TIMES_FILE, BASELINE_FOLDER = "settings.json", "run.json", "baselines"


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


def execute(runs: Sequence[Run], *, load_model: LoadModel, resume: bool = False) -> list[Outcome]:
    """Do all runs.

    Runs of one model, input size, device and batch size share its weights and every backbone pass.

    Args:
        runs: in the order of the outcomes; no two in one folder.
        load_model: makes a model from (name, device).
        resume: go on with what the folders hold; without it, a folder that holds predictions is refused.

    Raises:
        OptionError: a folder holds predictions of another run, another process writes into it, or two runs have one.
        BenchmarkDataError: a data file or, in a strict run, a row of it cannot be used.

    Example:
        >>> execute([Run("mini", settings, Path("out"))], load_model=load_pretrained)  # doctest: +SKIP
    """
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise OptionError("two runs have the same folder: give each its own name")
    for run in runs:
        _check_names(run.settings)
    readings = [_read(run.settings) for run in runs]
    outcomes: dict[int, Outcome] = {}
    groups: dict[Any, list[int]] = {}
    for index, run in enumerate(runs):
        settings = run.settings
        key = (settings.model, settings.size, settings.device, settings.batch)
        groups.setdefault(key, []).append(index)
    with ExitStack() as stack:
        # Opened first: a Java that was asked for and is not there is known before an hour of captioning.
        opened = _scorers(stack, [run.settings.java for run in runs])
        for run in runs:
            opened[run.settings.java].prepare(run.settings)
        for run in runs:
            stack.enter_context(folder_lock(run.folder))
        for (name, size, device, batch), members in groups.items():
            model = resized(load_model(name, device), size)
            own = model_fingerprint(model)
            made = {
                index: _start(runs[index], readings[index], model, own, load_model, resume)
                for index in members
            }
            started = time.time()
            jobs = [part.job for index in members for part in made[index]]
            encoded = run_jobs(jobs, model, batch=batch)
            for index in members:
                run = runs[index]
                _note_times(run, started, encoded)
                scorer = opened[run.settings.java]
                outcomes[index] = _finish(run, readings[index], made[index], scorer)
    return [outcomes[index] for index in range(len(runs))]


@dataclass(frozen=True)
class _Prepared:
    """The model's or a baseline's part of a run."""

    label: str
    baseline: str | None
    folder: Path
    job: Job
    model: dict[str, Any]
    data: dict[str, Any]


def _scorers(stack: ExitStack, wanted: Sequence[str]) -> dict[str, Scorer]:
    """A scorer for each of "yes", "no" and "auto": "yes" and "auto" share one, and with it one METEOR process."""
    official = [java for java in dict.fromkeys(wanted) if java != "no"]
    opened = {"no": stack.enter_context(Scorer("no"))} if "no" in wanted else {}
    if official:
        scorer = stack.enter_context(Scorer("yes" if "yes" in official else "auto"))
        opened |= dict.fromkeys(official, scorer)
    return opened


def _check_names(settings: RunSettings) -> None:
    """Misspelt names are refused before a model is loaded."""
    task_named(settings.task)
    check_metric_names(settings.metrics)
    for name in settings.baselines:
        if name not in BASELINES:
            raise UnknownNameError.among("baseline", name, BASELINES.names())
    if settings.task != "image" and settings.references is not None:
        raise OptionError(f"--references belongs to image captioning, not to {settings.task}")
    if settings.task != "dense" and settings.merge_references:
        raise OptionError(f"--merge-references belongs to dense captioning, not {settings.task}")


def _read(settings: RunSettings) -> Reading:
    options = ReadOptions(
        references=None if settings.references is None else Path(settings.references),
        merge_references=settings.merge_references,
    )
    photos = PhotoFolder(Path(settings.images))
    reading = task_named(settings.task).read(Path(settings.data), photos, options)
    if settings.strict:
        reading.refuse_skipped(settings.data)
    return reading


def _start(
    run: Run,
    reading: Reading,
    base: Captioner,
    own: dict[str, Any],
    load_model: LoadModel,
    resume: bool,
) -> list[_Prepared]:
    """The jobs of a run, each with its log opened and its settings checked against those of the folder.

    `own` is the fingerprint of `base`.
    """
    settings = run.settings
    model = tuned(base, settings)
    setting = Setting(model, settings, load_model)
    answerers: dict[str | None, Answerer] = {None: ByModel(model, settings, crop=settings.crop)}
    for name in dict.fromkeys(settings.baselines):
        answerers[name] = BASELINES.get(name)(setting)
    fingerprint = own | {"settings": settings_json(model)}
    data = _data(settings, reading)
    prepared = []
    for baseline, answerer in answerers.items():
        folder = run.folder if baseline is None else run.folder / BASELINE_FOLDER / baseline
        samples = answerer.prepare(reading.first(settings.limit).samples)
        if not samples:
            raise BenchmarkDataError(
                f"{settings.data} has no sample for the baseline {baseline!r} (the oracle needs two references):"
                " leave it out"
            )
        clip = settings.clip_model if baseline == "clip" else None
        of = fingerprint
        if isinstance(answerer, ClipCls):
            other = answerer.model
            of = model_fingerprint(other) | {"settings": settings_json(other)}
        deciding = replace(settings, clip_model=clip).deciding() | {"baseline": baseline}
        _claim(folder, {"settings": deciding, "model": of, "data": data["sha256"]}, resume)
        job = Job(
            samples, Path(settings.images), answerer, PredictionLog(folder / FILE), settings.strict
        )
        label = run.name if baseline is None else baseline
        prepared.append(_Prepared(label, baseline, folder, job, of, data))
    return prepared


def _data(settings: RunSettings, reading: Reading) -> dict[str, Any]:
    files = {"data": settings.data, "references": settings.references}
    return {
        "sha256": {
            key: None if path is None else file_sha256(Path(path)) for key, path in files.items()
        },
        "samples_in_file": len(reading.samples),
    }


def _claim(folder: Path, deciding: dict[str, Any], resume: bool) -> None:
    """Take a folder for a run: refuse one that holds another's predictions, or any without `resume`."""
    text = json.dumps(deciding, sort_keys=True, default=str)
    mine = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), **json.loads(text)}
    path = folder / SETTINGS_FILE
    if (folder / FILE).exists() or path.exists():
        if not resume:
            raise OptionError(
                f"{folder} holds predictions of an earlier run: --resume goes on with them, another --out starts anew"
            )
        theirs = read_json(path)
        if theirs.get("fingerprint") != mine["fingerprint"]:
            raise OptionError(
                f"{folder} holds a run with other settings ({', '.join(_differences(theirs, mine))}): choose another"
                " --out, or the settings of then"
            )
    write_json(path, mine)


def _differences(theirs: Any, mine: Any, at: str = "") -> list[str]:
    """The keys, with dots, at which two JSON values differ."""
    if not (isinstance(theirs, dict) and isinstance(mine, dict)):
        return [] if theirs == mine else [f"{at}: {theirs!r:.40} then, {mine!r:.40} now"]
    keys = [key for key in {**theirs, **mine} if key != "fingerprint"]
    return [
        found
        for key in keys
        for found in _differences(theirs.get(key), mine.get(key), f"{at}.{key}" if at else key)
    ]


def _finish(run: Run, reading: Reading, prepared: Sequence[_Prepared], scorer: Scorer) -> Outcome:
    """Score the model's part and every baseline's; write results.json in each folder."""
    written: dict[str | None, dict[str, Any]] = {}
    # Baselines first: the model's file sums them up.
    for part in sorted(prepared, key=lambda one: one.baseline is None):
        record = RunRecord(
            label=part.label,
            baseline=part.baseline,
            settings=run.settings,
            folder=part.folder,
            model=part.model,
            data=part.data,
            skipped=reading.skipped,
        )
        below = {name: result for name, result in written.items() if name is not None}
        written[part.baseline] = write_results(
            record, scorer, below if part.baseline is None else {}
        )
    results = written.pop(None)
    order = [part.baseline for part in prepared if part.baseline is not None]
    return Outcome(run, results, {name: written[name] for name in order})


def _note_times(run: Run, started: float, encoded: int) -> None:
    """Times go into a file of their own, the only one that differs between two equal runs."""
    write_json(
        run.folder / TIMES_FILE,
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(time.time() - started, 1),
            "photos_through_the_backbone": encoded,
            "note": "of all runs that shared the model, and of this session only where a run was resumed",
        },
    )
