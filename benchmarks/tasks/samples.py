"""What the readers give out: samples, and the rows that had to be left out.

Knows: regions and their sizes. Does NOT know: files, models or scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.readers import BenchmarkDataError
from patchioner.regions import Box, Region, RegionSet, Trace, WholeImage

SHOWN_ROWS = 5


@dataclass(frozen=True)
class Sample:
    """One region of one photo and what people said of it.

    Attributes:
        id: unique in its file, and the same at each reading: "359/2" is the third row of image 359.
        photo: name of the photo, relative to the folder of photos.
        region: what is to be captioned, in pixels of the photo (a trace in 0..1 of it).
        references: at least one human caption.
        row: index of the row in the file, counted from 0 over all rows, malformed ones included.
        box_count: boxes that the region is made of; 0 for a trace and a whole photo.
        area_share: share of the photo's area (0..1) under the boxes, overlaps counted once; of a trace, under the box
            around its points.

    Example:
        >>> Sample("359/0", "359.jpg", Box(0, 0, 9, 9), ("a dog",), 0, 1, 0.5).references
        ('a dog',)
    """

    id: str
    photo: str
    region: Region
    references: tuple[str, ...]
    row: int
    box_count: int
    area_share: float


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used.

    Attributes:
        row: its index in the file, counted from 0.
        where: how the file addresses it, as "359/2" or "annotations[17]".
        reason: what is wrong with it.
    """

    row: int
    where: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.where}): {self.reason}"


@dataclass(frozen=True)
class Reading:
    """What a file holds: usable samples in file order, and the rows left out."""

    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]

    def refuse_skipped(self, source: str) -> None:
        """Raise BenchmarkDataError when a row was left out, naming the first of them."""
        if self.skipped:
            shown = "; ".join(str(row) for row in self.skipped[:SHOWN_ROWS])
            more = len(self.skipped) - SHOWN_ROWS
            raise BenchmarkDataError(
                f"{source} has {len(self.skipped)} unusable rows: {shown}"
                f"{f'; and {more} more' if more > 0 else ''}. Mend them, or run without --strict to skip them"
            )

    def first(self, limit: int | None) -> Reading:
        """The first `limit` samples in file order; None keeps all."""
        return replace(self, samples=self.samples[:limit])


def region_json(region: Region) -> dict[str, Any]:
    """A region in this project's own JSON form (see `patchioner.regions.files`).

    Raises:
        BenchmarkDataError: a kind of region that no task has.

    Example:
        >>> region_json(RegionSet([Box(0, 1, 2, 3)]))
        {'set': [{'box': [0.0, 1.0, 2.0, 3.0]}]}
    """
    if isinstance(region, WholeImage):
        return {"whole": True}
    if isinstance(region, Box):
        return {"box": [region.x1, region.y1, region.x2, region.y2]}
    if isinstance(region, Trace):
        points = [list(point) for point in region.points]
        return {"trace": points, "normalized": True} if region.normalized else {"trace": points}
    if isinstance(region, RegionSet):
        return {"set": [region_json(member) for member in region.members]}
    raise BenchmarkDataError(
        f"{region!r:.80} cannot be written: tasks ask about boxes, sets, traces, photos"
    )


def covered_share(boxes: Sequence[Box], image_size: tuple[int, int]) -> float:
    """Share (0..1) of a photo of (width, height) under the union of boxes; 0 where all lie outside.

    Example:
        >>> covered_share([Box(0, 0, 5, 10), Box(0, 0, 5, 5)], (10, 10))
        0.5
    """
    width, height = image_size
    corners = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=np.float64)
    corners = np.clip(corners, 0.0, np.array([width, height, width, height], dtype=np.float64))
    # Exact: the edges of all boxes cut the photo into cells that are wholly in or out.
    columns, rows = np.unique(corners[:, 0::2]), np.unique(corners[:, 1::2])
    covered = np.zeros((max(len(rows) - 1, 0), max(len(columns) - 1, 0)), dtype=bool)
    for x1, y1, x2, y2 in corners:
        across = slice(*np.searchsorted(columns, (x1, x2)))
        covered[slice(*np.searchsorted(rows, (y1, y2))), across] = True
    area = np.outer(np.diff(rows), np.diff(columns))[covered].sum()
    return float(area / (width * height))
