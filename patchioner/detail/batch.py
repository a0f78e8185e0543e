"""Many photos: described one by one or several at a time, into a file that can be stopped and gone on with.

Knows: order, threads, what may be skipped, which failures end a run. Does NOT know: how a photo is described, or what a
line looks like inside (`provenance`, `line_file`).

**Going on.** A photo whose line is in the file is not described again: it is known by its pixels, the regions given for
it, and the settings and seed of the run, not by its name. Photos that were under way when a run was stopped are begun
again; what other people's models had answered about them is in the call cache (`clients.CallCache`), so that nothing is
asked twice. While a run lasts, lines stand in the order in which photos were finished; at its end they are brought into
the order of the photos, so that the file is the same whether it was made in one go or in ten. Lines of photos that are
not among those given stay, ahead of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from patchioner.base.errors import (
    FutileError,
    HubError,
    MissingExtraError,
    OptionError,
    PatchionerError,
    UnknownNameError,
)
from patchioner.base.progress import progress
from patchioner.detail.clients.answers import mask_digest
from patchioner.detail.divide import Given, as_detection
from patchioner.detail.line_file import LineFile
from patchioner.detail.photo_list import PhotoJob
from patchioner.detail.photos import open_photo
from patchioner.detail.provenance import FORMAT, VERSION, dumps, from_json, to_json
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailedCaption

OnError = Callable[[str, Exception], None]
"""Told (name of the photo, why it failed)."""

# What the next photo would meet as well: models are loaded with the first call, keys are refused with it.
_FINAL = (FutileError, HubError, MissingExtraError, OptionError, UnknownNameError)
_OPENING = f'{{"format": "{FORMAT}"'


class Captioner(Protocol):
    """What is needed of a `patchioner.detail.DetailCaptioner`."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers of every stage, ready for JSON."""

    def describe(
        self, photo: Photo, regions: Sequence[Given] | None = None, *, seed: int = 0
    ) -> DetailedCaption:
        """A photo's paragraph."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a photo.

    Attributes:
        place: of the photo among those given, from 0.
        name: of the photo.
        sha256: of its pixels; None where it could not be read.
        key: what its line is found by; "" where it could not be read.
        caption: None where it failed, or was known.
        error: why it failed.
        final: whether the next photo would fail as well.
    """

    place: int
    name: str
    sha256: str | None = None
    key: str = ""
    caption: DetailedCaption | None = None
    error: Exception | None = None
    final: bool = False


@dataclass(frozen=True)
class BatchResult:
    """What became of many photos.

    Attributes:
        described: how many were.
        known: how many had their line already.
        failed: (name, why) of each that could not be described.
        stopped: why the run ended before its end: a spent budget, a refused key, no such model; None if it did not.
        names: (key, photo) of each line of these photos, in their order.
    """

    described: int = 0
    known: int = 0
    failed: tuple[tuple[str, Exception], ...] = ()
    stopped: Exception | None = None
    names: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether every photo has its line."""
        return not self.failed and self.stopped is None


def describe_each(
    captioner: Captioner,
    photos: Iterable[PhotoJob],
    *,
    seed: int = 0,
    workers: int = 1,
    known: Callable[[str], bool] | None = None,
    on_stop: Callable[[], object] | None = None,
) -> Generator[Outcome, None, None]:
    """Describe photos, and yield what became of each as soon as that is known.

    After a failure that the next photo would meet as well no photo is begun any more; those under way are finished.

    Args:
        captioner: threads share it where there are several workers.
        photos: taken one by one.
        seed: of every photo.
        workers: photos at the same time; more than one pays where others do the work.
        known: tells by its key whether a photo need not be described.
        on_stop: called when the caller has had enough (Ctrl-C, an error of its own) while photos are under way: to make
            them end soon. They are waited for, so that what they asked is not lost.
    """
    run = fingerprint(captioner, seed)
    work = partial(_outcome, captioner, run, seed, known or (lambda key: False))
    ended = threading.Event()
    if workers <= 1:
        for place, job in enumerate(photos):
            outcome = work(place, job)
            yield outcome
            if outcome.final:
                return
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="detail") as pool:
        waiting: set[Future[Outcome]] = set()
        jobs = enumerate(photos)
        try:
            while True:
                while len(waiting) < workers and not ended.is_set():
                    following = next(jobs, None)
                    if following is None:
                        break
                    waiting.add(pool.submit(work, *following))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    if outcome.final:
                        ended.set()
                    yield outcome
        finally:
            if waiting and on_stop is not None:
                on_stop()
            for future in waiting:
                future.cancel()


def describe_many(
    captioner: Captioner,
    photos: Sequence[PhotoJob | str | Path],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    workers: int = 1,
    on_error: OnError | None = None,
    on_stop: Callable[[], object] | None = None,
) -> BatchResult:
    """Describe photos into a file of JSON lines, one per finished photo; go on where an earlier run was stopped.

    A line is what `provenance.to_json` gives, with a "key" besides. It is whole or absent, also after a kill. A photo
    that fails is reported and has no line; the others go on. Ctrl-C passes through: the file is good as it is.

    Args:
        captioner: a `DetailCaptioner`, or what does as it does.
        photos: paths, or jobs, which may have regions.
        out: the file.
        seed, workers, on_stop: as `describe_each`.
        on_error: told of each failure at once.

    Returns:
        Counts, failures, and what stopped the run, if something did.

    Raises:
        OptionError: the file is somebody else's, or was made with other settings.
        OSError: it cannot be written.

    Example:
        >>> describe_many(DetailCaptioner(), ["a.jpg", "b.jpg"], "out.jsonl").complete  # doctest: +SKIP
        True
    """
    jobs = [job if isinstance(job, PhotoJob) else PhotoJob.of(job) for job in photos]
    lines = LineFile(out, _OPENING)
    _require_same_run(lines, captioner, seed)
    found: dict[tuple[str, str], None] = {}
    counts = {"described": 0, "known": 0}
    failed: list[tuple[str, Exception]] = []
    stopped: Exception | None = None
    outcomes = describe_each(
        captioner,
        jobs,
        seed=seed,
        workers=workers,
        known=lambda key: lines.under(key) is not None,
        on_stop=on_stop,
    )
    with closing(outcomes):
        for outcome in progress(outcomes, description="describing", total=len(jobs), unit="photo"):
            if outcome.final:
                stopped = stopped or outcome.error
            elif outcome.error is not None:
                failed.append((outcome.name, outcome.error))
                if on_error is not None:
                    on_error(outcome.name, outcome.error)
            else:
                counts["known" if outcome.caption is None else "described"] += 1
                name = (outcome.key, outcome.name)
                lines.append(name, _line(outcome, lines))
                found[name] = None
    places = {job.name: place for place, job in reversed(list(enumerate(jobs)))}
    # One name can stand for several lines: the same photo, once with its own regions.
    names = tuple(sorted(found, key=lambda name: (places[name[1]], name[0])))
    if stopped is None:
        lines.sort(names)
    return BatchResult(**counts, failed=tuple(failed), stopped=stopped, names=names)


def read_captions(
    path: str | os.PathLike[str], names: Sequence[tuple[str, str]] | None = None
) -> Iterator[tuple[str, DetailedCaption]]:
    """(name of the photo, its description) of the lines of a file, read one by one.

    Args:
        path: written by `describe_many`.
        names: which lines, in which order, as in `BatchResult.names`; None for all.

    Raises:
        OptionError: the file is somebody else's. DetailError: a line is damaged.
    """
    lines = LineFile(path, _OPENING)
    return (from_json(lines.values(name)) for name in (lines.names if names is None else names))


def fingerprint(captioner: Captioner, seed: int) -> str:
    """Sha256 (hex) of the settings of every stage and the seed: two runs with the same describe in the same way."""
    settings = json.dumps({**captioner.settings, "seed": seed, "version": VERSION}, sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()


def _outcome(
    captioner: Captioner,
    run: str,
    seed: int,
    known: Callable[[str], bool],
    place: int,
    job: PhotoJob,
) -> Outcome:
    try:
        photo = open_photo(job.load(), name=job.name)
        given = None if job.regions is None else list(job.regions(photo.size))
        key = f"{run[:16]}-{_digest(photo, given)[:32]}"
    except (PatchionerError, OSError) as error:
        return Outcome(place, job.name, error=error)
    if known(key):
        return Outcome(place, job.name, photo.sha256, key)
    try:
        caption = captioner.describe(photo, given, seed=seed)
    except (PatchionerError, OSError) as error:
        final = isinstance(error, _FINAL)
        return Outcome(place, job.name, photo.sha256, key, error=error, final=final)
    return Outcome(place, job.name, photo.sha256, key, caption)


def _digest(photo: Photo, given: Sequence[Given] | None) -> str:
    """Sha256 (hex) of a photo's pixels and the regions given for it."""
    regions = None
    if given is not None:
        things = [as_detection(one, photo.size) for one in given]
        regions = [[one.box, one.name, one.score, mask_digest(one.mask)] for one in things]
    return hashlib.sha256(json.dumps([photo.sha256, regions]).encode()).hexdigest()


def _line(outcome: Outcome, lines: LineFile) -> str:
    """The line of a photo: new, or that of the same photo under another name."""
    if outcome.caption is None:
        return dumps({**(lines.under(outcome.key) or {}), "photo": outcome.name})
    values = to_json(outcome.caption, outcome.name, sha256=outcome.sha256)
    return dumps({"format": FORMAT, "version": VERSION, "key": outcome.key, **values})


def _require_same_run(lines: LineFile, captioner: Captioner, seed: int) -> None:
    run = fingerprint(captioner, seed)[:16]
    others = [name for name in lines.names if not name[0].startswith(f"{run}-")]
    if not others:
        return
    now = json.loads(json.dumps({**captioner.settings, "seed": seed}))
    then = lines.values(others[0]).get("settings") or {}
    differing = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    raise OptionError(
        f"{str(lines.path)!r} holds {len(others)} photos described with other settings "
        f"({', '.join(differing) or 'another version'}): choose another file, or remove it to begin anew"
    )
