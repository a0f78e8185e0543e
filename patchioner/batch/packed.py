"""Photos that lie many to a file: WebDataset tars, and tables (Parquet, Arrow, folders of `datasets`, CSV)."""

from __future__ import annotations

import base64
import csv
import json
import math
import mmap
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionFileError
from patchioner.base.optional import require
from patchioner.batch.rows import COLUMNS
from patchioner.batch.sources import Lazy, Sample, Source, plain
from patchioner.images import is_picture
from patchioner.regions import RegionFile
from patchioner.regions.annotators import NAMED

# Keys of JSON beside a photo that make it a file of regions.
_REGION_KEYS = {"regions", "annotations", "shapes", "objects", "bbox", "segmentation"}
_IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "photo", "path", "image_path",
           "file_name", "filename", "file")  # fmt: skip
_REGIONS = ("regions", "annotations", "objects", "boxes", "bboxes", "bbox")
_NAMES = ("photo", "__key__", "key", "file_name", "filename", "image_path", "path", "image_id", "id")
_OURS = "tables of rows of patchioner batch"
_COMPRESSED = {"gz": "gzip", "tgz": "gzip", "zst": "zstd"}
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_AT_ONCE = 2**20  # bytes
_ROWS = 256  # of a table that are read as one piece
_MOST_BESIDE = 2**24  # bytes of a file beside a photo
_PATH = 4096  # characters
Read = Callable[[int, int], bytes]
_Classes = dict[str, list[str]]
# Names of the columns of a table with pictures, regions and the edges of boxes, what their numbers mean, and classes.
_Columns = tuple[str, str | None, tuple[str, ...], dict[str, Any], _Classes]


class Tars(Source):
    """WebDataset: a sample is the files of one stem, its photo one of them; a tar is a shard.

    JSON beside the photo is read as its regions where it has any; all of it comes back in `source`, as do texts.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if broken := [name for name in self.sizes if self.store.is_local and not self._is_whole(name)]:
            raise ImageError(f"no tar, or cut short: {', '.join(map(plain, broken[:8]))}: refetch")

    def _is_whole(self, name: str) -> bool:
        """Whether a file here ends as a tar, or begins as what it is compressed by."""
        with self.store.open(name) as stream:
            if kind := _COMPRESSED.get(name.lower().rpartition(".")[2]):
                return bool(stream.read(4).startswith(_MAGIC[kind]))
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 512))
            return bool(stream.read() == bytes(512))

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """See `Source`; what cannot be read of a tar is one sample with its error."""
        for key in keys:
            try:
                opened, read = self._opened(key)
                seen = set[str]()
                with opened as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                    for stem, members in _grouped(tar):
                        if stem in seen:
                            name = f"{plain(key)}/{plain(members[0].name)}"
                            yield Sample(name, error=ImageError(f"{name!r} is far from others of its stem: join them"))
                        elif any(is_picture(one.name) for one in members):
                            yield self._sample(f"{plain(key)}/", stem, members, read)
                        seen.add(stem)
                    # tarfile takes a tar that is cut between two files for a whole one.
                    if read(tar.offset, tar.offset + 512) != bytes(512):
                        raise tarfile.ReadError("it has no end")
            except (tarfile.TarError, OSError, EOFError) as error:
                yield Sample(plain(key), error=ImageError(f"{key!r} cannot be read to its end ({error}): refetch it"))

    def _opened(self, key: str) -> tuple[AbstractContextManager[Any], Read]:
        """A tar as a file, and what reads some of its bytes; a compressed one is unpacked on the disk, namelessly."""
        kind = _COMPRESSED.get(key.lower().rpartition(".")[2])
        if kind is None:
            return self.store.open(key), partial(self.store.read, key)
        unpack = require("pyarrow", "batch").CompressedInputStream
        with self.store.open(key) as packed, tempfile.TemporaryFile() as file:
            with unpack(packed, kind) as stream:
                shutil.copyfileobj(stream, file, _AT_ONCE)
            if not file.tell():
                raise tarfile.ReadError("it is empty")
            file.flush()
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return nullcontext(data), lambda start, stop: data[start:stop]

    def _sample(self, tar: str, stem: str, members: Sequence[tarfile.TarInfo], read: Read) -> Sample:
        picture = next(one for one in members if is_picture(one.name))
        name = tar + plain(picture.name)

        def fetch(member: tarfile.TarInfo) -> bytes:
            return read(member.offset_data, member.offset_data + member.size)

        image, beside = Lazy(name, partial(fetch, picture)), dict[str, Any]()
        try:
            for one in members:
                if not is_picture(one.name) and one.size <= _MOST_BESIDE:
                    beside[one.name[len(stem) + 1 :]] = _content(fetch(one), one.name)
            own = next((one for one in beside.values() if _has_regions(one)), None)
            file = None if own is None else RegionFile(name, own, **self.how.numbers)
            file, called = (file, None) if self.regions is None else (self.regions.of(picture.name), picture.name)
        except PatchionerError as error:
            return Sample(name, source=beside, error=error)
        return Sample(name, image, picture.size, file, called, beside)


def _has_regions(content: object) -> bool:
    listed = content if isinstance(content, list) else [content]
    return any(isinstance(one, Mapping) and _REGION_KEYS & one.keys() for one in listed)


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """Neighbours of one stem, up to the first dot of the file name."""
    files = (one for one in tar if one.isfile() and not os.path.basename(one.name).startswith("."))
    for stem, members in groupby(files, lambda one: re.sub(r"\.[^/]*\Z", "", one.name)):
        yield stem, list(members)


def _content(data: bytes, name: str) -> Any:
    if not name.lower().endswith(".json"):
        return data.decode("utf-8", "backslashreplace")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{plain(name)} beside the photo is no JSON ({error})") from error


class Tables(Source):
    """Rows with a picture or its path, and maybe regions; pieces of 256 rows are keys.

    The columns that hold pictures, names and regions are known by the usual names, or told by `Reading`; the others
    come back in `source`. OptionError where none holds pictures, or boxes could mean anything.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.identity |= {"columns": [self.how.image_column, self.how.region_column]}
        self._opened = lru_cache(2)(self._read)
        self._group = lru_cache(2)(lambda name, group: self._opened(name)[2](group))
        self._columns: dict[str, _Columns] = {}  # of each file
        for name in self.sizes:
            schema = self._opened(name)[1]
            if len(self.sizes) == 1 or schema.names != list(COLUMNS):
                self._columns[name] = self._columns_of(name, schema)
        if ours := len(self.sizes) - len(self._columns):  # what a job wrote among its sources
            self.left_out[_OURS] = ours
            self.sizes = {name: self.sizes[name] for name in self._columns}
        if not self.sizes:
            raise ImageError(f"there are only {_OURS}: give the photos, or one of the tables")

    def _columns_of(self, name: str, schema: Any) -> _Columns:
        columns, how = schema.names, self.how
        image = _column(columns, how.image_column, _IMAGES, name)
        region = _column(columns, how.region_column, _REGIONS, name)
        if image is None:
            raise OptionError(f"{name!r} has {columns}: say by --image-column which is the photo")
        if region in ("boxes", "bboxes", "bbox") and how.box_format is None:
            raise OptionError(f"{name!r}: say by --box-format what the numbers of {region!r} are")
        fits = (one for one in NAMED if region is None and set(one[0]) <= set(columns))
        corners, form = next(fits, ((), None))
        return image, region, corners, {"box_format": form} | how.numbers, _classes_of(schema)

    def keys(self) -> Sequence[str]:
        """``file#group:row`` of every piece."""
        groups = ((f"{name}#{at}", rows) for name in self.sizes for at, rows in enumerate(self._opened(name)[0]))
        return [f"{group}:{start}" for group, rows in groups for start in range(0, rows, _ROWS)]

    def samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        """See `Source`."""
        for key in keys:
            name, _, place = key.rpartition("#")
            group, start = map(int, place.split(":"))
            try:
                table = self._group(name, group).slice(start, _ROWS)
            except (PatchionerError, OSError, ValueError, IndexError) as error:
                yield Sample(plain(key), error=ImageError(f"{key!r} cannot be read ({error}): fetch the file again"))
                continue
            for number, row in enumerate(_spelled(table.to_pylist(), "", self._columns[name][-1]), start):
                place = f"{plain(name)}#{group}:{number}"
                yield replace(self._sample(place, row, self._columns[name]), origin=place)

    def _sample(self, place: str, row: dict[str, Any], columns: _Columns) -> Sample:
        of_image, region, corners, numbers, _ = columns
        picture = _inline(row.pop(of_image))
        given = None if region is None else row.pop(region)
        inner = picture if isinstance(picture, Mapping) else {}
        named = (picture if isinstance(picture, str) else None, *map(row.get, _NAMES), inner.get("path"))
        photo = next((str(one) for one in named if one not in (None, "")), place)
        data = inner.get("bytes") if inner else picture
        data = inner.get("path") if data is None else data
        if not isinstance(data, str | bytes) or not data:
            return Sample(photo, source=row, error=ImageError(f"{place}: {data!r:.60} is no photo: give bytes or path"))
        image = self.store.image(data) if isinstance(data, str) else data
        size = len(data) if isinstance(data, bytes) else self.store.size(data)
        try:
            given = _cornered(row, corners) if corners else given
            content = _content_of(given, region, row)
            own = RegionFile(place, content, **numbers) if region or corners else None
            file, called = (own, None) if self.regions is None else (self.regions.of(photo), photo)
        except PatchionerError as error:
            return Sample(photo, source=row, error=error)
        except (TypeError, ValueError, RecursionError):
            wrong = f"{region or ', '.join(corners)!r} holds no JSON or numbers, or lists of unequal lengths: mend it"
            return Sample(photo, source=row, error=RegionFileError(f"{place}: {wrong}"))
        return Sample(photo, image, size, file, called, row)

    def _read(self, name: str) -> tuple[list[int], Any, Callable[[int], Any]]:
        """(Rows of each group, schema, what reads a group as a table) of a file."""
        arrow, parquet = require("pyarrow", "batch"), require("pyarrow.parquet", "batch")

        def read(group: int) -> Any:
            with self.store.open(name) as stream:
                return parquet.ParquetFile(stream).read_row_group(group)

        try:
            if not name.lower().endswith(".parquet"):
                batches = self._batches(name)
                schema = batches[0].schema if batches else arrow.schema([])
                return [*map(len, batches)], schema, lambda group: arrow.Table.from_batches([batches[group]])
            with self.store.open(name) as stream:
                file = parquet.ParquetFile(stream)
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                return groups, file.schema_arrow, read
        except (OSError, ValueError) as error:  # Arrow's errors are these
            raise OptionError(f"{name!r} is no table that can be read ({error})") from error

    def _batches(self, name: str) -> list[Any]:
        """The record batches of an Arrow file, or of the stream that `datasets` writes."""
        arrow, ipc = require("pyarrow", "batch"), require("pyarrow.ipc", "batch")
        store = self.store
        data = arrow.memory_map(store.image(name)) if store.is_local else arrow.BufferReader(store.read(name))
        try:
            reader = ipc.open_file(data)
            return [reader.get_batch(place) for place in range(reader.num_record_batches)]
        except (OSError, ValueError):
            data.seek(0)
            return list(ipc.open_stream(data))


class TextTables(Tables):
    """CSV and TSV; all cells are texts, so that ids keep their zeros, and nothing where they are empty."""

    def _read(self, name: str) -> tuple[list[int], Any, Callable[[int], Any]]:
        arrow, text = require("pyarrow", "batch"), require("pyarrow.csv", "batch")
        data = self.store.read(name)
        try:
            header = data.partition(b"\n")[0].decode("utf-8-sig").strip()
            delimiter = max(",;\t|", key=header.count)
            names = next(csv.reader([header], delimiter=delimiter), [])
            kinds = dict.fromkeys(names, arrow.string())
            convert = text.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True)
            parse = text.ParseOptions(delimiter=delimiter, newlines_in_values=True)
            table = text.read_csv(arrow.BufferReader(data), parse_options=parse, convert_options=convert)
        except ValueError as error:  # Arrow's errors are these, and no UTF-8
            raise OptionError(f"{name!r} is no table that can be read ({error}): save it as CSV in UTF-8") from error
        return [len(table)], table.schema, lambda _: table


def _classes_of(schema: Any) -> _Classes:
    """Names of the classes that `datasets` numbers, by column or key."""
    found: _Classes = {}

    def look(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            if value.get("_type") == "ClassLabel":
                found[key] = value.get("names") or []
            for name, inner in value.items():
                look(key if name == "feature" else name, inner)
        for inner in value if isinstance(value, list) else ():
            look(key, inner)

    with suppress(ValueError):  # another's
        look("", json.loads((schema.metadata or {}).get(b"huggingface", b"0")))
    return found


def _spelled(value: Any, key: str, classes: _Classes) -> Any:
    """A value of a row with names in place of numbers of classes."""
    if isinstance(value, dict) and classes:
        return {name: _spelled(inner, name, classes) for name, inner in value.items()}
    if isinstance(value, list) and classes:
        return [_spelled(inner, key, classes) for inner in value]
    is_class = key in classes and isinstance(value, int) and 0 <= value < len(classes[key])
    return classes[key][value] if is_class else value


def _cornered(row: Mapping[str, Any], corners: Sequence[str]) -> list[float]:
    """The box of four columns of a row; none where all are empty."""
    box = [math.nan if row[one] is None else float(row[one]) for one in corners]
    return [] if all(map(math.isnan, box)) else box


def _content_of(given: Any, region: str | None, row: Mapping[str, Any]) -> Any:
    """Regions that stand in a row, as a file of regions would hold them."""
    if isinstance(given, str | bytes):
        given = json.loads(given)
    if region == "objects" and isinstance(given, Mapping) and given:
        return {"objects": given}
    if isinstance(given, list) and (not given or not isinstance(given[0], Mapping)):
        if given and not isinstance(given[0], list):
            return [{"bbox": given, **_about(row)}]
        beside = (row.get(name) for name in ("labels", "categories", "classes"))
        lists = (one for one in beside if isinstance(one, list) and len(one) == len(given))
        labels = next(lists, [None] * len(given))
        given = [{"bbox": box, "label": one} for box, one in zip(given, labels, strict=True)]
    return given or {"regions": []}


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """Id and label of the one box of a row."""
    named = (row.get(one) for one in ("label", "category", "class"))
    label = next((str(one) for one in named if one is not None), None)
    about = {"id": row.get("annotation_id", row.get("id")), "label": label}
    return {key: value for key, value in about.items() if value is not None}


def _inline(picture: Any) -> Any:
    """The bytes of what is a data URL, or in base64, which is longer than any path; else as it was."""
    if not isinstance(picture, str) or not (picture.startswith("data:") or len(picture) > _PATH):
        return picture
    try:
        return base64.b64decode(picture.partition(",")[2] or picture)
    except ValueError:
        return picture.encode()  # no picture, as its error will say


def _column(columns: list[str], told: str | None, usual: Sequence[str], name: str) -> str | None:
    if told is not None and told not in columns:
        raise OptionError(f"{name!r} has no column {told!r}: it has {columns}")
    return told or next((one for one in usual if one in columns), None)
