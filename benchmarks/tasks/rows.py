"""Going through the rows of a data file: good ones are collected, bad ones are reported.

Knows: JSON, what a caption and a box must look like. Does NOT know: the form of any one task.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.samples import Reading, Sample, Skipped, covered_share
from patchioner.base.errors import RegionError
from patchioner.regions import Box

_LONGEST_REASON = 400  # a coordinate can have a thousand digits


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

    def note_repeated(self, content: Content) -> None:
        """A row without a sample for each key that the file repeats: only the last of them can be read.

        Call it after the rows, so that theirs keep their indices.
        """
        for where, times in content.repeated:
            with self.row(where):
                raise BenchmarkDataError(
                    f"the key stands {times} times in one object: JSON readers keep the last, the others are lost"
                )

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
            reason = str(error)[:_LONGEST_REASON]
            self.skipped.append(
                Skipped(index, printable(where[:_LONGEST_REASON]), printable(reason))
            )

    def reading(self) -> Reading:
        """All of it; BenchmarkDataError when no row could be used."""
        if not self.samples:
            first = f"; {self.skipped[0]}" if self.skipped else ""
            raise BenchmarkDataError(f"{self.source} has no usable row{first}")
        return Reading(tuple(self.samples), tuple(self.skipped))


@dataclass(frozen=True)
class Content:
    """What a JSON file holds.

    Attributes:
        value: the content.
        repeated: (where, how often) for each key that stands more than once in one object.
    """

    value: Any
    repeated: tuple[tuple[str, int], ...] = ()


def load_json(path: Path) -> Content:
    """Read a JSON file, and find the keys that other readers would drop in silence.

    Raises:
        BenchmarkDataError: the file is missing or not JSON.

    Example:
        >>> load_json(Path("traces_dev.json")).repeated  # doctest: +SKIP
        ()
    """
    repeated: dict[int, tuple[dict[str, Any], Counter[str]]] = {}

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            # Kept alive here, so that its id stays its own.
            repeated[id(found)] = found, Counter(key for key, _ in pairs)
        return found

    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=build)
        # Most files have none, and then nobody goes through them a second time.
        places = list(_places(value, "")) if repeated else []
    except FileNotFoundError as error:
        raise BenchmarkDataError(f"{path} is missing: check the path") from error
    except OSError as error:
        raise BenchmarkDataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkDataError(f"{path} is not JSON ({error}): fetch it again") from error
    return Content(
        value,
        tuple(
            (f"{where}{key}", times)
            for where, found in places
            if id(found) in repeated
            for key, times in repeated[id(found)][1].items()
            if times > 1
        ),
    )


def _places(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object inside `value`, with the keys that lead to it, each with a slash behind it."""
    if isinstance(value, dict):
        yield where, value
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        if isinstance(inner, (dict, list)):
            yield from _places(inner, f"{where}{key}/")


def load_mapping(path: Path, form: str, *lists: str) -> Content:
    """Read a JSON object.

    Args:
        path: the file.
        form: what its task expects, for the message.
        lists: keys that must hold lists.

    Raises:
        BenchmarkDataError: the file is missing, not JSON, or not an object of that form.
    """
    content = load_json(path)
    if not isinstance(content.value, dict) or not all(
        isinstance(content.value.get(key), list) for key in lists
    ):
        raise wrong_form(path, form)
    return content


def wrong_form(path: Path, form: str) -> BenchmarkDataError:
    """The error for a file that is JSON, but of another task."""
    return BenchmarkDataError(
        f"{path} is not in the form of its task, {form}: is it the file of another task?"
    )


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
    if printable(value) != value:
        raise BenchmarkDataError(f"the caption {printable(value)!r:.60} holds half a character")
    return value


def printable(text: str) -> str:
    """`text` with halves of surrogate pairs, which no file can hold, written out.

    Example:
        >>> printable("a \\ud800")
        'a \\\\ud800'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def box_of(value: object) -> Box:
    """A box from [x1, y1, x2, y2]; BenchmarkDataError or RegionError when it is none or has no area."""
    corners = list_of(value, "the box")
    if len(corners) != 4 or not all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in corners
    ):
        raise BenchmarkDataError(f"a box needs 4 numbers x1, y1, x2, y2, not {corners!r:.80}")
    try:
        return Box(*corners)
    except OverflowError as error:  # a whole number beyond any float
        raise BenchmarkDataError(f"the box {corners!r:.80} is not finite") from error


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
