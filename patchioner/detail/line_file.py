"""A file of JSON lines that grows line by line and survives being stopped at any moment.

Knows: whole lines and torn ones. Does NOT know: what is in them but for two names, "key" and "photo".
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchioner.base.errors import OptionError
from patchioner.base.files import atomic_path

_LOG = logging.getLogger(__name__)

Name = tuple[str, str]
"""(key, photo) of a line."""


class LineFile:
    """Lines, each a JSON object with a "key" and a "photo".

    A line is whole or absent: it is written at once and forced to the disk before `append` returns. What a kill or a
    power cut left of a last line is cut off when the file is opened; a damaged line elsewhere is left out, with a
    warning. The lines themselves stay on disk: only their places are remembered.

    Args:
        path: made when the first line is appended.
        opening: how every line begins. A file that begins otherwise is somebody else's, and is not touched.

    Raises:
        OptionError: the file is not one of ours.
        OSError: it cannot be read or written.

    Example:
        >>> lines = LineFile("out.jsonl", '{"format"')  # doctest: +SKIP
        >>> lines.append(("k1", "a.jpg"), '{"format": 1, "key": "k1", "photo": "a.jpg"}')  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], opening: str) -> None:
        self.path = Path(path)
        self._opening = opening.encode()
        self._places: dict[Name, tuple[int, int]] = {}
        self._by_key: dict[str, Name] = {}
        if self.path.exists():
            self._read()

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> list[Name]:
        """Of all lines, in their order."""
        return list(self._places)

    def under(self, key: str) -> Mapping[str, Any] | None:
        """The first line with that key, of whatever photo; None where there is none."""
        name = self._by_key.get(key)
        return None if name is None else self.values(name)

    def values(self, name: Name) -> dict[str, Any]:
        """The object of a line."""
        found: dict[str, Any] = json.loads(self._bytes([name])[0])
        return found

    def append(self, name: Name, line: str) -> None:
        """Write a line without a line break in it; a second line of one name is not written."""
        if name in self._places:
            return
        data = line.encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            start = file.tell()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._add(name, start, len(data))

    def sort(self, order: Sequence[Name]) -> None:
        """Bring lines into an order, those that it does not name first: atomically, and only where need be.

        Lines that another process has appended meanwhile are kept.
        """
        if self._places and self.path.stat().st_size != sum(
            size for _, size in self._places.values()
        ):
            self._places.clear()
            self._by_key.clear()
            self._read()
        named = [name for name in dict.fromkeys(order) if name in self._places]
        moved = set(named)
        wanted = [name for name in self._places if name not in moved] + named
        if wanted != list(self._places):
            self._write(wanted)

    def _read(self) -> None:
        size, damaged = 0, False
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                values = _object(data) if data.endswith(b"\n") else None
                name = None if values is None else _name(values)
                if name is None:
                    if values is not None or not self._may_be_torn(data):
                        raise self._foreign(number)
                    damaged = True
                    if data.endswith(b"\n"):
                        _LOG.warning("%s: line %d is damaged and left out", self.path, number)
                else:
                    self._add(name, size, len(data))
                size += len(data)
        if damaged:
            self._write(list(self._places))

    def _may_be_torn(self, data: bytes) -> bool:
        """Whether what is no JSON was once a line of ours."""
        start = data[: len(self._opening)].rstrip(b"\0\n")
        # A power cut can leave zeros where the end of a file was to be.
        return self._opening.startswith(start)

    def _foreign(self, number: int) -> OptionError:
        return OptionError(
            f"{str(self.path)!r} is no file of patchioner detail --out (see its line {number}); it is left as it is: "
            "choose another name"
        )

    def _add(self, name: Name, start: int, length: int) -> None:
        self._places[name] = (start, length)
        self._by_key.setdefault(name[0], name)

    def _bytes(self, names: Sequence[Name]) -> list[bytes]:
        found = []
        with self.path.open("rb") as file:
            for name in names:
                start, length = self._places[name]
                file.seek(start)
                found.append(file.read(length))
        return found

    def _write(self, names: Sequence[Name]) -> None:
        places: dict[Name, tuple[int, int]] = {}
        with (
            atomic_path(self.path) as temporary,
            temporary.open("wb") as file,
            self.path.open("rb") as old,
        ):
            for name in names:
                start, length = self._places[name]
                old.seek(start)
                places[name] = (file.tell(), file.write(old.read(length)))
            file.flush()
            os.fsync(file.fileno())
        self._places = places


def _object(data: bytes) -> object | None:
    """What a line holds; None where it is no JSON."""
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found


def _name(values: object) -> Name | None:
    if not isinstance(values, dict):
        return None
    key, photo = values.get("key"), values.get("photo")
    return (key, photo) if isinstance(key, str) and isinstance(photo, str) else None
