"""What a sweep asks about: per kind of region the samples of its task, and what is measured on them.

Knows: the development sets. Does NOT know: models or settings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answers import MIN_AREA_SHARE, PERSON
from benchmarks.readers import FILES, DevSets
from benchmarks.runner.settings import KIND_OF_TASK
from benchmarks.tasks import PhotoFolder, ReadOptions, Sample, task_named
from patchioner.regions import Box, Point, Region, from_coco

_FILE_OF_TASK = {
    "trace": "traces",
    "dense": "dense",
    "region_set": "region_sets",
    "image": "images",
}


@dataclass(frozen=True)
class AskedRegion:
    """A region, the photo it lies in, and its share (0..1) of the photo's area."""

    photo: str
    region: Region
    area_share: float


@dataclass(frozen=True)
class NamedRegion(AskedRegion):
    """A region with the class of what it shows."""

    name: str


@dataclass(frozen=True)
class KindSamples:
    """All that is asked about one kind of region.

    Attributes:
        kind: a kind of `patchioner.settings.KINDS`.
        samples: captioned and scored against their references; none of polygons and points, which have no captions.
        named: named among `names`, by embedding alone: boxes, polygons, points. Persons, whom captions call by many
            names, are left out, as in the quality table; small ones, which that table leaves out too, are a measure of
            their own.
        names: class names.

    Whole images are retrieved by their captions as well, by embedding alone.
    """

    kind: str
    samples: tuple[Sample, ...]
    named: tuple[NamedRegion, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def regions(self) -> tuple[AskedRegion, ...]:
        """The samples' regions, then the named ones."""
        return (
            *(AskedRegion(s.photo, s.region, s.area_share) for s in self.samples),
            *self.named,
        )

    @property
    def references(self) -> list[tuple[str, ...]]:
        """Of each sample."""
        return [sample.references for sample in self.samples]

    @property
    def rivalled(self) -> tuple[int, ...]:
        """Indices of the samples with another region of the same kind in their photo; boxes have naming instead."""
        if self.kind in ("box", "whole_image"):
            return ()
        regions: dict[str, set[str]] = {}
        for sample in self.samples:
            regions.setdefault(sample.photo, set()).add(repr(sample.region))
        return tuple(i for i, s in enumerate(self.samples) if len(regions[s.photo]) > 1)

    def photos(self, measure: str) -> list[str]:
        """The photo of each value of a measure."""
        if measure == "wins":
            return [self.samples[place].photo for place in self.rivalled]
        if measure in ("naming", "naming_small"):
            small = measure == "naming_small"
            return [n.photo for n in self.named if (n.area_share <= MIN_AREA_SHARE) == small]
        if measure == "r1":
            return [sample.photo for sample in self.samples for _ in sample.references]
        return [sample.photo for sample in self.samples]


def read_kinds(data: Path, limit: int | None = None) -> tuple[KindSamples, ...]:
    """The development sets by kind of region.

    Args:
        data: holds `annotations/` and `photos/`.
        limit: only the first samples of each set.

    Raises:
        BenchmarkDataError: a set is missing, or a row of it cannot be used.

    Example:
        >>> [kind.kind for kind in read_kinds(Path("../shared/data"))]  # doctest: +SKIP
        ['trace', 'box', 'region_set', 'whole_image']
    """
    photos, sets = PhotoFolder(data / "photos"), DevSets(data)
    boxes = tuple(
        NamedRegion(b.photo, Box(*b.box), b.area_share, b.name)
        for b in sets.class_boxes(without=(PERSON,))[:limit]
    )
    found = []
    for task, kind in KIND_OF_TASK.items():
        path = data / "annotations" / FILES[_FILE_OF_TASK[task]]
        reading = task_named(task).read(path, photos, ReadOptions())
        reading.refuse_skipped(str(path))
        named = (boxes, sets.class_names()) if kind == "box" else ((), ())
        found.append(KindSamples(kind, reading.samples[:limit], *named))
    return tuple(found)


def read_uncaptioned(
    data: Path, photos: Collection[str], limit: int | None = None
) -> tuple[KindSamples, ...]:
    """Polygons of COCO objects, and the middles of their boxes as points: kinds of region without captions.

    Args:
        data: holds `annotations/` and `photos/`.
        photos: only of these.
        limit: only the first ones.

    Raises:
        BenchmarkDataError: the set is missing or not in its form.

    Example:
        >>> [kind.kind for kind in read_uncaptioned(Path("../shared/data"), photos)]  # doctest: +SKIP
        ['polygon', 'point']
    """
    sets = DevSets(data)
    found = [o for o in sets.instances(without=(PERSON,)) if o.photo in photos][:limit]
    polygons = [from_coco({"segmentation": o.polygons}, o.size) for o in found]
    points = [Point((o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2) for o in found]
    made: dict[str, Sequence[Region]] = {"polygon": polygons, "point": points}
    return tuple(
        KindSamples(
            kind,
            (),
            tuple(
                NamedRegion(o.photo, region, o.area_share, o.name)
                for o, region in zip(found, regions, strict=True)
            ),
            sets.class_names(),
        )
        for kind, regions in made.items()
        if regions
    )
