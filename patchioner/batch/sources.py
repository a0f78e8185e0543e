"""Where the photos of a batch job come from: folders, lists, annotations, tars, tables; here or behind a URL."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionFileError
from patchioner.base.files import file_sha256
from patchioner.base.optional import require
from patchioner.images import ImageSource, readable_formats
from patchioner.regions import RegionFile

PHOTOS_PER_SHARD = 256
TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
TABLES = (".parquet", ".arrow")
_LISTS = (".txt", ".lst", ".list")
# Formats that Pillow opens and that hold no photos, or start another program.
_NO_PHOTOS = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Where systems and programs keep small copies of photos.
_COPIES = {"__MACOSX", "@eaDir", "thumbnails", "thumbs"}


class Lazy:
    """A picture that is fetched when a reader's turn comes; `load_image` takes it for an open file."""

    def __init__(self, name: str, fetch: Callable[[], bytes]) -> None:
        self._name, self._fetch = name, fetch

    def read(self) -> bytes:
        """The bytes; ImageError whatever a library says of why there are none."""
        try:
            return self._fetch()
        except PatchionerError:
            raise
        except Exception as error:
            raise ImageError(f"{self._name} cannot be read ({error}): check the source") from error


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo and what its source says of it.

    Attributes:
        photo: its name in rows.
        image: what a model reads; None where `error` says why there is nothing.
        size: of the file in bytes, where it is cheap to know.
        regions: the file that holds its regions; None is the whole image.
        called: its name in that file; None where the file is its own.
        source: what else the source carries for it, JSON values.
        error: why it cannot be read at all.
    """

    photo: str
    image: ImageSource | None = None
    size: int | None = None
    regions: RegionFile | None = None
    called: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    error: PatchionerError | None = None


class Source(Protocol):
    """Photos in pieces that can be read on their own, each under a key that stays its own.

    Attributes:
        identity: JSON values that say which photos and regions these are.
        per_shard: keys that make a shard.
        left_out: what was found and is no photo, and how often.
    """

    identity: Mapping[str, Any]
    per_shard: int
    left_out: Mapping[str, int]

    def keys(self) -> Sequence[str]:
        """Of all that there is, in a stable order."""
        ...

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """The photos under these keys, in order."""
        ...


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Attributes:
        regions: a file of regions of all photos, or a folder with a file for each (same path, other suffix).
        image_column: of a table, holds pictures or paths.
        region_column: of a table, holds regions or boxes.
        box_format: what four numbers of a table mean: "xyxy", "xywh" or "cxcywh", pixels.
    """

    regions: str | None = None
    image_column: str | None = None
    region_column: str | None = None
    box_format: str | None = None


class Store:
    """Files below a folder, here or behind a URL that fsspec knows."""

    def __init__(self, root: str) -> None:
        self.fs: Any = None
        self.root = root
        if "://" in root:
            try:
                self.fs, self.root = require("fsspec.core", "batch").url_to_fs(root)
            except (ValueError, ImportError) as error:
                if isinstance(error, PatchionerError):
                    raise
                raise OptionError(f"{root} cannot be reached: {error}") from error

    def path(self, name: str) -> str:
        """Where a file of the store lies; absolute names and URLs stay as they are."""
        return name if "://" in name else os.path.join(self.root, name) if self.root else name

    def open(self, name: str) -> BinaryIO:
        """A file, to be read."""
        if self.fs is None and "://" not in name:
            return open(self.path(name), "rb")
        fs, path = _located(self, name)
        opened: BinaryIO = fs.open(path, "rb")
        return opened

    def image(self, name: str) -> ImageSource:
        """What a model reads: a path, or a picture that is fetched later."""
        if self.fs is None and "://" not in name:
            return self.path(name)

        return Lazy(name, partial(self.read, name))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of a file, or some of them."""
        if self.fs is None and "://" not in name:
            with open(self.path(name), "rb") as stream:
                stream.seek(start or 0)
                return stream.read(-1 if stop is None else stop - (start or 0))
        fs, path = _located(self, name)
        data: bytes = fs.cat_file(path, start=start, end=stop)
        return data

    def sizes(self) -> dict[str, int | None]:
        """Every file below, by its path from here, sorted; a link is followed once."""
        if self.fs is None:
            return dict(sorted(_walk(self.root)))
        found = self.fs.find(self.root, detail=True)
        start = len(self.root.rstrip("/")) + 1
        return {
            path[start:]: one.get("size")
            for path, one in sorted(found.items())
            if not _is_copy(path[start:])
        }


def _located(store: Store, name: str) -> tuple[Any, str]:
    if "://" in name:
        other = Store(name)
        return other.fs, other.root
    return store.fs, store.path(name)


def _is_copy(path: str) -> bool:
    return any(part in _COPIES or part.startswith(".") for part in path.split("/"))


def _walk(root: str) -> Iterator[tuple[str, int | None]]:
    seen = {os.path.realpath(root)}
    for folder, below, files in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(below):
            real = os.path.realpath(os.path.join(folder, name))
            if not _is_copy(name) and real not in seen:
                seen.add(real)
                kept.append(name)
        below[:] = kept
        for name in files:
            path = os.path.join(folder, name)
            if not _is_copy(name) and (os.path.isfile(path) or os.path.islink(path)):
                size = os.path.getsize(path) if os.path.exists(path) else None
                yield os.path.relpath(path, root).replace(os.sep, "/"), size


def is_picture(name: str) -> bool:
    """Whether a file's suffix is one that Pillow reads here as a photo."""
    suffix = os.path.splitext(name)[1].lower()
    return readable_formats().get(suffix, "EPS") not in _NO_PHOTOS


class Regions:
    """Where regions of photos stand: in one file about all, or in a file for each."""

    def __init__(self, place: str) -> None:
        self._folder = Path(place) if os.path.isdir(place) else None
        self.file = None if self._folder else RegionFile(_local(place))
        self.identity = (
            str(self._folder.resolve()) if self._folder else file_sha256(_local(place))
        )

    @cached_property
    def _beside(self) -> dict[str, str]:
        assert self._folder is not None, "asked of a folder alone"
        names = Store(str(self._folder)).sizes()
        return {os.path.splitext(name)[0]: name for name in names if not is_picture(name)}

    def of(self, photo: str) -> tuple[RegionFile, str | None]:
        """The file for a photo, and the name by which it knows the photo; RegionFileError without one."""
        if self.file is not None:
            return self.file, photo
        stem = os.path.splitext(photo)[0]
        for known in (stem, stem.rpartition("/")[2]):
            if known in self._beside:
                return RegionFile(Path(str(self._folder), self._beside[known])), None
        raise RegionFileError(
            f"no file of regions for {photo!r} in {str(self._folder)!r}: name it {stem}.json"
        )


def _local(place: str) -> Path:
    if "://" not in place:
        return Path(place)
    fsspec: Any = require("fsspec", "batch")
    return Path(fsspec.open_local(f"simplecache::{place}"))


class Photos:
    """Photos that are files of their own.

    Args:
        store: where they lie.
        sizes: name -> bytes of each.
        regions: of them; None is the whole image of each.
        identity: of the source.
        left_out: see `Source`.
    """

    def __init__(
        self,
        store: Store,
        sizes: Mapping[str, int | None],
        regions: Regions | None,
        identity: str,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self._store, self._sizes, self._regions = store, sizes, regions
        self.identity = {"source": identity, "regions": regions and regions.identity}
        self.per_shard = PHOTOS_PER_SHARD
        self.left_out = left_out or {}

    def keys(self) -> Sequence[str]:
        """The photos' names."""
        return list(self._sizes)

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """See `Source`."""
        for name in keys:
            photo, image = plain(name), self._store.image(name)
            try:
                file, called = self._regions.of(name) if self._regions else (None, None)
            except PatchionerError as error:
                yield Sample(photo, error=error)
                continue
            yield Sample(photo, image, self._sizes.get(name), file, called)


def plain(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 as backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_source(place: str | os.PathLike[str], reading: Reading | None = None) -> Source:
    """Find out what a source is, by its name and what lies there.

    Args:
        place: a folder (with those below it), a glob, a list of photos (.txt, one a line, from the list's folder), a
            file of regions with the photos beside it, WebDataset tars, Parquet or Arrow files, a folder of
            `datasets.save_to_disk`; or the same behind a URL of fsspec (s3://, gs://, memory://).
        reading: regions and columns.

    Raises:
        OptionError, ImageError: nothing is there, or nothing that is known.
        RegionFileError: a file of regions that cannot be read.
        MissingExtraError: pyarrow or fsspec is not installed.
    """
    how, name = reading or Reading(), os.fspath(place)
    identity = name if "://" in name else os.path.abspath(name)
    if glob.has_magic(name) and not os.path.exists(name):
        return _of_glob(name, how, identity)
    if "://" not in name and not os.path.exists(name):
        raise ImageError(f"nothing at {name!r}: check the path")
    store = Store(name)
    is_folder = os.path.isdir(name) if store.fs is None else store.fs.isdir(store.root)
    if is_folder:
        return _of_files(store, store.sizes(), how, identity)
    head, _, tail = name.rpartition("/")
    store = Store(head or ("/" if name.startswith("/") else ""))
    suffix = os.path.splitext(tail)[1].lower()
    if is_picture(tail) or tail.lower().endswith(TARS + TABLES):
        return _of_files(store, {tail: None}, how, identity)
    if suffix in _LISTS:
        return _of_list(store, tail, how, identity)
    if how.regions is not None:
        raise OptionError(f"{name!r} is no folder or list of photos, beside --regions: give one")
    return _of_annotations(store, tail, name, identity)


def _of_glob(pattern: str, how: Reading, identity: str) -> Source:
    if "://" in pattern:
        root = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
        store = Store(root)
        paths = store.fs.glob(Store(pattern).root)
        sizes = {path[len(store.root.rstrip("/")) + 1 :]: None for path in sorted(paths)}
    else:
        root = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
        store = Store(root)
        found = (path for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path))
        names = {os.path.relpath(path, root or ".").replace(os.sep, "/"): path for path in found}
        sizes = {name: os.path.getsize(path) for name, path in names.items() if not _is_copy(name)}
    return _of_files(store, sizes, how, identity)


def _of_files(
    store: Store, sizes: Mapping[str, int | None], how: Reading, identity: str
) -> Source:
    """By what there is: pictures, else tars, else tables."""
    from patchioner.batch.packed import Tables, Tars

    regions = None if how.regions is None else Regions(how.regions)
    kinds: tuple[Callable[[str], bool], ...] = (
        is_picture,
        lambda name: name.lower().endswith(TARS),
        lambda name: name.lower().endswith(TABLES),
    )
    for place, is_kind in enumerate(kinds):
        wanted = {name: size for name, size in sizes.items() if is_kind(name)}
        if not wanted:
            continue
        others = Counter(
            os.path.splitext(name)[1].lower() or "without an ending"
            for name in sizes
            if name not in wanted
        )
        if place == 0:
            return Photos(store, wanted, regions, identity, others)
        packed = Tars if place == 1 else Tables
        return packed(store, wanted, how, regions, identity, others)
    raise ImageError(f"no pictures, tars or tables in {identity!r}: check the path")


def _of_list(store: Store, name: str, how: Reading, identity: str) -> Source:
    with store.open(name) as stream:
        lines = stream.read().decode("utf-8-sig", "surrogateescape").splitlines()
    named = [line.strip() for line in lines if line.strip()]
    if not named:
        raise ImageError(f"{identity!r} lists no photo: write one path a line")
    twice = len(named) - len(set(named))
    regions = None if how.regions is None else Regions(how.regions)
    left_out = {"listed twice": twice} if twice else {}
    sizes = {one: _size_of(store, one) for one in named}
    return Photos(store, sizes, regions, identity, left_out)


def _size_of(store: Store, name: str) -> int | None:
    local = store.fs is None and "://" not in name and os.path.isfile(store.path(name))
    return os.path.getsize(store.path(name)) if local else None


def _of_annotations(store: Store, name: str, path: str, identity: str) -> Source:
    """A file of regions, whose photos lie beside it or below its folder."""
    regions = Regions(path)
    assert regions.file is not None, "a file, no folder"
    sizes: dict[str, int | None] = {}
    for photo in regions.file.photos:
        called = photo.name or _beside(store, photo.image_id or os.path.splitext(name)[0])
        sizes[called] = _size_of(store, called)
    if not sizes:
        raise RegionFileError(f"{path!r} has no photos: give them as SOURCE, and it as --regions")
    return Photos(store, sizes, regions, identity)


def _beside(store: Store, stem: str) -> str:
    """The picture of that stem in the folder; where there is none, the name it should have."""
    suffixes = [suffix for suffix, kind in readable_formats().items() if kind not in _NO_PHOTOS]
    for suffix in (".jpg", ".jpeg", ".png", *suffixes):
        if store.fs is None and os.path.isfile(store.path(stem + suffix)):
            return stem + suffix
    return f"{stem}.jpg"


def as_json(values: Mapping[str, Any]) -> str | None:
    """JSON text of what a source carries, without bytes; dates and the like by their text. None for nothing."""
    kept = {key: value for key, value in values.items() if not isinstance(value, bytes)}
    return json.dumps(kept, default=str) if kept else None
