"""COCO annotations of any size: one pass notes where in the file each photo's lie; they are read when asked for."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

from patchioner.base.errors import RegionError

if TYPE_CHECKING:
    from patchioner.regions.items import Item, Photo

LARGE = 64 * 2**20
"""Bytes from which a file is read in this way: as Python values it would take about ten times as much memory."""
_WINDOW = 4 * 2**20
_AHEAD = 2**16  # numbers and words are never cut off by the window's end
_DECODER, _SPACES = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")
_IMAGE_KEYS = ("id", "file_name", "coco_url", "width", "height")


def large_coco(
    path: Path, photos: Callable[[Mapping[str, Any]], list[Photo]]
) -> list[Photo] | None:
    """The photos of a COCO file, whose entries are read when they are asked for; None where it is another file.

    Args:
        path: of the file, which must stay as it is.
        photos: content of a small COCO file -> its photos.

    Raises:
        RegionError: JSON that is cut short or broken.
    """
    head: dict[str, str] = {}
    images: list[dict[str, Any]] = []
    places, sizes, owners = array("q"), array("q"), array("q")
    numbers: dict[str, int] = {}  # image_id as text -> its number
    with path.open("rb") as stream:
        window = _Window(stream)
        if window.peek() != "{":
            return None
        for key, start, text, value in _members(window):
            if key == "images":
                image = json.loads(text.encode("latin-1"))
                images.append({one: image.get(one) for one in _IMAGE_KEYS if one in image})
            elif key == "annotations":
                owner = str(value.get("image_id"))
                owners.append(numbers.setdefault(owner, len(numbers)))
                places.append(start)
                sizes.append(len(text))
            else:
                head[key] = text
    if not images or not owners:
        return None
    categories = json.loads(head.get("categories as one", "[]").encode("latin-1"))
    order = np.argsort(np.asarray(owners), kind="stable")
    ends: Any = np.searchsorted(np.asarray(owners)[order], np.arange(len(numbers) + 1))

    @lru_cache(4)
    def read(owner: int, place: int) -> tuple[Item, ...]:
        with path.open("rb") as stream:
            entries = [_slice(stream, places[one], sizes[one]) for one in rows(owner)]
        content = {"images": [images[place]], "annotations": entries, "categories": categories}
        return tuple(photos(content)[0].items)

    def rows(owner: int) -> list[int]:
        found: list[int] = order[ends[owner] : ends[owner + 1]].tolist()
        return found

    found = photos({"images": images, "annotations": [], "categories": categories})
    for place, image in enumerate(images):
        number = numbers.get(str(image.get("id")))
        if number is not None:
            count = int(ends[number + 1] - ends[number])
            items = _Items(count, partial(read, number, place))
            found[place] = replace(found[place], items=items)
    return found


class _Items(Sequence["Item"]):
    """Entries of one photo, read when they are looked at."""

    def __init__(self, count: int, read: Callable[[], tuple[Item, ...]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        return self._read()[place]


def _slice(stream: BinaryIO, start: int, size: int) -> Any:
    stream.seek(start)
    return json.loads(stream.read(size))


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

    def take(self, wanted: str) -> None:
        """Pass over a character; RegionError where it is another."""
        if self.peek() != wanted:
            place = self._start + self._at
            raise RegionError(f"not JSON: {wanted!r} is missing at byte {place:,}; is it complete?")
        self._at += 1

    def value(self) -> tuple[int, str, Any]:
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


def _members(window: _Window) -> Iterator[tuple[str, int, str, Any]]:
    """(key, place, text, value) of each value of an object; of images and annotations, of each entry."""
    window.take("{")
    while window.peek() != "}":
        key = json.loads(window.value()[1])
        window.take(":")
        if key not in ("images", "annotations") or window.peek() != "[":
            yield f"{key} as one", *window.value()
        else:
            window.take("[")
            while window.peek() != "]":
                yield key, *window.value()
                if window.peek() != "]":
                    window.take(",")
            window.take("]")
        if window.peek() != "}":
            window.take(",")
    window.take("}")
