"""What a batch job writes: one row per region of a photo, as Parquet, JSON lines or CSV; a file is whole or absent."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import AnyPath, atomic_path
from patchioner.base.optional import require

if TYPE_CHECKING:
    import pyarrow

VERSION = 1  # of the schema; it grows when a column is renamed, removed or means something else
FORMATS = (".parquet", ".jsonl", ".csv")
_KEY = b"patchioner.rows"
_AT_ONCE = 1024  # rows that are held while writing


@dataclass(frozen=True)
class Row:
    """What became of one region of one photo. A photo that fails has a row for each region that is known of, or one.

    Attributes:
        photo: its name as the source has it: relative to the folder, or as a list or annotation file spells it.
        index: the region's place among those of the photo in its shard, from 0.
        annotation_id, category: the region's id in its file, as text, and what the file calls it.
        kind: of region: "whole_image", "box", "mask", "polygon", "point", "trace", ...
        bbox: XYXY float pixels of the original photo.
        width, height: of the original photo, pixels.
        text: the caption, label or alt text; None where there is none.
        score: of a caption, its mean log-probability per token; of a label, the cosine.
        confidence: that the text is right, 0 to 1, where the model is calibrated.
        reason: why there is no text, though nothing failed.
        embedding: (dim,) of the region, with the task "embed".
        model: fingerprint of the model.
        error, message: class and text of what went wrong; None where nothing did.
        source: what the source carried for it, as JSON text: an annotation with all its keys, the columns of a table.
        origin: FILE#GROUP:ROW of a table, whose rows may name one photo again and again; else None.
    """

    photo: str
    index: int = 0
    annotation_id: str | None = None
    category: str | None = None
    kind: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    width: int | None = None
    height: int | None = None
    text: str | None = None
    score: float | None = None
    confidence: float | None = None
    reason: str | None = None
    embedding: tuple[float, ...] | None = None
    model: str = ""
    error: str | None = None
    message: str | None = None
    source: str | None = None
    origin: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What a row is known by in all of a run: its origin, else its photo, and its index."""
        return self.origin or self.photo, self.index

    def to_dict(self) -> dict[str, Any]:
        """The columns in their order; bbox and embedding as lists."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`, a line of JSON or a row of Arrow; OptionError for columns of another version."""
        if "photo" not in values or not values.keys() <= set(COLUMNS):
            raise OptionError(f"columns {sorted(map(str, values))} are no rows of version {VERSION}: {COLUMNS}")
        given = dict(values)
        given |= {key: tuple(given[key]) for key in ("bbox", "embedding") if given.get(key) is not None}
        return cls(**given)


COLUMNS = tuple(one.name for one in fields(Row))


def failed(error: PatchionerError) -> dict[str, Any]:
    """The columns `error` and `message` of a row that an error stands in."""
    return {"error": type(error).__name__, "message": " ".join(str(error).split())}


def schema() -> pyarrow.Schema:
    """The Arrow schema of rows; its metadata has their version. MissingExtraError without pyarrow."""
    arrow = require("pyarrow", "batch")
    text, whole, real = arrow.string(), arrow.int32(), arrow.float64()
    kinds = {"index": whole, "width": whole, "height": whole, "score": real, "confidence": real}
    kinds |= {"bbox": arrow.list_(real, 4), "embedding": arrow.list_(arrow.float32())}
    must = ("photo", "index", "model")
    columns = [arrow.field(one, kinds.get(one, text), nullable=one not in must) for one in COLUMNS]
    return arrow.schema(columns, metadata={_KEY: str(VERSION)})


def run_folder(out: AnyPath) -> tuple[Path, str]:
    """(folder of the shards, their suffix) of an output, itself or FILE.run; OptionError for what can be neither."""
    path, name = Path(out), os.fspath(out)
    if not name or "\0" in name:
        raise OptionError(f"--out {name!r} is no path: name a file or a folder")
    if "://" in name:
        raise OptionError(f"--out {name!r} is a URL: write to a local or shared folder")
    if path.suffix.lower() in FORMATS and not path.is_dir():
        shard = ".parquet" if path.suffix.lower() == ".parquet" else ".jsonl"
        return path.with_name(f"{path.name}.run"), shard
    if path.exists() and not path.is_dir() or (path.suffix and not name.endswith("/")):
        raise OptionError(f"--out {name!r} is no folder/ and ends in none of {', '.join(FORMATS)}")
    return path, ".parquet"


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as the suffix says, atomically; few are held at a time. OSError where that cannot be.

    CSV is that of RFC 4180, with "\\n", lists as JSON, and an empty field for nothing.
    """
    values, suffix = (row.to_dict() for row in rows), path.suffix.lower()
    with atomic_path(path) as temporary:
        if suffix == ".parquet":
            with temporary.open("wb") as stream:
                _write_parquet(stream, values)
            return
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            if suffix == ".jsonl":
                stream.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in values)
                return
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(COLUMNS)
            for row in values:
                table.writerow([json.dumps(one) if isinstance(one, list) else one for one in row.values()])


def _write_parquet(stream: Any, values: Iterator[dict[str, Any]]) -> None:
    columns, arrow = schema(), require("pyarrow", "batch")
    with require("pyarrow.parquet", "batch").ParquetWriter(stream, columns) as writer:
        while group := list(islice(values, _AT_ONCE)):
            writer.write_table(arrow.Table.from_pylist(group, schema=columns))


def read_rows(path: AnyPath) -> Iterator[Row]:
    """The rows that a batch job has written, one by one, of its output: a .parquet or .jsonl file, or a folder.

    OptionError: no such file, or one that holds something else, or rows of another version.

    Example:
        >>> [row.text for row in read_rows("captions.parquet")]  # doctest: +SKIP
        ['a cat sitting on a chair']
    """
    place = Path(path)
    shards = (one for one in place.glob("[0-9]*") if one.stem.isdigit() and one.suffix in FORMATS)
    for file in sorted(shards) if place.is_dir() else [place]:
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[Row]:
    try:
        if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix.lower() == ".jsonl":
            with path.open(encoding="utf-8") as stream:
                yield from (Row.from_dict(json.loads(line)) for line in stream)
        else:
            raise OptionError(f"rows are read from .parquet, .jsonl or a folder, not {path.name!r}")
    except FileNotFoundError as error:
        raise OptionError(f"no rows at {str(path)!r}: check the path") from error
    except OptionError:
        raise
    except (ValueError, TypeError) as error:
        raise OptionError(f"{str(path)!r} holds no rows of `patchioner batch` ({error})") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        file = require("pyarrow.parquet", "batch").ParquetFile(stream)
        found = (file.schema_arrow.metadata or {}).get(_KEY)
        if found != str(VERSION).encode():
            held = "no rows" if found is None else f"rows of version {found.decode()}"
            remedy = "use the release that wrote them, or another --out"
            raise OptionError(f"{str(path)!r} holds {held}, this release reads version {VERSION}: {remedy}")
        for batch in file.iter_batches(_AT_ONCE):
            yield from map(Row.from_dict, batch.to_pylist())
