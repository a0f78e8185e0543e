"""Samples: one region of one photo and what people said of it, read from the JSON of the published tasks.

A malformed row is reported by its index, and skipped or refused. A data folder holds `annotations/` and `photos/`.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import shapely
from PIL import Image, UnidentifiedImageError

from patchioner.base.errors import PatchionerError, RegionError, UnknownNameError
from patchioner.regions import Box, Region

SAMPLE = Path(__file__).parent / "sample"
TASK_NAMES = ("trace", "dense", "region_set", "image", "objects")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".JPG")
COCO_PREFIXES = ("", "COCO_val2014_", "COCO_train2014_", "COCO_test2014_")
SHOWN_ROWS = 5

T = TypeVar("T")
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF orientations that swap width and height
_LONGEST_REASON = 400  # a coordinate can have a thousand digits


class BenchmarkDataError(PatchionerError, ValueError):
    """A data set that is missing, cut off, or not in its documented form."""


@dataclass(frozen=True)
class Sample:
    """One region of one photo (in its pixels, a trace in 0..1) and what people said of it: one reference at least.

    `id` is unique in its file ("359/2" is the third row of image 359); `row` counts all rows from 0, malformed ones
    included; `area_share` is the share (0..1) of the photo under the boxes, or under the box around a trace.
    """

    id: str
    photo: str
    region: Region
    references: tuple[str, ...]
    row: int
    area_share: float


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used: its index, how the file addresses it ("annotations[17]"), what is wrong with it."""

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
            more = ["..."] * (len(self.skipped) > SHOWN_ROWS)
            shown = "; ".join([*map(str, self.skipped[:SHOWN_ROWS]), *more])
            told = f"{source} has {len(self.skipped)} unusable rows: {shown}"
            raise BenchmarkDataError(f"{told}. Mend them, or run without --strict to skip them")


@dataclass(frozen=True)
class Task:
    """One of the tasks (the four of the published tables, and our objects); `benchmarks.NAME` is its module.

    `file` is its annotations in a data folder; `read` takes (file, photos, **its own options); `clip_crops`: the CLIP
    baseline looks at crops, as the published one does, not at whole photos.
    """

    name: str
    title: str
    file: str
    read: Callable[..., Reading]
    clip_crops: bool = False

    def files(self, data: Path, images: str | Path | None = None) -> tuple[Path, Path]:
        """(annotations, folder of photos) of a data folder, or of an annotation file with its folder of photos."""
        if data.is_dir():
            return data / "annotations" / self.file, Path(images or data / "photos")
        if images is None:
            told = f"{data} is no folder with annotations/ and photos/: give one as --data"
            raise BenchmarkDataError(f"{told}, or the folder of its photos as --images")
        return data, Path(images)


def task_named(name: str) -> Task:
    """The task called `name`; UnknownNameError offers the close ones."""
    if name not in TASK_NAMES:
        raise UnknownNameError.among("task", name, TASK_NAMES)
    task: Task = importlib.import_module(f"benchmarks.{name}").TASK
    return task


def read_folder(folder: Path, task: str) -> tuple[Sample, ...]:
    """The usable samples of one task in a data folder."""
    found = task_named(task)
    path, photos = found.files(folder)
    return found.read(path, PhotoFolder(photos)).samples


class PhotoFolder:
    """A folder of photos, looked up by image id or file name.

    An id is tried as it is, then as a COCO id (12 digits, with and without COCO_val2014_ and its likes); in the folder,
    then in those directly inside it. Of a name that climbs out, the last part counts. BenchmarkDataError: no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BenchmarkDataError(f"{root} is no folder: give the one that holds the photos")
        self.root = root
        inside = sorted(path.name for path in root.iterdir() if path.is_dir())
        self._folders = (PurePosixPath(), *map(PurePosixPath, inside))
        self._look_up = cache(self._find)
        self._sizes: dict[str, tuple[int, int]] = {}

    def find(self, *keys: object) -> str:
        """Name, relative to the folder, of the photo that `keys` lead to; BenchmarkDataError says what it tried."""
        names = [str(key) for key in keys if isinstance(key, (str, int)) and str(key).strip()]
        for name in names:
            if (found := self._look_up(name)) is not None:
                return found
        # One spelling of the extension is enough to show which names were thought of.
        likely = [n for name in names for n in candidates(name) if n.endswith(".jpg")]
        tried = ", ".join(dict.fromkeys(likely or names))
        called = f"image {' / '.join(names) or 'without a name':.80}"
        raise BenchmarkDataError(f"{called} is missing in {self.root} (tried {tried:.200})")

    def size(self, photo: str) -> tuple[int, int]:
        """(width, height) of the upright photo, from the head of its file; BenchmarkDataError if it is no image."""
        if photo not in self._sizes:
            try:
                with Image.open(self.root / photo) as image:
                    lying = image.getexif().get(_ORIENTATION, 1) in _LYING
                    self._sizes[photo] = image.size[::-1] if lying else image.size
            except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
                raise BenchmarkDataError(f"photo {photo} cannot be opened: {error}") from error
        return self._sizes[photo]

    def _find(self, name: str) -> str | None:
        for candidate in candidates(name):
            for folder in self._folders:
                try:
                    if (self.root / folder / candidate).is_file():
                        return str(folder / candidate)
                except OSError:  # a name that no file system takes
                    continue
        return None


def candidates(key: str) -> list[str]:
    """File names that an image id or file name may stand for, likeliest first."""
    path = PurePosixPath(key.replace("\\", "/"))
    stays = not path.is_absolute() and ".." not in path.parts
    names = [str(path)] if stays else []
    if path.suffix.lower() in EXTENSIONS:
        return list(dict.fromkeys([*names, path.name]))
    names = [f"{path.name}{extension}" for extension in EXTENSIONS]
    if path.name.isascii() and path.name.isdigit() and len(path.name) <= 12:
        names += [f"{prefix}{int(path.name):012d}.jpg" for prefix in COCO_PREFIXES]
    return names


class Rows:
    """Collects the samples of one file and the rows that have none; `content` is the JSON, of the `kind` and `form`
    that its task expects, with lists under the keys `lists`; BenchmarkDataError: the file is missing or another.
    """

    def __init__(self, path: Path, form: str, *lists: str, kind: type | tuple[type, ...] = dict) -> None:
        self.source = path
        self.content, self._repeated = load_json(path)
        fits = isinstance(self.content, kind)
        if not fits or not all(isinstance(self.content.get(key), list) for key in lists):
            told = f"{path} is not in the form of its task, {form}"
            raise BenchmarkDataError(f"{told}: is it the file of another task?")
        self.samples: list[Sample] = []
        self.skipped: list[Skipped] = []
        self._next = 0

    def each(self, entries: Iterable[Any], parse: Callable[[Any], T]) -> Iterator[tuple[str, T]]:
        """(where, parsed) of entries that hold rows; one that `parse` refuses is a malformed row itself."""
        for where, entry in entries:
            try:
                found = parse(entry)
            except BenchmarkDataError as error:
                with self.row(where):
                    raise error
            else:
                yield where, found

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
            texts = (where[:_LONGEST_REASON], str(error)[:_LONGEST_REASON])
            self.skipped.append(Skipped(index, *map(printable, texts)))

    def reading(self, *others: Rows) -> Reading:
        """All of it, with a row for each key that a file repeats; BenchmarkDataError: no row could be used."""
        told = "the key stands twice in one object: JSON readers keep the last, the other is lost"
        for key in (one for rows in (self, *others) for one in rows._repeated):
            with self.row(key):
                raise BenchmarkDataError(told)
        if not self.samples:
            first = f"; {self.skipped[0]}" if self.skipped else ""
            raise BenchmarkDataError(f"{self.source} has no usable row{first}")
        return Reading(tuple(self.samples), tuple(self.skipped))


def load_json(path: Path) -> tuple[Any, list[str]]:
    """The content of a JSON file, and each key that stands more than once in one object."""
    repeated: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, times in Counter(k for k, _ in pairs).items() if times > 1)
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=build), repeated
    except FileNotFoundError as error:
        raise BenchmarkDataError(f"{path} is missing: check the path") from error
    except OSError as error:
        raise BenchmarkDataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkDataError(f"{path} is not JSON ({error}): fetch it again") from error


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
    """`text` with halves of surrogate pairs, which no file can hold, written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def share_of_boxes(boxes: list[Box], photos: PhotoFolder, photo: str) -> float:
    """Their share of the photo's area; BenchmarkDataError for one wholly outside (one that sticks out is cut)."""
    size = photos.size(photo)
    for box in boxes:
        if covered_share([box], size) == 0.0:
            told = f"{photo}, which has {size[0]} x {size[1]} pixels"
            raise BenchmarkDataError(f"{box!r} lies outside of {told}")
    return covered_share(boxes, size)


def covered_share(boxes: Sequence[Box], image_size: tuple[int, int]) -> float:
    """Share (0..1) of a photo of (width, height) under the union of boxes; 0 where all lie outside."""
    photo = shapely.box(0, 0, *image_size)
    corners = [shapely.box(one.x1, one.y1, one.x2, one.y2) for one in boxes]
    return float(shapely.union_all(corners).intersection(photo).area / photo.area)
