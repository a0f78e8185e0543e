"""What is asked about one picture, however many photos of a shard are that picture, and the rows that come of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import PatchionerError, RegionError
from patchioner.batch.rows import Row, failed
from patchioner.batch.sources import Lazy, Sample, as_json
from patchioner.regions import NamedRegion, Region, WholeImage
from patchioner.regions.items import Item

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


def group_by_content(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Photos that are the same bytes together, in the order of the first of each; only equal sizes are compared."""
    sizes = Counter(one.size for one in samples)
    groups: dict[object, list[Sample]] = {}
    for place, one in enumerate(samples):
        known = _digest(one) if one.size is not None and sizes[one.size] > 1 else None
        groups.setdefault(place if known is None else known, []).append(one)
    return list(groups.values())


def _digest(sample: Sample) -> str | None:
    """Sha256 of a photo's bytes; None where there are none, which the pipeline reports."""
    image = sample.image
    try:
        if isinstance(image, str):
            image = Path(image).read_bytes()
        data = image.read() if isinstance(image, Lazy) else image
        return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else None
    except (PatchionerError, OSError):
        return None


class Asked:
    """A picture with the photos that are it.

    Args:
        samples: the photos.
        whole: ask about whole photos, whatever regions there are.

    Attributes:
        is_empty: there is nothing to ask: a file of regions has the photo, and none in it.
    """

    def __init__(self, samples: Sequence[Sample], *, whole: bool) -> None:
        self.samples, self._whole = samples, whole
        self.image, self.error = samples[0].image, samples[0].error
        self.is_empty = not whole and not any(map(_known, samples))
        self._geometry: ImageGeometry | None = None
        self._entries: list[list[NamedRegion | PatchionerError]] = []

    def regions(self, geometry: ImageGeometry) -> list[Region]:
        """What to ask about, once the picture's size is known; entries that are no regions are noted."""
        self._geometry = geometry
        self._entries = [self._of(sample, geometry.image_size) for sample in self.samples]
        return [
            one.region for named in self._entries for one in named if isinstance(one, NamedRegion)
        ]

    def _of(self, sample: Sample, size: tuple[int, int]) -> list[NamedRegion | PatchionerError]:
        if sample.regions is None or self._whole:
            return [NamedRegion(WholeImage())]
        try:
            return list(sample.regions.entries(size, sample.called))
        except PatchionerError as error:
            return [error] * len(_known(sample))

    def rows(self, outcome: Any, columns: Callable[[Any], Mapping[str, Any]]) -> Iterator[Row]:
        """A row for each region of each photo.

        Args:
            outcome: answers and errors of the regions, or the error that cost them all.
            columns: an answer -> columns of its row.
        """
        lost = outcome if isinstance(outcome, PatchionerError) else None
        answers = iter(() if lost else outcome)
        for place, sample in enumerate(self.samples):
            known = _known(sample) if not self._whole else [{}]
            entries = self._entries[place] if self._entries else [lost] * len(known)
            for entry, about in zip(entries, known, strict=True):
                answer = entry
                if isinstance(entry, NamedRegion):
                    answer = lost or next(answers)
                    about = about | self._place(entry.region)
                width, height = self._geometry.image_size if self._geometry else (None, None)
                is_error = isinstance(answer, PatchionerError)
                said = failed(answer) if is_error else columns(answer)  # type: ignore[arg-type]
                yield Row(sample.photo, width=width, height=height, **about, **said)

    def _place(self, region: Region) -> dict[str, Any]:
        """Kind and bbox; no bbox where the model sees nothing of it."""
        assert self._geometry is not None, "its size was known"
        try:
            corners = tuple(round(float(edge), 3) for edge in region.bounds(self._geometry))
        except RegionError:
            corners = None
        return {"kind": region.kind, "bbox": corners}


def _known(sample: Sample) -> list[dict[str, Any]]:
    """What is known of each region before the photo is read; one entry where nothing is known of any."""
    carried = dict(sample.source)
    try:
        items = None if sample.regions is None else sample.regions.items(sample.called)
    except PatchionerError:
        items = None
    if items is None or sample.error is not None:
        return [{"source": as_json(carried)}]
    return [_about(item, carried) for item in items]


def _about(item: Item, carried: Mapping[str, Any]) -> dict[str, Any]:
    own = {} if item.source is None else dict(item.source)
    both = {**carried, "annotation": own} if carried and own else carried or own
    return {
        "annotation_id": None if item.id is None else str(item.id),
        "category": item.label if isinstance(item.label, str) else None,
        "source": as_json(both),
    }
