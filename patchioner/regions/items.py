"""What a reader of a region file gives: entries that are not yet regions, by photo; and how their numbers count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Size, as_array, items_of, numbers
from patchioner.regions.coverage import Floats
from patchioner.regions.mask import Mask
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Point, RegionSet

Entry = Mapping[str, Any]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


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
        """The region on an image of (width, height); RegionError with the entry's place.

        Args:
            shares: its numbers are 0..1 of the image.
            orientation: EXIF's, of the stored pixels that it was made on; 1 where those are upright.
        """
        stored = image_size[::-1] if orientation >= 5 else image_size
        try:
            region = self.make(stored)
            if shares:
                region = moved(region, stored, lambda points: points * stored)
            region.require_fit(stored)
            if orientation != 1:
                region = turned(region, stored, orientation)
        except RegionError as error:
            raise RegionError(f"{self.what}: {error}") from error
        if self.label is not None and not isinstance(self.label, str):
            raise RegionError(f"{self.what}: label is {self.label!r:.80}; give a text")
        known = isinstance(self.id, (int, str)) and not isinstance(self.id, bool)
        own: Any = self.id if known else None
        return NamedRegion(region, self.label, own, self.source)


@dataclass(frozen=True)
class Photo:
    """What a file has for one photo; `name` is None where the file does not say which."""

    name: str | None
    items: Sequence[Item]
    size: Size | None = None
    image_id: str | None = None
    in_pixels: bool = True  # unless told that numbers are shares; False where the format itself says what they are


def items_from(
    entries: Iterable[Entry],
    what: str,
    make: Callable[[Entry, Size], Region],
    label: Callable[[Entry], object] = lambda entry: entry.get("label"),
) -> tuple[Item, ...]:
    """The entries of a list; `make` gives the region of one on an image of (width, height)."""
    found = []
    for index, entry in enumerate(entries):
        known = isinstance(entry, Mapping)
        own, called = (entry.get("id"), label(entry)) if known else (None, None)
        name = f"{what} {index}" + ("" if own is None else f" (id {own!r:.40})")
        found.append(Item(name, partial(make, entry), called, own, entry if known else None))
    return tuple(found)


def one_photo(
    content: Entry,
    key: str,
    make: Callable[[Entry, Size], Region],
    size: Size | None,
    label: str = "label",
) -> list[Photo]:
    """Of a file about one photo, with its entries under a key."""
    items = items_from(entries_of(content, key), key[:-1], make, lambda entry: entry.get(label))
    return [Photo(None, items, size)]


def entries_of(content: Entry, key: str) -> list[Entry]:
    """A list of dictionaries under a key; RegionError where it is none."""
    entries = items_of(content.get(key), f"{key!r}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of {key!r} is {entry!r:.80}, no dictionary")
    return entries  # type: ignore[return-value]


def stated_size(width: object, height: object) -> Size | None:
    """Text that is a number counts; 0 and -1 are how exporters say that they do not know."""
    try:
        size = int(str(width)), int(str(height))
    except ValueError:
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


def moved(
    region: Region,
    size: Size,
    points: Callable[[Floats], Floats],
    mask: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]] = lambda array: array,
) -> Region:
    """A region of an image of (width, height) with its points, (n, 2) pixels, and masks sent through functions."""
    if isinstance(region, RegionSet):
        return RegionSet([moved(one, size, points, mask) for one in region.members])
    if isinstance(region, Mask):
        return Mask(mask(region.array))
    if isinstance(region, Box):
        corners = points(as_array([(region.x1, region.y1), (region.x2, region.y2)]))
        return Box(*corners.min(axis=0), *corners.max(axis=0))
    if isinstance(region, Point):
        return Point(*points(as_array([(region.x, region.y)]))[0])
    if isinstance(region, Polygon):
        return Polygon([points(as_array(ring)) for ring in region.rings])
    return Trace(points(region.pixels(size))) if isinstance(region, Trace) else region


def turned(region: Region, size: Size, orientation: int) -> Region:
    """A region of the pixels as a file stores them, (width, height), on the upright photo.

    Args:
        orientation: EXIF's 1 to 8.
    """
    swapped = orientation >= 5
    width, height = size[::-1] if swapped else size
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)

    def points(given: Floats) -> Floats:
        x, y = given.T[::-1] if swapped else given.T
        return np.stack([width - x if across else x, height - y if down else y], axis=1)

    def mask(given: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        upright = given.T if swapped else given
        return upright[:: -1 if down else 1, :: -1 if across else 1]

    return moved(region, size, points, mask)
