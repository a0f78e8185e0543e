"""`patchioner caption`: photos in, captions out.

Knows: the order of work and that one bad photo must not stop the rest. Does not know: how
arguments are spelled, how lines look, how pictures are drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from PIL import Image

from patchioner.base.errors import PatchionerError
from patchioner.base.progress import progress
from patchioner.cli.arguments import check_combinations
from patchioner.cli.output import (
    Answer,
    PhotoResult,
    as_json,
    as_patch_text,
    as_text,
    report_error,
    write_line,
)
from patchioner.cli.photos import PhotoSource, find_photos
from patchioner.cli.pictures import plan_pictures, save_picture
from patchioner.drawing import Display, draw_overlay, draw_patch_map
from patchioner.geometry import ImageGeometry
from patchioner.pipeline import map_ahead
from patchioner.regions import Patch, Region, WholeImage

BATCH_PHOTOS = 8
BATCH_REGIONS = 256


class FeaturesLike(Protocol):
    """What the command needs of an encoded photo."""

    @property
    def geometry(self) -> ImageGeometry:
        """How the photo maps to patches."""
        ...


class ModelLike(Protocol):
    """The part of `patchioner.Patchioner` that the command uses."""

    def encode(self, images: Any, *, keep_image: bool | None = None) -> Any:
        """One photo -> its features."""
        ...

    def caption_many(
        self, items: Any, *, weighting: Any = None, options: Any = None, crop: bool | None = None
    ) -> Any:
        """[(features, regions), ...] -> a list of captions for each."""
        ...

    def label_many(
        self, items: Any, texts: Any, *, weighting: Any = None, crop: bool | None = None
    ) -> Any:
        """[(features, regions), ...] -> a list of labels, chosen among texts, for each."""
        ...


ModelLoader: TypeAlias = Callable[[str, str | None, str | None], ModelLike]


def load_pretrained(name: str, device: str | None, bank: str | None) -> ModelLike:
    """The real model, with another memory bank if one is named; imported here so that `--help` stays quick."""
    from patchioner import Patchioner

    model: ModelLike = Patchioner.from_pretrained(name, device=device, bank=bank)
    return model


@dataclass(frozen=True)
class _Job:
    """A photo that is encoded and waits for its captions."""

    photo: PhotoSource
    picture: Path | None
    size: tuple[int, int]
    display: Display | None
    features: FeaturesLike
    regions: Sequence[Region]
    labels: Sequence[str | None]


_Opened: TypeAlias = tuple[PhotoSource, Path | None, Image.Image | Exception]


def _open(work: tuple[PhotoSource, Path | None]) -> _Opened:
    """Read a photo; an error is its own, and must not stop those behind it."""
    photo, picture = work
    try:
        return photo, picture, photo.load()
    except (PatchionerError, OSError) as error:
        return photo, picture, error


def caption_photos(options: argparse.Namespace, load_model: ModelLoader) -> int:
    """Caption all photos and return the exit status.

    Args:
        options: what `add_caption_arguments` declares.
        load_model: makes the model from (name, device, bank).

    Raises:
        PatchionerError: nothing can be done at all: no photos, no model.
    """
    problem = check_combinations(options)
    if problem is not None:
        report_error(problem)
        return 2
    photos = find_photos(options.photos)
    pictures = plan_pictures(options.out, photos)
    model = load_model(options.model, options.device, options.bank)
    return _Run(model, options).caption(photos, pictures)


class _Run:
    """One call of the command; counts what failed."""

    def __init__(self, model: ModelLike, options: argparse.Namespace) -> None:
        self._model = model
        self._options = options
        self._weighting = _weighting(options)
        self._decoding = _decoding(options)
        self._failed = 0

    def caption(self, photos: Sequence[PhotoSource], pictures: Sequence[Path | None]) -> int:
        """Encode photo by photo, caption in batches, write each as soon as it is there."""
        waiting: list[_Job] = []
        work = list(zip(photos, pictures, strict=True))
        # One thread reads ahead; few photos wait, since each may be huge.
        opened = map_ahead(_open, work, workers=int(len(work) > 1), ahead=2)
        for photo, picture, image in self._with_progress(opened, len(work)):
            try:
                if isinstance(image, Exception):
                    raise image
                waiting.append(self._prepare(photo, picture, image))
            except (PatchionerError, OSError) as error:
                self._fail(photo, error)
            regions = sum(len(job.regions) for job in waiting)
            if len(waiting) >= BATCH_PHOTOS or regions >= BATCH_REGIONS:
                self._finish(waiting)
                waiting = []
        self._finish(waiting)
        return 1 if self._failed else 0

    def _with_progress(self, opened: Iterable[_Opened], total: int) -> Iterable[_Opened]:
        if total == 1:
            return opened
        return progress(opened, description="captioning", total=total, unit="photo")

    def _prepare(self, photo: PhotoSource, picture: Path | None, image: Image.Image) -> _Job:
        features = self._model.encode(image, keep_image=self._options.crop)
        regions, labels = self._regions(photo, image.size, features.geometry)
        # Only the small picture is kept while the photo waits: eight huge photos would not fit.
        display = Display.of(image) if picture is not None else None
        return _Job(photo, picture, image.size, display, features, regions, labels)

    def _regions(
        self, photo: PhotoSource, size: tuple[int, int], geometry: ImageGeometry
    ) -> tuple[list[Region], list[str | None]]:
        regions: list[Region] = list(self._options.regions)
        labels: list[str | None] = [None] * len(regions)
        if self._options.patches:
            regions.extend(Patch.all(geometry))
        elif self._options.region_file is not None:
            from patchioner.region_files import read_regions

            named = read_regions(self._options.region_file, size, image_name=photo.file_name)
            regions.extend(item.region for item in named)
            labels.extend(item.label for item in named)
        elif not regions:
            regions.append(WholeImage())
        return regions, labels + [None] * (len(regions) - len(labels))

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Caption a batch; when it fails, one by one, so that only the bad photo is lost."""
        if not jobs:
            return
        try:
            groups = self._caption(jobs)
        except PatchionerError as error:
            if len(jobs) == 1:
                self._fail(jobs[0].photo, error)
                return
            for job in jobs:
                self._finish([job])
            return
        for job, captions in zip(jobs, groups, strict=True):
            try:
                self._write(job, captions)
            except PatchionerError as error:
                self._fail(job.photo, error)

    def _caption(self, jobs: Sequence[_Job]) -> Sequence[Sequence[Answer]]:
        items = [(job.features, job.regions) for job in jobs]
        shared = {"weighting": self._weighting, "crop": self._options.crop}
        groups: Sequence[Sequence[Answer]]
        if self._options.labels is None:
            groups = list(self._model.caption_many(items, options=self._decoding, **shared))
        else:
            groups = list(self._model.label_many(items, self._options.labels, **shared))
        return groups

    def _write(self, job: _Job, captions: Sequence[Answer]) -> None:
        grid, texts = job.features.geometry.grid, self._options.labels or ()
        result = PhotoResult(job.photo.name, job.size, grid, captions, job.labels, texts)
        if self._options.json:
            write_line(as_json(result))
        else:
            write_line(as_patch_text(result) if self._options.patches else as_text(result))
        if job.picture is not None and job.display is not None:
            geometry = job.features.geometry
            if self._options.patches:
                picture = draw_patch_map(job.display, captions, geometry)
            else:
                picture = draw_overlay(job.display, captions, geometry=geometry, labels=job.labels)
            save_picture(picture, job.picture)

    def _fail(self, photo: PhotoSource, error: Exception) -> None:
        self._failed += 1
        report_error(f"{photo.name}: {error}")


def _weighting(options: argparse.Namespace) -> Any:
    """A `Weighting` where one was asked for, else None: the model has its own."""
    if options.weighting is None and options.rounding is None:
        return None
    from patchioner.aggregate import Weighting

    given = {
        "kind": options.weighting,
        "variance": options.variance,
        "rounding": options.rounding,
    }
    return Weighting(**{name: value for name, value in given.items() if value is not None})


def _decoding(options: argparse.Namespace) -> Any:
    """A `DecodeOptions` where something was asked for, else None: the model has its own."""
    given: dict[str, Any] = {}
    if options.beam is not None:
        given.update(strategy="beam" if options.beam > 1 else "greedy", beam_width=options.beam)
    if options.temperature is not None:
        given.update(strategy="sample", temperature=options.temperature, seed=options.seed)
    if options.max_tokens is not None:
        given["max_tokens"] = options.max_tokens
    if not given:
        return None
    from decoders import DecodeOptions

    return DecodeOptions(**given)
