"""Photos that wait to be described, each perhaps with regions of its own; and the JSON list that names them.

Knows: paths, files of regions. Does NOT know: models, stages, results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.base.errors import ImageError, RegionFileError
from patchioner.images import ImageSource, load_image
from patchioner.regions import NamedRegion, RegionFile, read_regions

if TYPE_CHECKING:
    from PIL import Image

    from patchioner.detail.divide import Given

RegionReader = Callable[[tuple[int, int]], "Sequence[Given]"]
"""(width, height) of the photo -> what was given for it."""


@dataclass(frozen=True)
class PhotoJob:
    """A photo to describe.

    Attributes:
        name: what it is called in messages and results.
        load: reads it: upright, RGB.
        regions: gives its regions; None: they are found.

    Example:
        >>> PhotoJob.of("photo.jpg").name
        'photo.jpg'
    """

    name: str
    load: Callable[[], Image.Image]
    regions: RegionReader | None = None

    @classmethod
    def of(cls, source: ImageSource, regions: RegionReader | None = None) -> PhotoJob:
        """From a path or a picture in memory, which is called "photo"."""
        named = isinstance(source, (str, os.PathLike))
        return cls(os.fspath(source) if named else "photo", lambda: load_image(source), regions)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Listed:
    """An entry of a list of photos.

    Attributes:
        photo: its path, or what else the list calls it.
        regions: gives its own regions; None: it has none.
    """

    photo: str
    regions: RegionReader | None = None


def read_photo_list(path: str | os.PathLike[str]) -> list[Listed]:
    """Read a JSON list of photos.

    ``["a.jpg", {"photo": "b.jpg", "regions": "b.json"}, {"photo": "c.jpg", "regions": [{"box": [10, 20, 200, 220],
    "label": "bus"}]}]``: paths start at the list's own folder. ``regions`` names a file that
    `patchioner.region_files.read_regions` reads, or holds entries in this project's own form (`region_files.native`).

    Raises:
        ImageError: no such file, no JSON, no photo in it, or an entry of another form; the message counts from 0.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"the list of photos {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, list) or not content:
        raise ImageError(
            f'{str(path)!r} is no list of photos; write ["a.jpg", {{"photo": "b.jpg", "regions": [...]}}]'
        )
    return [_listed(entry, place, file) for place, entry in enumerate(content)]


def _listed(entry: object, place: int, file: Path) -> Listed:
    plain = {"photo": entry} if isinstance(entry, str) else entry
    if (
        not isinstance(plain, Mapping)
        or not isinstance(plain.get("photo"), str)
        or not plain["photo"]
        or set(plain) - {"photo", "regions"}
    ):
        raise ImageError(
            f"entry {place} of {str(file)!r} is {entry!r:.80}; write a path, or "
            '{"photo": path, "regions": file or list}'
        )
    name = str(plain["photo"])
    beside = file.parent / name
    # "scikit-image:coffee" is no path, "10:30.jpg" is one.
    photo = name if ":" in name.split("/", 1)[0] and not beside.exists() else str(beside)
    if plain.get("regions") is None:
        return Listed(photo)
    return Listed(photo, _reader(plain["regions"], Path(name).name, place, file))


def _reader(given: object, photo: str, place: int, file: Path) -> RegionReader:
    if isinstance(given, str):
        return lambda size: read_regions(file.parent / given, size, image_name=photo)
    if not isinstance(given, list):
        raise ImageError(
            f"regions of entry {place} of {str(file)!r} are {given!r:.80}; give a file name or a list"
        )

    def read(size: tuple[int, int]) -> list[NamedRegion]:
        try:
            return RegionFile(file, {"regions": given}).for_photo(size)
        except RegionFileError as error:
            raise RegionFileError(f"{str(file)!r}, entry {place}: {error}") from error

    return read
