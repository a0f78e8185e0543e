"""Goes through the photos once, for any number of jobs.

Knows: photos, jobs, and which of them still miss what. Does NOT know: scores, settings or data files.
Each photo passes through the backbone at most once, whatever is asked about it; a photo of which everything is on the
disk already is not opened at all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.captioner import Captioner
from benchmarks.readers import BenchmarkDataError
from benchmarks.runner.answerers import Answerer, Asked
from benchmarks.runner.predictions import Answer, Prediction, PredictionLog
from benchmarks.tasks import Sample
from patchioner.base.errors import ImageError, RegionError
from patchioner.base.progress import progress

logger = logging.getLogger(__name__)

_NEEDS = ("nothing", "features", "photo")


@dataclass
class Job:
    """One answerer over its samples.

    Args:
        samples: in any order; they are asked by photo, photos in the order of their names, then by row.
        images: folder of the photos.
        answerer: who captions.
        log: where the answers go; what it holds already is not asked again.
        strict: raise where a photo or region cannot be used, instead of writing down the reason.

    Raises:
        BenchmarkDataError: the log holds other samples.
    """

    samples: Sequence[Sample]
    images: Path
    answerer: Answerer
    log: PredictionLog
    strict: bool = False
    _groups: dict[Path, tuple[Sample, ...]] = field(init=False, repr=False)
    _position: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        groups: dict[Path, list[Sample]] = {}
        for sample in self.samples:
            groups.setdefault(self.images / sample.photo, []).append(sample)
        self._groups = {path: tuple(groups[path]) for path in sorted(groups)}
        self.samples = [sample for group in self._groups.values() for sample in group]
        self.log.check_order(self.samples)

    @property
    def photos(self) -> Sequence[Path]:
        """Paths of the photos, sorted."""
        return list(self._groups)

    def claim(self, photos: Sequence[Path]) -> dict[Path, tuple[Sample, ...]]:
        """The samples of these photos, the next ones in order, unless all of them are in the log."""
        wanted = {path: self._groups[path] for path in photos if path in self._groups}
        count = sum(map(len, wanted.values()))
        if self._position + count <= self.log.kept:
            self._position += count
            return {}
        # Half a group: asked again as a whole, so that it is decoded in the same company as without the break.
        self.log.cut_to(self._position)
        self._position += count
        return wanted


def run_jobs(jobs: Sequence[Job], model: Captioner, *, batch: int) -> int:
    """Ask all jobs about all their photos.

    Args:
        jobs: they share `model`'s backbone.
        model: encodes the photos.
        batch: photos at a time.

    Returns:
        Number of photos that went through the backbone.

    Raises:
        BenchmarkDataError: in a strict job, a photo or region that cannot be used.

    Example:
        >>> run_jobs([job], model, batch=16)  # doctest: +SKIP
        80
    """
    photos = sorted({path for job in jobs for path in job.photos})
    bar = progress(photos, description="photos", total=len(photos), unit="photo")
    encoded = 0
    while group := list(islice(bar, batch)):
        claims = [(job, wanted) for job in jobs if (wanted := job.claim(group))]
        features = _Features(model, claims)
        for job, wanted in claims:
            job.log.append(list(_predictions(job, wanted, features)))
        encoded += features.encoded
    return encoded


class _Features:
    """Features of the photos of one group, made on demand, once each."""

    def __init__(
        self, model: Captioner, claims: Sequence[tuple[Job, dict[Path, tuple[Sample, ...]]]]
    ) -> None:
        self._model = model
        self._needs: dict[Path, str] = {}
        for job, wanted in claims:
            for path in wanted:
                known = self._needs.get(path, "nothing")
                self._needs[path] = max(known, job.answerer.needs, key=_NEEDS.index)
        self._made: dict[Path, Any] = {}
        self.encoded = 0

    def of(self, path: Path) -> Any:
        """Features, or the ImageError that came instead."""
        if path not in self._made:
            extra = {"keep_image": True} if self._needs[path] == "photo" else {}
            try:
                self._made[path] = self._model.encode(str(path), **extra)
                self.encoded += 1
            except ImageError as error:
                self._made[path] = error
        return self._made[path]


def _predictions(
    job: Job, wanted: dict[Path, tuple[Sample, ...]], features: _Features
) -> Iterator[Prediction]:
    """One prediction per sample, in order."""
    asked, broken = [], {}
    for path, samples in wanted.items():
        found = None if job.answerer.needs == "nothing" else features.of(path)
        if isinstance(found, ImageError):
            broken[path] = _unanswered(job, samples[0], found)
        else:
            asked.append(Asked(path, found, samples))
    answers = dict(zip((one.path for one in asked), _ask(job, asked), strict=True))
    for path, samples in wanted.items():
        given = answers.get(path) or [broken[path]] * len(samples)
        for sample, answer in zip(samples, given, strict=True):
            yield Prediction.of(sample, answer)


def _ask(job: Job, asked: list[Asked]) -> list[list[Answer]]:
    """All answers in one batch; if something in it cannot be used, sample by sample."""
    if not asked:
        return []
    try:
        return job.answerer.answer(asked)
    except (RegionError, ImageError):
        return [[_ask_one(job, one, sample) for sample in one.samples] for one in asked]


def _ask_one(job: Job, one: Asked, sample: Sample) -> Answer:
    try:
        return job.answerer.answer([Asked(one.path, one.features, (sample,))])[0][0]
    except (RegionError, ImageError) as error:
        return _unanswered(job, sample, error)


def _unanswered(job: Job, sample: Sample, error: Exception) -> Answer:
    if job.strict:
        raise BenchmarkDataError(
            f"row {sample.row} ({sample.id}) cannot be captioned: {error}. Mend it, or run without --strict"
        ) from error
    logger.warning("row %d (%s) is skipped: %s", sample.row, sample.id, error)
    return Answer(None, skipped=str(error))
