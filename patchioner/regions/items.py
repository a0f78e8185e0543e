"""What a reader of a region file gives: entries that are not yet regions, by photo; COCO's of any size."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Floats, Region, Size, around, items_of
from patchioner.regions.mask import Mask
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Point, RegionSet, numbers

Entry = Mapping[str, Any]
Make = Callable[[Any, Size], Region]  # (entry, (width, height) of the image) -> its region
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
Bools = npt.NDArray[np.bool_]

LARGE = 64 * 2**20  # bytes from which a file is indexed alone: as Python values it would take ten times the memory
_WINDOW = 4 * 2**20
_AHEAD = 2**16  # numbers and words are never cut off by the window's end
_DECODER, _SPACES = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")
_UPLOADED = re.compile(r"^(?!(?:19|20)\d{6})[0-9a-f]{8}-(?=.)")  # eight digits that begin like a year are a date
_ROBOFLOW = re.compile(r"_([A-Za-z0-9]{2,5})\.rf\.\w{8,}\.\w+$")
_logger = logging.getLogger(__name__)
NAME_KEYS = ("file_name", "filename", "path", "coco_url")  # LVIS v1 has URLs alone
_IMAGE_KEYS = (*NAME_KEYS, "id", "width", "height")
_ID_KEYS = ("id", "region_id", "object_id", "ann_id")  # of Visual Genome, of RefCOCO


@dataclass(frozen=True)
class NamedRegion:
    """One region of a file.

    Attributes:
        region: in pixels of the original image (a trace may count in 0..1).
        label: what the file calls it (our ``label``, COCO's category), or None.
        id: the annotation's id in the file, or None.
        source: its entry in the file with all keys, where it has one.
    """

    region: Region
    label: str | None = None
    id: int | str | None = None
    source: Entry | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Item:
    """An entry that is not yet made a region: many are never asked for."""

    what: str
    make: Callable[[Size], Region]
    label: object = None
    id: object = None
    source: Entry | None = None

    def named(self, image_size: Size, *, shares: bool = False, orientation: int = 1) -> NamedRegion:
        """The region on an image; RegionError names the entry. `shares`: it counts in 0..1; `orientation`: EXIF's."""
        stored = image_size[::-1] if orientation >= 5 else image_size
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is no region
                region = self.make(stored)
                if shares:
                    region = moved(region, stored, lambda points: points * stored, lambda mask: mask)
            region.require_fit(stored)
            if orientation != 1:
                region = turned(region, stored, orientation)
            if self.label is not None and not isinstance(self.label, str):
                raise RegionError(f"label is {self.label!r:.80}; give a text")
        except RegionError as error:
            raise RegionError(f"{self.what}: {error}") from error
        own = self.id if isinstance(self.id, int | str) and not isinstance(self.id, bool) else None
        return NamedRegion(region, self.label, own, self.source)


@dataclass(frozen=True)
class Photo:
    """What a file has for one photo; `name` is None where the file does not say which."""

    name: str | None
    items: Iterable[Item]
    size: Size | None = None
    image_id: str | None = None
    in_pixels: bool = True  # unless told that numbers are shares; False where the format itself says what they are


def items_from(
    entries: Iterable[Any], what: str, make: Make, label: str | Callable[[Entry], object] = "label"
) -> list[Item]:
    """The entries of a list, each called by the value of a key or what a function makes of it."""
    found = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            found.append(Item(f"{what} {index}", partial(make, entry)))
            continue
        called = at(entry, label) if isinstance(label, str) else label(entry)
        own = next((entry[key] for key in _ID_KEYS if entry.get(key) is not None), None)
        name = f"{what} {index}" + ("" if own is None else f" (id {own!r:.40})")
        found.append(Item(name, partial(make, entry), called, own, entry))
    return found


def entries_of(content: Entry, key: str) -> list[Entry]:
    """A list of dictionaries under a key; RegionError where it is none."""
    entries = items_of(content.get(key), f"{key!r}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of {key!r} is {entry!r:.80}, no dictionary")
    return entries


def at(record: Entry, path: str) -> Any:
    """What stands in a record under a key, or under nested keys and places with dots between them, or None."""
    found: Any = record
    for key in path.split("."):
        if isinstance(found, list):
            found = found[int(key)] if key.isdigit() and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, Mapping) else None
    return found


def id_key(value: object, what: str = "an id") -> str:
    """Exporters write an id as 7, 7.0, "7" or "007"; RegionError for a list or dictionary."""
    if isinstance(value, (Mapping, list)):
        raise RegionError(f"{what} is {value!r:.80}; give a number or a text")
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else text


def plain_name(name: str) -> str:
    """A file's name without the hash that uploads to Label Studio and exports of Roboflow get."""
    return _ROBOFLOW.sub(r".\1", _UPLOADED.sub("", name))


def warn_of_lost(counts: Mapping[str, int], ids: Iterable[str]) -> None:
    """Log how many annotations, by image_id, belong to no image of their file."""
    if lost := sum(counts[one] for one in counts.keys() - set(ids)):
        _logger.warning("%d annotations have an image_id that no image has: left out", lost)


def stated_size(width: object, height: object) -> Size | None:
    """Text that is a number counts; 0 and -1 are how exporters say that they do not know."""
    try:
        size = int(float(str(width))), int(float(str(height)))
    except (ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def box_of(values: object, form: BoxFormat) -> Box:
    """A box from its corners, its left top corner and size, or its centre and size."""
    x, y, right, bottom = numbers(values, 4, "the box")
    if form == "xyxy":
        return Box(x, y, right, bottom)
    if form == "cxcywh":
        x, y = x - right / 2, y - bottom / 2
    return Box.from_xywh(x, y, right, bottom)


def moved(region: Region, size: Size, points: Callable[[Floats], Floats], mask: Callable[[Bools], Bools]) -> Region:
    """A region of an image of (width, height) with its points, (n, 2) pixels, and masks sent through functions."""
    match region:
        case RegionSet():
            return RegionSet([moved(one, size, points, mask) for one in region.members])
        case Mask():
            return Mask(mask(region.array))
        case Box():
            return Box(*around(points(region.extent())).ravel())
        case Point():
            return Point(*points(region.extent())[0])
        case Polygon():
            return Polygon([points(np.array(ring)) for ring in region.rings])
        case Trace():
            return Trace(points(region.pixels(size)))
    return region


def turned(region: Region, size: Size, orientation: int) -> Region:
    """A region of the pixels as a file stores them, (width, height), on the photo that EXIF's 1 to 8 turns upright."""
    from patchioner.images import to_upright

    def mask(given: Bools) -> Bools:
        rows, columns = (-1 if orientation in one else 1 for one in ((3, 4, 7, 8), (2, 3, 6, 7)))
        return (given.T if orientation >= 5 else given)[::rows, ::columns]

    return moved(region, size, lambda points: to_upright(points, size, orientation), mask)


def large_coco(path: Path, photos: Callable[[Entry], list[Photo]]) -> list[Photo] | None:
    """The photos of a COCO file by `photos`, which takes a small one's content; or None. RegionError: it is broken."""
    categories: Any = []
    images: list[dict[str, Any]] = []
    places: dict[str, array[int]] = {}  # image_id -> start and length of each annotation
    with path.open("rb") as stream:
        window = _Window(stream)
        if window.peek() != "{":
            return None
        for key, start, text, value in window.members():
            if key == "images":
                image = json.loads(text.encode("latin-1"))
                images.append({one: image[one] for one in _IMAGE_KEYS if one in image})
            elif key == "annotations":
                owner = id_key(value.get("image_id"), "image_id")
                places.setdefault(owner, array("q")).extend((start, len(text)))
            elif key == "categories as one":
                categories = json.loads(text.encode("latin-1"))
    if not images or not places:
        return None
    ids = [id_key(image.get("id"), "id of an image") for image in images]
    warn_of_lost({owner: len(found) // 2 for owner, found in places.items()}, ids)

    def read(image: Entry, key: str) -> Iterator[Item]:
        entries = _slices(path, places.get(key, array("q")))
        content = {"images": [image], "annotations": entries, "categories": categories}
        yield from photos(content)[0].items

    each = zip(photos({"images": images, "annotations": [], "categories": categories}), images, ids, strict=True)
    return [replace(photo, items=_Late(partial(read, image, key))) for photo, image, key in each]


def large_lines(path: Path, photos: Callable[[Any], list[Photo] | None]) -> list[Photo] | None:
    """As `large_coco`, of JSON lines; `photos` of their records is None where those do not stand on lines."""
    known: dict[tuple[str | None, str | None], tuple[Photo, array[int]]] = {}  # with start and length of each line

    def read(key: tuple[str | None, str | None]) -> Iterator[Item]:
        for photo in photos(_slices(path, known[key][1])) or ():
            if (photo.name, photo.image_id) == key:
                yield from photo.items

    start = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line) if line.strip() else {}
            except ValueError:  # what is wrong with it is told where files are read whole
                return None
            found = photos([record]) if isinstance(record, Mapping) and record else None
            if line.strip() and found is None:
                return None
            for photo in found or ():
                key = photo.name, photo.image_id
                late = replace(photo, items=_Late(partial(read, key)))
                known.setdefault(key, (late, array("q")))[1].extend((start, len(line)))
            start += len(line)
    return [photo for photo, _ in known.values()]


@dataclass(frozen=True)
class _Late:
    """Entries that are read when they are looked at, from a file that must stay as it is."""

    read: Callable[[], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.read()


def _slices(path: Path, places: array[int]) -> list[Any]:
    """The JSON at some places of a file, each a start and a length."""
    found = []
    with path.open("rb") as stream:
        for start, size in zip(places[::2], places[1::2], strict=True):
            stream.seek(start)
            found.append(json.loads(stream.read(size)))
    return found


class _Window:
    """A part of a file as text of one character per byte, which moves on."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._text, self._start, self._at = stream, "", 0, 0
        self._more(_WINDOW)
        self._at = 3 if self._text.startswith("\xef\xbb\xbf") else 0

    def _more(self, size: int) -> bool:
        data = self._stream.read(size).decode("latin-1")
        self._text = self._text[self._at :] + data
        self._start, self._at = self._start + self._at, 0
        return bool(data)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            if len(self._text) - self._at < _AHEAD:
                self._more(_WINDOW)
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more(_WINDOW):
                return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise RegionError(f"not JSON: {wanted!r} is missing at byte {self._start + self._at:,}; is it complete?")
        self._at += 1

    def _value(self) -> tuple[int, str, Any]:
        """(place, text, value) of the next value; texts in it have a character per byte."""
        self.peek()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more(max(_WINDOW, len(self._text))):
                    raise RegionError(f"not JSON ({error.msg}); is it complete?") from error
                continue
            place, text = self._start + self._at, self._text[self._at : end]
            self._at = end
            return place, text, found

    def _until(self, end: str) -> Iterator[None]:
        """Once for each member of an object or list that begins here, over commas, to its end."""
        while self.peek() != end:
            yield
            if self.peek() != end:
                self._take(",")
        self._take(end)

    def members(self) -> Iterator[tuple[str, int, str, Any]]:
        """(key, place, text, value) of each value of an object; of images and annotations, of each entry."""
        self._take("{")
        for _ in self._until("}"):
            key = json.loads(self._value()[1])
            self._take(":")
            if key not in ("images", "annotations") or self.peek() != "[":
                yield f"{key} as one", *self._value()
                continue
            self._take("[")
            for _ in self._until("]"):
                yield key, *self._value()
