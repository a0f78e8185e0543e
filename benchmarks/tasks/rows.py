"""Going through the rows of a data file: good ones are collected, bad ones are reported.

Knows: JSON, what a caption and a box must look like. Does NOT know: the form of any one task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.samples import Reading, Sample, Skipped, covered_share
from patchioner.regions import Box
from patchioner_base.errors import RegionError


class Rows:
    """Collects the samples of one file and the rows that have none.

    Example:
        >>> rows = Rows(Path("a.json"))
        >>> with rows.row("359/0"):
        ...     text_of(7)
        >>> str(rows.skipped[0])
        'row 0 (359/0): the caption is 7, not a string'
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.samples: list[Sample] = []
        self.skipped: list[Skipped] = []
        self._next = 0

    @contextmanager
    def row(self, where: str) -> Iterator[int]:
        """Count one row; what a BenchmarkDataError or RegionError says of it becomes its reason."""
        index = self._next
        self._next += 1
        with self.part_of(index, where):
            yield index

    @contextmanager
    def part_of(self, index: int, where: str) -> Iterator[None]:
        """As `row`, for something with an index of its own (an annotation of an image)."""
        try:
            yield
        except (BenchmarkDataError, RegionError) as error:
            self.skipped.append(Skipped(index, where, str(error)))

    def reading(self) -> Reading:
        """All of it; BenchmarkDataError when no row could be used."""
        if not self.samples:
            first = f"; {self.skipped[0]}" if self.skipped else ""
            raise BenchmarkDataError(f"{self.source} has no usable row{first}")
        return Reading(tuple(self.samples), tuple(self.skipped))


def load_mapping(path: Path, form: str, *lists: str) -> Mapping[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        form: what its task expects, for the message.
        lists: keys that must hold lists.

    Raises:
        BenchmarkDataError: the file is missing, not JSON, or not an object of that form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BenchmarkDataError(f"{path} is missing: check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkDataError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in lists
    ):
        raise BenchmarkDataError(
            f"{path} is not in the form of its task, {form}: is it the file of another task?"
        )
    return content


def mapping_of(value: object, what: str) -> Mapping[str, Any]:
    """`value` as a JSON object; BenchmarkDataError when it is none."""
    if not isinstance(value, dict):
        raise BenchmarkDataError(f"{what} is {value!r:.60}, not an object")
    return value


def list_of(value: object, what: str) -> list[Any]:
    """`value` as a list; BenchmarkDataError when it is none."""
    if not isinstance(value, list):
        raise BenchmarkDataError(f"{what} is {value!r:.60}, not a list")
    return value


def text_of(value: object) -> str:
    """A caption; BenchmarkDataError when it is not a string or says nothing (NaN included)."""
    if not isinstance(value, str):
        raise BenchmarkDataError(f"the caption is {value!r:.60}, not a string")
    if not value.strip():
        raise BenchmarkDataError("the caption is blank")
    return value


def box_of(value: object) -> Box:
    """A box from [x1, y1, x2, y2]; BenchmarkDataError or RegionError when it is none or has no area."""
    corners = list_of(value, "the box")
    if len(corners) != 4 or not all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in corners
    ):
        raise BenchmarkDataError(f"a box needs 4 numbers x1, y1, x2, y2, not {corners!r:.80}")
    return Box(*corners)


def share_of_boxes(boxes: list[Box], photos: PhotoFolder, photo: str) -> float:
    """Their share of the photo's area.

    Raises:
        BenchmarkDataError: a box that lies outside of the photo; one that sticks out is cut off, not refused.
    """
    size = photos.size(photo)
    for box in boxes:
        if covered_share([box], size) == 0.0:
            raise BenchmarkDataError(
                f"{box!r} lies outside of {photo}, which has {size[0]} x {size[1]} pixels"
            )
    return covered_share(boxes, size)
