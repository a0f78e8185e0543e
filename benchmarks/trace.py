"""Trace captioning: mouse paths over a photo. `python -m benchmarks.trace --baseline whole --out build/trace`."""

from __future__ import annotations

import sys
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import shapely

from benchmarks import data
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Rows, Sample, Task
from benchmarks.run import run_task
from patchioner.regions import Trace

FORM = '{image id: {"captions": [...], "traces": [[{x, y, t}, ...], ...]}}'


def read(path: Path, photos: PhotoFolder) -> Reading:
    """Read aligned lists of captions and traces; x and y are 0..1 of the photo, the time is not used.

    A row is malformed when no point lies inside of 0..1 (`Trace` drops the others), a coordinate is not finite, the
    caption is no text, or one of the two lists is shorter.
    """
    rows = Rows(path, FORM)
    for key, (captions, traces) in rows.each(rows.content.items(), _lists):
        for index, (caption, trace) in enumerate(zip_longest(captions, traces)):
            with rows.row(f"{key}/{index}") as row:
                references = (data.text_of(caption),)
                region = Trace.from_points_xyt(data.list_of(trace, "the trace"))
                photo = photos.find(key)
                photos.size(photo)  # opens it, so that a broken photo is known now
                share = _extent(region)
                rows.samples.append(Sample(f"{key}/{index}", photo, region, references, row, share))
    return rows.reading()


def _lists(entry: Any) -> tuple[list[Any], list[Any]]:
    found = data.mapping_of(entry, "the entry of an image")
    return tuple(data.list_of(found.get(name), name) for name in ("captions", "traces"))  # type: ignore[return-value]


def _extent(trace: Trace) -> float:
    """Share of the photo in the box around the points that lie on it."""
    inside = [(x, y) for x, y in trace.points if 0 <= x <= 1 and 0 <= y <= 1]
    if not inside:
        raise BenchmarkDataError("no point of the trace lies within 0..1, on the photo")
    return float(shapely.MultiPoint(inside).envelope.area)


TASK = Task("trace", "trace captioning", "traces_dev.json", read)
main = partial(run_task, "trace")

if __name__ == "__main__":
    sys.exit(main())
