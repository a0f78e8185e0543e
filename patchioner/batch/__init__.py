"""Many photos, one resumable job: rows out, none lost, none doubled. Torch, Arrow and Ray are loaded where used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from patchioner.base.errors import CheckpointError, ImageError, OptionError, PatchionerError
from patchioner.base.files import check, differences, read_json, require_other, write_json
from patchioner.base.optional import asked_workers, on_ray, require
from patchioner.base.progress import meter
from patchioner.batch.exports import export
from patchioner.batch.rows import VERSION, Row, read_rows, run_folder, schema, write_rows
from patchioner.batch.sources import Photos, Reading, Sample, Source, open_source
from patchioner.batch.tasks import Asked, Captioner, Task, group_by_content
from patchioner.images import ImageSource, load_image

if TYPE_CHECKING:
    from patchioner.model import Patchioner

__all__ = ["Captioner", "Job", "Reading", "Report", "Row", "Task", "export", "read_rows", "run", "schema"]
_log = logging.getLogger(__name__)
_CPUS = 2  # of each worker of Ray: one encodes while the other decodes
_FORMAT, _VERSION = "patchioner-batch", 1  # of the manifest
_FILE = "_manifest.json"  # which readers of folders of Parquet pass over


@dataclass(frozen=True)
class Job:
    """What a batch is asked for; any number of processes may work on the same.

    The output is FILE.parquet, .jsonl or .csv, with its shards in FILE.run; or a folder, which gets Parquet shards.
    """

    source: str | Sequence[Any]  # see `patchioner.batch.sources.open_source`
    out: str
    model: str = "patchioner-mini"  # with device and bank: see `Patchioner.from_pretrained`
    device: str | None = None
    bank: str | None = None
    task: Task = field(default_factory=Task)
    reading: Reading = field(default_factory=Reading)
    shards: int | None = None  # of a new run; None puts 256 photos, or a tar, into each
    retry: bool = False  # ask again about photos of which rows failed; what had succeeded stays
    max_failures: int | None = None  # stop when more rows have failed

    def __post_init__(self) -> None:
        for name, kind in (("task", Task), ("reading", Reading)):
            if not isinstance(found := getattr(self, name), kind):
                raise OptionError(f"{name} is {found!r:.60}: give a batch.{kind.__name__}")
        check("int [1, inf) or None", self, "shards")
        check("int [0, inf) or None", self, "max_failures")

    def load(self) -> Patchioner:
        """The model."""
        from patchioner.model import Patchioner

        return Patchioner.from_pretrained(self.model, device=self.device, bank=self.bank)


@dataclass(frozen=True)
class Report:
    """What a job came to."""

    rows: int  # in its output, of all runs
    failed: Mapping[str, int]  # how many of them have an error, by its class
    photos: int  # that this run asked about
    regions: int  # of these, in rows
    seconds: float  # of this run, without loading the model
    stopped: str | None = None  # why it ended before its end
    left_out: Mapping[str, int] = field(default_factory=dict)  # what is no photo, by kind

    @property
    def status(self) -> int:
        """Exit status: 0 all well, 3 some rows failed, 1 nothing could be done."""
        failures = sum(self.failed.values())
        if self.stopped is None and not failures:
            return 0
        return 1 if failures == self.rows else 3


class TooManyFailuresError(Exception):
    """More rows have failed than are allowed."""


class Worker:
    """A process's share of a job."""

    def __init__(self, job: Job, model: Patchioner | None = None) -> None:
        self.job = job
        self.on_photo: Callable[[int], object] = lambda failures: None  # that rows have so far
        folder, suffix = run_folder(job.out)
        self.source = open_source(job.source, job.reading)  # what is cheap to refuse comes first
        is_photo = os.path.relpath(job.out, self.source.store.root) in self.source.sizes
        place = job.source if isinstance(job.source, str) else None
        require_other(job.out, place, job.reading.regions, job.out if is_photo else None)
        run = {"rows": VERSION, **job.task.identity(), **self.source.identity}
        Manifest.require(folder, run)
        from patchioner.checkpoints import model_fingerprint

        self.model = model or job.load()
        own = {"settings": self.model.settings.to_json(), "dtype": str(self.model.dtype)}
        told = json.dumps(model_fingerprint(self.model) | own)
        self.name = hashlib.sha256(told.encode()).hexdigest()[:16]
        run["model"] = json.loads(told)  # now it is all that changes what rows say
        self.manifest = Manifest.open(folder, suffix, run, self.source, job.shards)
        self.photos = self.rows = self.failures = 0

    def pending(self) -> list[int]:
        """Shards that are not finished, and to be done over."""
        retry = self.job.retry
        paths = enumerate(self.manifest.paths())
        return [n for n, path in paths if not path.exists() or (retry and any(row.error for row in read_rows(path)))]

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Ray's way to have a shard done: what came of it. Failures of all shards are counted where these meet."""
        self.photos = self.rows = self.failures = 0
        with suppress(TooManyFailuresError):
            self.write(int(row["shard"]), wait=True)
        return {"photos": self.photos, "regions": self.rows, "failures": self.failures}

    def write(self, number: int, *, wait: bool = False) -> bool:
        """Do a shard; False where another process is about it and we do not wait."""
        with self.manifest.lock(number, wait=wait) as ours:
            path = self.manifest.path(number)
            if not ours or (path.exists() and not self.job.retry):
                return ours
            samples = list(self.source.samples(self.manifest.shards[number]))
            if path.exists():
                write_rows(path, self._retried(list(read_rows(path)), samples))
            else:
                with closing(self._rows(samples)) as rows:
                    write_rows(path, rows)
            return True

    def _rows(self, samples: Sequence[Sample]) -> Generator[Row, None, None]:
        """One row per region of these photos, through the one pipeline."""
        task, places = self.job.task, Counter[str]()
        groups = [Asked(group, whole=task.whole) for group in group_by_content(samples)]
        items = [(one.image, one.regions) for one in groups if one.error is None and not one.is_empty]
        with closing(task.answers(self.model, items)) as answers:
            for group in groups:
                outcome: Any = group.error or ([] if group.is_empty else next(answers))
                for row in group.rows(outcome, task.columns):
                    yield self._counted(replace(row, index=places[row.photo], model=self.name))
                    places[row.photo] += 1
                for _ in group.samples:
                    self.photos += 1
                    self.on_photo(self.failures)

    def _counted(self, row: Row) -> Row:
        self.rows += 1
        self.failures += row.error is not None
        most = self.job.max_failures
        if most is not None and self.failures > most:
            raise TooManyFailuresError(f"stopped after {self.failures} failures, the last {row.photo!r}: {row.message}")
        return row

    def _retried(self, old: Sequence[Row], samples: Sequence[Sample]) -> list[Row]:
        """Rows of a shard of which the photos that failed are asked again; a stored success beats a failure."""
        failed = {row.photo for row in old if row.error}
        again = [one for one in samples if one.photo in failed]
        if failed - {one.photo for one in again}:  # a tar that broke hides which photos it has
            again = list(samples)
        redone = {one.photo for one in again} | failed
        kept = {row.key: row for row in old if row.photo not in redone or row.error is None}
        for row in self._rows(again):
            if row.error is None or row.key not in kept:
                kept[row.key] = row
        place = {one.photo: at for at, one in reversed(list(enumerate(samples)))}
        return sorted(kept.values(), key=lambda row: (place.get(row.photo, -1), row.index))


def run(
    source: str | Path | Iterable[tuple[ImageSource, Any]],
    out: str | Path,
    *,
    model: Patchioner | str = "patchioner-mini",
    engine: str = "local",
    **settings: Any,
) -> Report:
    """Caption all photos of a source, or go on where an earlier run was stopped. Rows that failed have their error.

    Args:
        source: what `open_source` takes, or (photo, regions) pairs: see `patchioner.batch.sources.Pairs`.
        out, settings: see `Job`.
        model: a loaded one, or its name; with Ray its name.
        engine: "local"; "ray": the same shards on the cluster that Ray is connected to; "ray:8": by 8 workers.

    Raises:
        PatchionerError: nothing can be done: no source, no model, an output of another run.
        OSError: the output cannot be written; what is finished stays.

    Example:
        >>> run("photos/", "captions.parquet", reading=Reading(regions="instances.json"))  # doctest: +SKIP
        Report(rows=4096, failed={}, ...)
    """
    workers = asked_workers(engine)
    if workers is not None:
        require("ray.data", "ray")
        if not isinstance(model, str):
            raise OptionError("with engine='ray' give the model's name: each worker loads its own")
    name, loaded = (model, None) if isinstance(model, str) else (Job.model, model)
    given = str(source) if isinstance(source, str | Path) else [*source]
    worker = Worker(Job(given, str(out), model=name, **settings), loaded)
    started = time.perf_counter()
    left = worker.pending()
    stopped = _work_here(worker, left) if workers is None else _work_on_ray(worker, left, workers)
    return _finished(worker, time.perf_counter() - started, stopped)


def _work_here(worker: Worker, left: Sequence[int]) -> str | None:
    """Do these shards; why it ended before its end, if it did."""
    are_files = isinstance(worker.source, Photos) and not worker.job.retry
    total = sum(len(worker.manifest.shards[number]) for number in left) if are_files else None
    with meter(description=worker.job.task.kind, total=total, unit="photo") as step:
        worker.on_photo = lambda failures: step(f"{failures} failed" if failures else "")
        try:
            taken = [number for number in left if not worker.write(number)]
            for number in taken:  # by another process, which may have been killed since
                worker.write(number, wait=True)
        except TooManyFailuresError as error:
            return str(error)
    return None


def _work_on_ray(worker: Worker, left: Sequence[int], workers: int) -> str | None:
    """The same on the cluster that Ray is connected to, or a local one; all reach source and output by the same paths.

    Rows are written where they are made; here are only the numbers of each shard, whose failures are counted together.
    """
    job = worker.job
    for came in on_ray(Worker, (job,), [{"shard": number} for number in left], workers, _CPUS, job.device):
        worker.photos += int(came["photos"].sum())
        worker.rows += int(came["regions"].sum())
        worker.failures += int(came["failures"].sum())
        if job.max_failures is not None and worker.failures > job.max_failures:
            return f"stopped after {worker.failures} failures"
    return None


def _finished(worker: Worker, seconds: float, stopped: str | None) -> Report:
    """The report of all rows there are, which are joined to the one file that was asked for."""
    folder, out = worker.manifest.folder, Path(worker.job.out)
    # Read anew: another process may have found more photos.
    shards = Manifest(folder, worker.manifest.suffix, _checked(folder / _FILE)["shards"]).paths()
    finished = [path for path in shards if path.exists()]
    errors = Counter(row.error for path in finished for row in read_rows(path))
    total = errors.total()
    del errors[None]
    written = out.stat().st_mtime_ns if folder != out and out.exists() else 0
    is_older = any(path.stat().st_mtime_ns >= written for path in finished)
    if folder != out and finished == shards and (worker.rows or is_older or not written):
        write_rows(out, chain.from_iterable(map(read_rows, finished)))
    failed = {str(key): n for key, n in errors.most_common()}
    return Report(total, failed, worker.photos, worker.rows, seconds, stopped, worker.source.left_out)


def stage_seconds(job: Job, photos: int = 32) -> dict[str, float]:
    """Seconds a photo that each stage takes alone, of the first photos of a source that can be read.

    "reading" it; the "backbone", prepared pixels included; the "regions": what is asked of its features.
    """
    model, source, taken = job.load(), open_source(job.source, job.reading), dict[str, float]()

    def timed(stage: str, work: Callable[[], Iterable[Any]]) -> list[Any]:
        started = time.perf_counter()
        found = list(work())
        taken[stage] = (time.perf_counter() - started) / max(1, len(found))
        return found

    def read() -> Iterable[Any]:
        for sample in islice(source.samples(source.keys()), photos):
            with suppress(PatchionerError):
                asked = Asked([sample], whole=job.task.whole)
                yield load_image(sample.image), asked.regions

    if not (items := timed("reading", read)):
        raise ImageError(f"none of the first photos of {job.source!r} can be read: no profile")
    images = [image for image, _ in items]
    model.encode(images[:1])  # what is done once
    features = timed("backbone", lambda: model.encode(images))
    if job.task.kind != "detail":  # which encodes more than once
        items = [(one, regions) for one, (_, regions) in zip(features, items, strict=True)]
    timed("regions", lambda: job.task.answers(model, items))
    return taken


class Manifest:
    """The shards of a run, as keys, which may grow: photos that are new go into shards of their own. Made by `open`.

    A shard is finished when its file is there: files are renamed into their place when they are whole.
    """

    def __init__(self, folder: Path, suffix: str, shards: list[list[str]]) -> None:
        self.folder, self.suffix, self.shards = folder, suffix, shards

    @staticmethod
    def require(folder: Path, run: Mapping[str, Any]) -> None:
        """OptionError for what `open` will refuse, as far as it is known without the model; writes nothing."""
        if _found(folder, run):
            next(read_rows(folder), None)  # of another version
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        try:
            with TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise OptionError(f"{there} cannot be written to ({error.strerror}): choose another --out") from error

    @classmethod
    def open(cls, folder: Path, suffix: str, run: Mapping[str, Any], source: Source, shards: int | None) -> Self:
        """Begin a run in a new or empty folder, or go on with the same one.

        `run` are JSON values, everything that changes what rows say. A run that goes on keeps its number of keys to a
        shard. What a tar or table gave is forgotten where that file was written anew: its shards are done over.
        OptionError: the folder holds something else, another run (what differs is told), or that of a newer release.
        """
        folder.mkdir(parents=True, exist_ok=True)
        keys, stamps = source.keys(), source.stamps()
        per_shard = max(1, source.per_shard if shards is None else -(-len(keys) // shards))
        with FileLock(folder / ".manifest.lock"):
            found = _found(folder, run)
            per_shard, files = found.get("per_shard", per_shard), found.get("files", {})
            opened = cls(folder, suffix, list(found.get("shards", ())))
            if changed := {name for name, now in stamps.items() if files.get(name, now) != now}:
                _log.warning("written anew since the last run: %s are done over", sorted(changed))
                opened._forget(changed, keys)
            known = {key for shard in opened.shards for key in shard}
            fresh = [key for key in keys if key not in known]
            opened.shards += _cut(source.together(fresh), per_shard)
            now = {"format": _FORMAT, "version": _VERSION, "run": run, "per_shard": per_shard}
            now |= {"shards": opened.shards, "files": files | stamps}
            if now != found:
                write_json(folder / _FILE, now)
        return opened

    def _forget(self, changed: set[str], keys: Sequence[str]) -> None:
        """Take away the shards of files that were written anew, and the keys that are no more in these."""
        here = set(keys)
        for number, shard in enumerate(self.shards):
            files = {name for key in shard for name in (key, key.rpartition("#")[0])}
            if files & changed:
                with self.lock(number, wait=True):  # another process may be about it
                    self.path(number).unlink(missing_ok=True)
                self.shards[number] = [key for key in shard if key in here]

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:06d}{self.suffix}"

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(number) for number in range(len(self.shards))]

    @contextmanager
    def lock(self, number: int, *, wait: bool) -> Iterator[bool]:
        """Hold a shard against other processes; False where another has it and we do not wait. A kill lets go of it."""
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        try:
            with FileLock(locks / f"{number:06d}", timeout=-1 if wait else 0):
                yield True
        except Timeout:
            yield False


def _cut(groups: Iterable[Sequence[str]], most: int) -> list[list[str]]:
    """Shards of so many keys, or some more to keep a group whole; a longer group is cut."""
    shards = [list[str]()]
    for group in groups:
        for at in range(0, len(group), most):
            if len(shards[-1]) >= most:
                shards.append([])
            shards[-1] += group[at : at + most]
    return shards if shards[0] else []


def _found(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the same run, of any model where `run` names none, or nothing in an empty or new folder."""
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file: name a folder to write to")
    if not (path := folder / _FILE).exists():
        if any(not entry.name.startswith(".") for entry in folder.glob("*")):
            raise OptionError(f"{folder} holds other files: choose an empty or new folder")
        return {}
    found = _checked(path)
    old, now = found["run"], {"model": found["run"].get("model"), **run}
    if changed := differences(old, now):
        told = ", ".join(f"{name} ({_at(old, name)}, now {_at(now, name)})" for name in changed[:8])
        raise OptionError(f"{folder} holds another run: {told} differ; choose another --out, or the same settings")
    return found


def _checked(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except CheckpointError as error:
        raise OptionError(f"{path} is no manifest: {error}") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise OptionError(f"{path} is not ours: choose an empty or new folder")
    if (version := found.get("version")) != _VERSION:  # whose layout may be any
        raise OptionError(f"{path} has version {version!r}, this release reads {_VERSION}: upgrade")
    kinds = {"run": dict, "shards": list, "files": dict, "per_shard": int}
    if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
        raise OptionError(f"{path} was changed: {wrong} are not as written; choose a new folder")
    return found


def _at(values: Any, dotted: str) -> str:
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return f"{values!r:.40}"
