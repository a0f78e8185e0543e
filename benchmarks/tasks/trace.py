"""Reads trace captioning. Knows that one JSON form; nothing else."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.rows import Rows, list_of, load_mapping, mapping_of, text_of
from benchmarks.tasks.samples import Reading, Sample, covered_share
from patchioner.regions import Box, Trace

FORM = '{image id: {"captions": [...], "traces": [[{x, y, t}, ...], ...]}}'


def read_traces(path: Path, photos: PhotoFolder) -> Reading:
    """Read {image id: {"captions": [text], "traces": [[{x, y, t}]]}}, aligned lists.

    x and y are 0..1 of the photo, x right and y down; the time is not used. Points outside of 0..1 are kept here and
    dropped by `Trace`; a row is malformed when no point lies inside, a coordinate is not finite, the caption is not a
    text, or one of the two lists is shorter.

    Example:
        >>> read_traces(Path("traces_dev.json"), photos).samples[0].region  # doctest: +SKIP
    """
    rows, content = Rows(path), load_mapping(path, FORM)
    for key, entry in content.value.items():
        try:
            captions = list_of(mapping_of(entry, f"entry {key!r}").get("captions"), "captions")
            traces = list_of(entry.get("traces"), "traces")
        except BenchmarkDataError as error:
            with rows.row(key):
                raise error
            continue
        for index, (caption, trace) in enumerate(zip_longest(captions, traces)):
            _read_row(rows, photos, key, f"{key}/{index}", caption, trace)
    rows.note_repeated(content)
    return rows.reading()


def _read_row(
    rows: Rows, photos: PhotoFolder, key: str, name: str, caption: Any, trace: Any
) -> None:
    with rows.row(name) as row:
        references = (text_of(caption),)
        region = Trace.from_points_xyt(list_of(trace, "the trace"))
        photo = photos.find(key)
        photos.size(photo)  # opens it, so that a broken photo is known now
        rows.samples.append(Sample(name, photo, region, references, row, 0, _extent(region)))


def _extent(trace: Trace) -> float:
    """Share of the photo in the box around the points that lie on it."""
    inside = [(x, y) for x, y in trace.points if 0 <= x <= 1 and 0 <= y <= 1]
    if not inside:
        raise BenchmarkDataError("no point of the trace lies within 0..1, on the photo")
    (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*inside, strict=True))
    if left == right or top == bottom:
        return 0.0
    return covered_share([Box(left, top, right, bottom)], (1, 1))
