"""Where the photos of a batch job come from: folders, lists, annotations, tars, tables; here or behind a URL."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, TypeAlias

from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionFileError
from patchioner.base.files import file_sha256, is_copy, walk
from patchioner.base.optional import require
from patchioner.images import ImageSource, is_picture, load_image, readable_formats
from patchioner.regions import RegionFile
from patchioner.regions.annotators import items_given
from patchioner.regions.items import plain_name

TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
TABLES, TEXT_TABLES = (".parquet", ".arrow"), (".csv", ".tsv")
_LISTS = (".txt", ".lst", ".list")
_END = 4096  # bytes
_MOST_NUMBERED, _RANGE = 10**6, re.compile(r"\{(\d+)\.\.(\d+)\}")
_NO_REGIONS = RegionFile("", ())
Sizes: TypeAlias = "Mapping[str, int | None]"


class Lazy:
    """A picture that is fetched when a reader's turn comes; `load_image` takes it for an open file."""

    def __init__(self, name: str, fetch: Callable[[], bytes]) -> None:
        self.name, self._fetch = name, fetch

    def read(self) -> bytes:
        """The bytes; ImageError whatever a library says of why there are none."""
        try:
            return self._fetch()
        except PatchionerError:
            raise
        except Exception as error:
            raise ImageError(f"{self.name} cannot be read ({error}): check the source") from error


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo and what its source says of it."""

    photo: str  # its name in rows
    image: ImageSource | None = None  # what a model reads; None where `error` says why
    size: int | None = None  # of the file in bytes, where it is cheap to know
    regions: RegionFile | None = None  # that holds its regions; None is the whole image
    called: str | None = None  # in that file; None where the file is its own
    source: Mapping[str, Any] = field(default_factory=dict)  # what else is carried, JSON values
    error: PatchionerError | None = None  # why it cannot be read at all
    origin: str | None = None  # see `Row`


@dataclass(frozen=True)
class Reading:
    """How a source is to be read; the last three are told to `RegionFile`."""

    regions: str | None = None  # a file about all photos, or a folder: same path, other suffix
    image_column: str | None = None  # of a table, holds pictures or paths
    region_column: str | None = None  # of a table, holds regions or boxes
    box_format: str | None = None  # of four numbers: "xyxy", "xywh" or "cxcywh"
    normalized: bool | None = None  # numbers are 0..1 of the photo
    exif: str | None = None  # "ignore": of the pixels as stored, before the EXIF rotation

    def __post_init__(self) -> None:
        RegionFile("", {"regions": []}, **self.numbers)

    @property
    def numbers(self) -> dict[str, Any]:
        """What the numbers of regions mean, as `RegionFile` takes it, where that is told."""
        return {key: one for key in ("box_format", "normalized", "exif") if (one := getattr(self, key)) is not None}


class Store:
    """Files below a folder, here or behind a URL that fsspec knows; OptionError where it does not."""

    def __init__(self, place: str) -> None:
        self.is_local, fsspec = "://" not in place, require("fsspec", "batch")
        if self.is_local:  # a name may have "::", which joins URLs
            self.fs, self.root = fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(place))
            return
        try:
            self.fs, self.root = fsspec.url_to_fs(place)
        except (ValueError, ImportError) as error:  # no such protocol, or not its package
            raise OptionError(f"{place} cannot be reached: {error}") from error

    def _at(self, name: str) -> tuple[Any, str]:
        if "://" in name:
            return Store(name).fs, Store(name).root
        return self.fs, os.path.join(self.root, name)

    def open(self, name: str) -> Any:
        """A file, to be read in binary."""
        fs, path = self._at(name)
        return fs.open(path, "rb")

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Any:
        """The bytes of a file, or some of them."""
        fs, path = self._at(name)
        return fs.cat_file(path, start=start, end=stop)

    def image(self, name: str) -> ImageSource:
        """What a model reads: a path, or a picture that is fetched later."""
        is_path = self.is_local and "://" not in name
        return self._at(name)[1] if is_path else Lazy(name, partial(self.read, name))

    def stamp(self, name: str) -> str:
        """What tells a file from another of its name: its bytes, and its content's tag or time of writing."""
        fs, path = self._at(name)
        found = fs.info(path)
        tags = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
        return f"{found.get('size')} {next((found[tag] for tag in tags if tag in found), None)}"

    def size(self, name: str) -> int | None:
        """Of a file here; None of others, which would have to be asked for it."""
        path = self._at(name)[1]
        return os.path.getsize(path) if self.is_local and os.path.isfile(path) else None

    def below(self) -> dict[str, int | None]:
        """Sizes of all files, by their path from here, sorted; a link to a folder is followed once."""
        if self.is_local:
            return dict(sorted(walk(self.root)))
        found = self.fs.find(self.root, detail=True)
        sizes = {_from(self.root, path): one.get("size") for path, one in sorted(found.items())}
        return {name: size for name, size in sizes.items() if not is_copy(name)}

    def matching(self, pattern: str) -> dict[str, int | None]:
        """Sizes of the files that a glob finds."""
        found = self.fs.glob(pattern)
        names = (_from(self.root, path) for path in sorted(found) if not self.fs.isdir(path))
        return {name: self.size(name) for name in names if not is_copy(name)}


def _from(root: str, path: str) -> str:
    return path[len(root.rstrip("/")) + 1 :]


def plain(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 as backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def region_file(place: str, how: Reading) -> RegionFile:
    """The regions of photos: a file about all, or a folder with one for each; a copy of what lies behind a URL."""
    if "://" in place:
        place = require("fsspec", "batch").open_local(f"simplecache::{place}")
    return RegionFile(place, **how.numbers)


class Source(ABC):
    """Photos in pieces that can be read on their own, each under a key that stays its own.

    `sizes` are the files, with the bytes of each where they are known; `identity`, JSON values, says which photos and
    regions these are, `left_out` what was found and is no photo, and how often.
    """

    per_shard: ClassVar[int] = 1  # keys

    def __init__(self, store: Store, sizes: Sizes, how: Reading, name: str, regions: RegionFile | None = None) -> None:
        self.store, self.sizes, self.how = store, sizes, how
        if how.exif == "ignore" and not (isinstance(self, Photos) and store.is_local):
            raise OptionError("--exif ignore needs photos that are files here: unpack them first")
        self.regions = regions or (None if how.regions is None else region_file(how.regions, how))
        told = None
        if self.regions is not None:
            path, is_folder = self.regions.path, self.regions.path.is_dir()
            told = str(path.resolve()) if is_folder else file_sha256(path)
        self.identity: dict[str, Any] = {"source": name, "regions": told, "box_format": None, **how.numbers}
        self.left_out: dict[str, int] = {}

    def keys(self) -> Sequence[str]:
        """Of all that there is, in a stable order."""
        return list(self.sizes)

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        """These keys, in groups that are better not parted."""
        return [[key] for key in keys]

    def stamps(self) -> dict[str, str]:
        """Of the files that hold many photos, to tell when one was written anew."""
        return {name: self.store.stamp(name) for name in self.sizes}

    @abstractmethod
    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """The photos under these keys, in order."""


class Photos(Source):
    """Photos that are files of their own; 256 make a shard."""

    per_shard = 256

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if lacking := sum(map(self._lacks, self.sizes)):
            self.left_out["photos without a file of regions"] = lacking
            if self.regions and lacking == len(self.sizes):
                one = next(iter(self.sizes))
                raise RegionFileError(f"{self.regions.path} has no file that fits {one!r}, or others: check --regions")

    def _lacks(self, name: str) -> bool:
        """Whether it has no file of regions where photos may have one each; that is no error."""
        return bool(self.regions and self.regions.has_own_files and self.regions.own_path(name) is None)

    def stamps(self) -> dict[str, str]:
        """Of files of regions that are about one each; what was said of a photo stays, and a retry reads it anew."""
        if not (self.regions and self.regions.has_own_files):
            return {}
        here, own = Store("/"), {name: self.regions.own_path(name) for name in self.sizes}
        return {name: here.stamp(str(path.absolute())) if path else "" for name, path in own.items()}

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        """Files here that may be copies, of one size and end, which is read of those of one size."""
        sizes = Counter(self.sizes[key] for key in keys)
        groups: dict[object, list[str]] = {}
        for key in keys:
            size = self.sizes[key]
            end = self._end(key) if size is not None and sizes[size] > 1 else None
            groups.setdefault(key if end is None else (size, end), []).append(key)
        return list(groups.values())

    def _end(self, name: str) -> bytes | None:
        """The digest of the last bytes of a file here."""
        path = self.store.image(name)
        if isinstance(path, str):
            with suppress(OSError), open(path, "rb") as stream:  # which its row will say
                stream.seek(max(0, os.path.getsize(path) - _END))
                return hashlib.sha256(stream.read(_END)).digest()
        return None

    @cached_property
    def _ambiguous(self) -> Mapping[str, RegionFileError]:
        return self.regions.ambiguous(self.sizes) if self.regions else {}

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """See `Source`."""
        for name in keys:
            photo, image = plain(name), self.store.image(name)
            called = str(image) if self.how.exif == "ignore" else name  # the rotation is looked up in the photo
            try:
                if name in self._ambiguous:
                    raise self._ambiguous[name]
                file = _NO_REGIONS if self._lacks(name) else self.regions and self.regions.of(name)
                yield Sample(photo, image, self.sizes.get(name), file, called)
            except PatchionerError as error:
                yield Sample(photo, error=error)


class Pairs(Source):
    """(photo, regions) pairs from Python, regions as `items_given` takes them, or None; other pairs are another run."""

    per_shard = Photos.per_shard

    def __init__(self, pairs: Sequence[Any], how: Reading) -> None:
        odd = [one for one in pairs if not (isinstance(one, tuple | list) and len(one) == 2)]
        if odd or how != Reading():
            wrong = f"{odd[0]!r:.80}" if odd else f"{how!r:.80}, beside pairs,"
            raise OptionError(f"{wrong} is no (photo, regions) pair: None is the whole photo")
        self._samples = {f"#{at}": _paired(f"#{at}", *pair) for at, pair in enumerate(pairs)}
        super().__init__(Store(""), {}, how, "pairs")
        digest = hashlib.sha256()
        for one in self._samples.values():
            items = () if one.regions is None else one.regions.items()
            told = [(item.label, item.id, item.source) for item in items]
            about = [one.photo, str(one.error), one.regions is None, told]
            digest.update(json.dumps(about, default=str).encode())
            for item in items:
                with suppress(PatchionerError):
                    digest.update(json.dumps(item.make((1, 1)).to_json()).encode())
            if not isinstance(one.image, str | None):
                with suppress(PatchionerError):
                    digest.update(load_image(one.image).tobytes())
        self.identity["pairs"] = digest.hexdigest()

    def keys(self) -> Sequence[str]:
        """Their places."""
        return list(self._samples)

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """See `Source`."""
        return (self._samples[key] for key in keys)


def _paired(key: str, image: Any, regions: Any) -> Sample:
    image = os.fspath(image) if isinstance(image, os.PathLike) else image
    photo = plain(image) if isinstance(image, str) else key
    try:
        file = None if regions is None else RegionFile(key, items_given(regions))
        return Sample(photo, image, regions=file, origin=key)
    except PatchionerError as error:
        return Sample(photo, error=error, origin=key)


def open_source(place: Any, reading: Reading | None = None) -> Source:
    """Find out what a source is, by its name and what lies there.

    A folder (with those below it), a glob, files that are numbered ("{000..099}.tar"), a list of photos (.txt, one a
    line, from the list's folder), a file of regions with the photos beside it, WebDataset tars, tables (Parquet,
    Arrow, CSV, TSV), a folder of `datasets.save_to_disk`; the same behind a URL of fsspec (s3://, gs://, memory://);
    paths of files and folders here, as a shell's glob gives them; or pairs: see `Pairs`.
    PatchionerError: nothing is there, or nothing that is known or can be read.
    """
    how = reading or Reading()
    if not isinstance(place, str | os.PathLike):
        are_paths = place and all(isinstance(one, str | os.PathLike) for one in place)
        return _of_paths(place, how) if are_paths else Pairs(place, how)
    if not (name := os.fspath(place)):
        raise ImageError("the source is named '': give a folder, or what else holds photos")
    identity = name if "://" in name else os.path.abspath(name)
    whole = Store(name)
    if whole.fs.isdir(whole.root):
        return _of_files(whole, whole.below(), how, identity)
    if not whole.fs.exists(whole.root):
        if span := _RANGE.search(name):
            return _of_range(name, span, how, identity)
        head = re.split(r"[*?[]", name, maxsplit=1)[0]
        store = _folder_of(head)
        found = store.matching(whole.root) if head != name else {}
        if not found:
            raise ImageError(f"nothing at {name!r}: check the path")
        return _of_files(store, found, how, identity)
    store, tail = _folder_of(name), name.rpartition("/")[2]
    if is_picture(tail) or tail.lower().endswith(TARS + TABLES + TEXT_TABLES):
        return _of_files(store, {tail: store.size(tail)}, how, identity)
    if os.path.splitext(tail)[1].lower() in _LISTS:
        return _of_list(store, tail, how, identity)
    if how.regions is not None:
        raise OptionError(f"{name!r} is no folder or list of photos, beside --regions: give one")
    return _of_annotations(store, tail, name, identity, how)


def _folder_of(path: str) -> Store:
    """What a path, or the beginning of one, is in."""
    return Store(path.rpartition("/")[0] or ("/" if path.startswith("/") else "."))


def _of_range(name: str, span: re.Match[str], how: Reading, identity: str) -> Source:
    """Files that are numbered: "train-{000..099}.tar"."""
    first, last = span.groups()
    if not 0 <= int(last) - int(first) < _MOST_NUMBERED:
        raise OptionError(f"{span.group()} in {name!r}: give numbers that rise, at most a million")
    store, tail = _folder_of(name[: span.start()]), name[name.rfind("/", 0, span.start()) + 1 :]
    names = [tail.replace(span.group(), f"{one:0{len(first)}}") for one in range(int(first), int(last) + 1)]
    if missing := next((one for one in names if not store.fs.exists(os.path.join(store.root, one))), None):
        raise ImageError(f"nothing at {missing!r}, of {name!r}: check the numbers")
    return _of_files(store, {one: store.size(one) for one in names}, how, identity)


def _of_paths(paths: Sequence[str | os.PathLike[str]], how: Reading) -> Source:
    """From the folder that they share."""
    if missing := [one for one in paths if not os.path.exists(one)]:
        raise ImageError(f"nothing at {os.fspath(missing[0])!r}: check the path")
    found = [os.path.abspath(one) for one in paths]
    store, sizes = Store(os.path.commonpath(map(os.path.dirname, found))), dict[str, int | None]()
    for path in found:
        name = os.path.relpath(path, store.root)
        below = [(os.path.join(name, one), size) for one, size in walk(path)]
        sizes |= below if os.path.isdir(path) else {name: store.size(name)}
    return _of_files(store, sizes, how, store.root)


def _of_files(store: Store, sizes: Sizes, how: Reading, identity: str) -> Source:
    """By what there is: pictures, else tars, else tables."""
    from patchioner.batch.packed import Tables, Tars, TextTables

    kinds: list[tuple[type[Source], tuple[str, ...]]] = [(Tables, TABLES), (TextTables, TEXT_TABLES)]
    wants_table = how.image_column or how.region_column
    if not wants_table:
        kinds = [(Photos, tuple(readable_formats())), (Tars, TARS), *kinds]
    for make, endings in kinds:
        if wanted := {name: size for name, size in sizes.items() if name.lower().endswith(endings)}:
            source = make(store, wanted, how, identity)
            others = (os.path.splitext(name)[1].lower() for name in sizes if name not in wanted)
            source.left_out.update(Counter(one or "without an ending" for one in others))
            if make is Photos and (absent := _absent(source)):
                source.left_out["photos of the region file that are not there"] = absent
            return source
    what = "tables, which alone have columns," if wants_table else "pictures, tars or tables"
    raise ImageError(f"no {what} in {identity!r}: check the path")


def _absent(source: Source) -> int:
    """How many photos the file of regions names that the folder does not have."""
    photos = source.regions.photos if source.regions else ()
    here = {name.rpartition("/")[2] for name in source.sizes}
    ends = (one.name.replace("\\", "/").rpartition("/")[2] for one in photos if one.name)
    return sum(here.isdisjoint((name, plain_name(name))) for name in ends)


def _of_list(store: Store, name: str, how: Reading, identity: str) -> Source:
    data = store.read(name)
    is_wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell's lists
    lines = data.decode("utf-16" if is_wide else "utf-8-sig", "surrogateescape").splitlines()
    if not (named := [line.strip() for line in lines if line.strip()]):
        raise ImageError(f"{identity!r} lists no photo: write one path a line")
    source = Photos(store, {one: store.size(one) for one in named}, how, identity)
    if len(named) > len(source.sizes):
        source.left_out["listed twice"] = len(named) - len(source.sizes)
    return source


def _of_annotations(store: Store, name: str, path: str, identity: str, how: Reading) -> Source:
    """A file of regions, whose photos lie beside it or below its folder."""
    regions = region_file(path, how)
    stem, photos = os.path.splitext(name)[0], regions.photos
    names = [_named(store, one.name) or _beside(store, one.image_id or stem) for one in photos]
    if len(set(names)) < len(names):  # alike but for their folders
        names = [one.name or name for one, name in zip(photos, names, strict=True)]
    if not names:
        raise RegionFileError(f"{path!r} has no photos: give them as SOURCE, and it as --regions")
    return Photos(store, {one: store.size(one) for one in names}, how, identity, regions)


def _named(store: Store, name: str | None) -> str | None:
    """A photo's name; of one that an annotator knows by an address or another path, its end that lies here."""
    is_url = name is not None and "://" in name
    if name is None or not store.is_local or (not is_url and store.size(name) is not None):
        return name
    path = name.partition("://")[2].partition("?")[0] if is_url else name
    tails = path.replace("\\", "/").split("/")
    ends = [*("/".join(tails[at:]) for at in range(1, len(tails))), plain_name(tails[-1])]
    return next((end for end in ends if store.size(end) is not None), tails[-1] if name.startswith("http") else name)


def _beside(store: Store, number: str) -> str:
    """The picture of that stem in the folder (COCO pads numbers); where there is none, the name it should have."""
    suffixes, stems = (".jpg", ".jpeg", ".png", *readable_formats()), (number, number.zfill(12))
    names = (stem + suffix for suffix in suffixes for stem in stems)
    return next((name for name in names if store.size(name) is not None), f"{number}.jpg")


def as_json(values: Mapping[str, Any]) -> str | None:
    """What a source carries as JSON, None for nothing: without bytes, with dates and the like as text, null for NaN."""
    kept = {key: value for key, value in values.items() if not isinstance(value, bytes)}
    text = json.dumps(kept, default=str)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text if kept else None
