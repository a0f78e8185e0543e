"""Files of regions, by photo (docs/regions.md has the formats), and of traces; nothing is unpickled."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args, overload
from urllib.parse import unquote

import numpy as np

from patchioner.base.errors import RegionError, RegionFileError
from patchioner.base.files import check
from patchioner.regions.annotators import sam_masks
from patchioner.regions.base import Size
from patchioner.regions.formats import MAX_MASK_BYTES, narrated, photos_of, read_json
from patchioner.regions.items import BoxFormat, Item, NamedRegion, Photo, box_of, id_key, plain_name
from patchioner.regions.mask import Mask, require_same_size
from patchioner.regions.paths import Trace
from patchioner.regions.shapes import Box

_OWN = (".txt", ".json", ".xml", ".npz", ".npy")  # what a file for one photo may be
_SAM = "metadata.csv"  # in a folder of SAM's masks
_MOST_NAMES = 2000  # that are compared with that of a photo which is not there
Entered = NamedRegion | RegionFileError
_OWN_NAMES = (*_OWN, *map(str.upper, _OWN), f"/{_SAM}")


class RegionFile:
    """A file of regions, read once; it answers by photo; `photos` are all of them, with entries not yet made regions.

    Args:
        path: as in `read_regions`.
        content: what JSON the file holds, where that has been read already; or a tuple of `Item`s.
        box_format: how boxes are written, where the format itself does not say: "xyxy" corners, "xywh" left top corner
            and size, "cxcywh" centre and size.
        normalized: numbers that the format takes for pixels are 0..1 of the photo.
        exif: "ignore" for regions made on the stored pixels of photos that EXIF turns (as OpenCV does); then the name
            of each photo must be its path.

    Raises:
        RegionFileError: no such file, or an unknown or unsafe format.
        OptionError: another `box_format` or `exif`.

    Example:
        >>> named = RegionFile("coco.json").for_photo(photo.size, "photo.jpg")
    """

    def __init__(
        self,
        path: str | Path,
        content: object = None,
        *,
        box_format: BoxFormat | None = None,
        normalized: bool = False,
        exif: Literal["apply", "ignore"] = "apply",
    ) -> None:
        check((None, *get_args(BoxFormat)), box_format=box_format)
        check(("apply", "ignore"), exif=exif)
        self.path = Path(path)
        self._how: Any = {"box_format": box_format, "normalized": normalized, "exif": exif}
        self.photos: list[Photo] = []
        is_folder = content is None and self.path.is_dir()
        with _named_errors(self.path):
            if is_folder and (self.path / _SAM).is_file():
                self.photos = [sam_masks(self.path)]
            elif not is_folder:
                if content is None and not self.path.is_file():  # a pipe might never end
                    raise RegionError("no such file")
                self.photos = photos_of(self.path, content, box_format)
        self.has_own_files = is_folder and not self.photos  # one for each photo
        self._own_paths: dict[str, Path | None] = {}
        self._by_id = {photo.image_id: photo for photo in reversed(self.photos)}
        self._by_file_name: dict[str, list[Photo]] = {}
        for photo in self.photos:
            parts = _parts(photo.name) if photo.name else [""]
            ends = {_lowered(parts[-1]), _lowered(plain_name(parts[-1])), "/".join(parts[-2:])}
            for name in ends - {""}:
                self._by_file_name.setdefault(name, []).append(photo)

    def items(self, image_name: str | None = None) -> list[Item]:
        """The entries of one photo as they stand, one for each of `entries`; RegionFileError as there."""
        file = self.of(image_name)
        with _named_errors(file.path):
            return [item for photo in file._matching(image_name) for item in photo.items]

    def for_photo(self, image_size: Size, image_name: str | None = None) -> list[NamedRegion]:
        """The regions of one photo, in the file's order; RegionFileError for the first bad one.

        Args:
            image_size: (width, height) of the original image; what the file says must agree.
            image_name: its path or file name; of a file's images that whose path ends alike for longest is taken.
        """
        found = []
        for one in self.entries(image_size, image_name):
            if isinstance(one, RegionFileError):
                raise one
            found.append(one)
        return found

    def entries(self, image_size: Size, image_name: str | None = None) -> list[Entered]:
        """As `for_photo`, but a bad entry is its error; RegionFileError: no such photo, several, or of another size."""
        if self.has_own_files:
            return self.of(image_name).entries(image_size, image_name)
        with _named_errors(self.path):
            photos = self._matching(image_name)
            turn = 1 if self._how["exif"] == "apply" else _orientation(image_name)
            stored = image_size[::-1] if turn >= 5 else image_size
            for photo in photos:
                require_same_size(f"photo {photo.name!r} in it", photo.size or stored, stored, "give that image")
        found: list[Entered] = []
        held = 0  # bytes of masks
        for photo, item in [(one, item) for one in photos for item in one.items]:
            shares = bool(self._how["normalized"]) and photo.in_pixels
            try:
                with _named_errors(self.path):
                    if held <= MAX_MASK_BYTES:
                        named = item.named(image_size, shares=shares, orientation=turn)
                        held += sum(one.array.nbytes for one, _ in named.region.leaves() if isinstance(one, Mask))
                    if held > MAX_MASK_BYTES:
                        raise RegionError(f"{item.what}: with it masks take over {MAX_MASK_BYTES:,} bytes; give fewer")
                    found.append(named)
            except RegionFileError as error:
                found.append(error)
        with _named_errors(self.path):
            if self._how["box_format"] is None and _are_corners(found, stored):
                wrong = "boxes stick out of the image as x, y, width, height, all fit as corners"
                raise RegionError(f"{wrong}: say which by box_format (--box-format xywh or xyxy)")
        return found

    def of(self, image_name: str | None) -> RegionFile:
        """Of a folder, the file for a photo, read; else itself. RegionFileError without one."""
        if not self.has_own_files:
            return self
        if (path := self.own_path(image_name or "")) is None:
            wanted = f"{PurePosixPath(_parts(image_name or '')[-1]).stem} with {', '.join(_OWN)}"
            raise RegionFileError(f"region file {str(self.path)!r}: no file in it is called like the photo, {wanted}")
        own = RegionFile(path, **self._how)
        if len(own.photos) == 1:  # found by the file's name: the one in it may be old
            own.photos = [replace(own.photos[0], name=None)]
        return own

    def own_path(self, image_name: str) -> Path | None:
        """Of a folder: the file that is called like the photo, in the folders that are called like the photo's last."""
        if self.has_own_files and image_name not in self._own_paths:
            path = next(filter(os.path.isfile, self._own_candidates(image_name)), None)
            self._own_paths[image_name] = path.parent if path and path.name == _SAM else path
        return self._own_paths.get(image_name)

    def _own_candidates(self, image_name: str) -> Iterator[Path]:
        for parts in dict.fromkeys((PurePosixPath(image_name).parts or ("",), _parts(image_name))):
            for at in range(len(parts)):
                if not {"/", "//", "..", ""} & set(parts[at:]):  # which would lead out of the folder
                    photo = self.path.joinpath(*parts[at:])
                    yield from (photo.parent / f"{photo.stem}{suffix}" for suffix in _OWN_NAMES)

    def ambiguous(self, image_names: Iterable[str]) -> dict[str, RegionFileError]:
        """An error for each of the photos that would get what is another's by its path, or as much."""
        groups: dict[object, dict[str, Any]] = {}
        for name in image_names:
            found, alike = self._nearest(name)
            groups.setdefault(found, {})[name] = alike
        groups.pop(None, None)
        errors = {}
        for found, names in groups.items():
            most = max(names.values())
            is_one = len({os.path.normpath(name) for name in names if names[name] == most}) == 1
            for name in (one for one in names if names[one] < most or not is_one):
                wrong = f"{str(found)!r} is called like several photos, also {name!r}: name them, or folders, apart"
                errors[name] = RegionFileError(f"region file {str(self.path)!r}: {wrong}")
        return errors

    def _nearest(self, image_name: str) -> tuple[object, Any]:
        """What is called like a photo: the file in a folder or the name in a file, and how much alike; or None."""
        wanted = _parts(image_name)
        if self.has_own_files or not self._by_file_name:
            number = wanted[-1] if len(self.photos) > 1 else None
            return self.own_path(image_name) or number, ()
        best, length = self._called(wanted)
        return max((str(one.name) for one in best), default=None), length

    def _called(self, wanted: Sequence[str]) -> tuple[list[Photo], Any]:
        """The photos that are most like the wanted one, of its folder and name or else of its name, and how much."""
        named = self._by_file_name.get("/".join(wanted[-2:]), []) if len(wanted) > 1 else []
        named = named or self._by_file_name.get(_lowered(wanted[-1]), [])
        alike = [_alike(_parts(str(one.name)), wanted) for one in named]
        most = max(alike, default=())
        return [one for one, length in zip(named, alike, strict=True) if length == most], most

    def _matching(self, image_name: str | None) -> list[Photo]:
        """The photos that are the named one; several where one name has several ids."""
        photos = self.photos
        if len(photos) == 1 and (photos[0].name is None or image_name is None):
            return photos
        if image_name is None:
            raise RegionError(f"it has {len(photos)} images; say which one by its file name")
        wanted = _parts(image_name)
        if photos and not self._by_file_name:
            return [self._by_number(wanted[-1])]
        best, _ = self._called(wanted)
        if not best:
            names = [str(photo.name) for photo in photos[:_MOST_NAMES]]
            close = ", ".join(difflib.get_close_matches(image_name, names, n=3, cutoff=0.0))
            raise RegionError(f"none of its {len(photos)} images is called {wanted[-1]!r}; close: {close}")
        ends = sorted({"/".join(_parts(str(one.name))) for one in best})
        if len(ends) > 1:
            raise RegionError(f"{image_name!r} is ambiguous: {', '.join(ends[:3])} are called so; name its folder too")
        return best

    def _by_number(self, file_name: str) -> Photo:
        """A results list knows images by id alone: a file's name, or the number at its end as COCO's have."""
        stem = file_name.rpartition(".")[0]
        for one in (file_name, id_key(stem), *map(id_key, re.findall(r"\d+$", stem))):
            if one in self._by_id:
                return self._by_id[one]
        ids = ", ".join(str(photo.image_id) for photo in self.photos[:3])
        wrong = f"a list about several images (image_id {ids}), none the number at the end of {file_name!r}"
        raise RegionError(f"it is {wrong}; give the annotation file with its 'images', or one image's part")


@overload
def read_regions(path: str | Path, **how: Any) -> RegionFile: ...
@overload
def read_regions(
    path: str | Path, image_size: Size, image_name: str | None = None, **how: Any
) -> list[NamedRegion]: ...
def read_regions(
    path: str | Path, image_size: Size | None = None, image_name: str | None = None, **how: Any
) -> RegionFile | list[NamedRegion]:
    """Read a file of regions; with an image's size, what it has for that image.

    Args:
        path: of a format of docs/regions.md (ours, COCO and relatives, SAM's masks, annotators'), never a pickle; or
            a folder with such a file, or with one of SAM's masks, for each photo, called like it.
        image_size: (width, height) of the original image, in pixels.
        image_name: its path or file name, for files about several images.
        how: `box_format`, `normalized` and `exif` of `RegionFile`, where the numbers cannot say.

    Returns:
        The file, to be asked photo by photo; or the regions of the one image, in the file's order.

    Raises:
        RegionFileError: no such file, an unknown or unsafe format, no such image, a broken entry.

    Example:
        >>> regions = read_regions("regions.json", (640, 480))
        >>> model.caption("photo.jpg", [named.region for named in regions])
    """
    file = RegionFile(path, **how)
    return file if image_size is None else file.for_photo(image_size, image_name)


def read_trace(path: str | Path) -> Trace:
    """Read one trace from a JSON file.

    `[[x, y], ...]` in pixels; `[{"x": .., "y": .., "t": ..}, ...]` in 0..1, as the traces of Localized Narratives are
    published; one of their records, `{"traces": [[{"x": ..}, ...], ...]}`; or `{"trace": [...], "normalized": bool}`,
    which says so itself. RegionFileError for anything else.
    """
    with _named_errors(Path(path)):
        if not Path(path).is_file():
            raise RegionError("no such file")
        content = read_json(Path(path))
        record = content if isinstance(content, Mapping) else {"trace": content}
        if isinstance(record.get("traces"), list) and "trace" not in record:
            return narrated(record["traces"])
        points, normalized = record.get("trace"), record.get("normalized")
        if normalized not in (None, True, False):
            raise RegionError(f"'normalized' is {normalized!r:.80}; give true or false")
        if not isinstance(points, list) or not points:
            raise RegionError('no trace: give [[x, y], ...] in pixels or {"trace": [[x, y], ...], "normalized": true}')
        if isinstance(points[0], Mapping):
            return Trace.from_points_xyt(points, normalized=normalized is not False)
        return Trace(points, normalized=bool(normalized))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Every failure of reading becomes a RegionFileError that names the file."""
    name = f"region file {str(path)!r}"
    try:
        yield
    except RegionError as error:
        raise RegionFileError(f"{name}: {error}") from error
    except RecursionError:
        raise RegionFileError(f"{name}: nested too deeply") from None
    except OSError as error:
        raise RegionFileError(f"{name} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of what only looks like its format
        raise RegionFileError(f"{name} is broken: a value in it is not of the kind that belongs there") from error


def _are_corners(found: Iterable[object], size: Size) -> bool:
    """Whether a photo's boxes of COCO, (width, height), stick out of it, and corners as these numbers would not."""
    known = [one for one in found if isinstance(one, NamedRegion) and isinstance(one.region, Box)]
    given = [(one.region, (one.source or {}).get("bbox")) for one in known]
    rows = [row for box, row in given if row and box == box_of(row, "xywh")]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    start, end = table[:, :2], table[:, 2:]
    sticks_out = (start + end > np.array(size) * 1.05).any()
    return bool(sticks_out and ((start >= 0) & (end > start) & (end <= np.array(size) + 1)).all())


def _orientation(image_name: str | None) -> int:
    from patchioner.images import orientation

    if image_name is None or not Path(image_name).is_file():
        raise RegionError(f"exif='ignore' needs the path of the photo; {image_name!r} is none")
    return orientation(image_name)


def _parts(name: str) -> tuple[str, ...]:
    # Files written on Windows have backslashes, macOS takes accents apart, an address may be signed.
    if "://" in name:
        name = name.partition("?")[0].partition("#")[0]
    return PurePosixPath(unicodedata.normalize("NFC", unquote(name)).replace("\\", "/")).parts or ("",)


def _lowered(name: str) -> str:
    """A file's name with its ending in lower case."""
    stem, point, ending = name.rpartition(".")
    return f"{stem}{point}{ending.lower()}"


def _alike(one: Sequence[str], wanted: Sequence[str]) -> tuple[bool, int, bool]:
    """Whether the file's name is the same, how many parts before it from the end, and whether all are."""
    pairs = zip(reversed(one[:-1]), reversed(wanted[:-1]), strict=False)
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return one[-1] == wanted[-1], count, count + 1 == len(one) == len(wanted)
