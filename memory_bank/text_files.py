"""Captions out of the files that people have them in: text, tables, Parquet, JSON, JSON lines; plain, gz or zst."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from patchioner.base.errors import TextError
from patchioner.base.optional import require

MAX_BYTES, MOST_UNPACKED = 2 * 2**30, 32
"""A file that holds more once unpacked, or so many times its own size, is refused."""

_COLUMNS = ("caption", "captions", "text", "sentence", "raw", "comment")
_DELIMITERS = ",;|\t"
_PHOTO = re.compile(r"[^\t,;|]*\.(?:jpe?g|png|webp|gif|bmp)(?:#\d+)?\s*[\t,;|]", re.IGNORECASE)
_logger = logging.getLogger(__name__)

Values: TypeAlias = Iterable[tuple[str, Any]]
"""Where each stands ("line 1"), and what."""


def read_captions(
    path: str | Path, column: str | None = None, *, splits: Sequence[str] = ("train", "restval")
) -> list[str]:
    """Read every caption of a file, in its order. How many were left out, and why, goes to the log as a warning.

    Args:
        path: the ending says the kind; a further ``.gz`` or ``.zst`` is unpacked on the way.

            * ``.txt``: a caption a line; or a table, told by the header (``image,caption``) or by
              names of photos in front (Flickr's ``token.txt``);
            * ``.csv``: separated by comma, semicolon, bar or tab; ``.tsv``: by tab, quotes are text;
            * ``.parquet``;
            * ``.json``: a list of strings or objects, ``{"annotations": [{"caption": ...}]}`` as COCO, or
              ``{"images": [{"split": ..., "sentences": [{"raw": ...}]}]}`` as Karpathy splits; ``.jsonl``: one such
              string or object a line.
        column: of a table, or the key of the objects, in any case; None tries "caption", "text", ... A cell
            may hold several captions (a list).
        splits: of a file that has splits, those to read.

    Returns:
        Captions as they stand; blank and missing ones are left out.

    Raises:
        TextError: the file cannot be read, is of another kind, unpacks to more than `MAX_BYTES`, or a row does not fit
            its header (its number is named).
        MissingExtraError: Parquet or zst without pyarrow.
    """
    file = _File(Path(path), column, splits)
    reader = _READERS.get(file.kind)
    if reader is None:
        kind = file.kind or "files without an ending"
        raise file.fault(f"captions are not read from {kind!r}; give one of {', '.join(_READERS)}")
    captions, missing = list[str](), 0
    try:
        for place, value in reader(file):
            for one in value if isinstance(value, list) else [value]:
                if _is_missing(one):
                    missing += 1
                elif isinstance(one, str):
                    captions.append(one)
                else:
                    raise file.fault(f"{place} is {one!r:.60}, no caption")
    except OSError as error:
        raise file.fault(f"cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise file.fault(f"damaged, or not UTF-8 text ({error})") from error
    if missing:
        _logger.warning("%s: left out %d rows without a caption", file.path, missing)
    if not captions:
        raise file.fault("no caption in it")
    return captions


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True)
class _File:
    """A file, and what of it is wanted."""

    path: Path
    column: str | None
    splits: Sequence[str]

    def fault(self, message: str) -> TextError:
        return TextError(f"{self.path}: {message}")

    @property
    def kind(self) -> str:
        """The ending, without that of the packer."""
        return Path(self.path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix

    def data(self) -> bytes:
        openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".zst": _zstd}
        opened, most = openers.get(self.path.suffix.lower()), MAX_BYTES
        if opened is not None:
            most = min(MAX_BYTES, 2**26 + MOST_UNPACKED * self.path.stat().st_size)
        with (opened or Path.open)(self.path, "rb") as file:
            data: bytes = file.read(most + 1)
        if len(data) > most:
            raise self.fault(
                f"holds more than {most >> 20:,} MiB; cut it into several files, or unpack it"
            )
        return data

    @cached_property
    def text(self) -> str:
        return self.data().decode("utf-8-sig")

    def lines(self) -> list[str]:
        """The lines that are not blank; not by splitlines(), which splits at form feeds inside a sentence, too."""
        return [line.rstrip("\r") for line in self.text.split("\n") if line.strip()]

    def parsed(self, text: str, where: str = "") -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.fault(f"{where}no JSON ({error})") from error

    def cell(self, row: Any) -> Any:
        """The captions of an object; anything else as it is."""
        return row[self.chosen(tuple(row))] if isinstance(row, dict) else row

    def chosen(self, names: Sequence[str]) -> str:
        """The column of captions, by its name in any case."""
        known = {str(name).strip().lower(): name for name in reversed(names)}
        if self.column is not None and self.column in names:
            return self.column
        for name in _COLUMNS if self.column is None else [self.column.strip().lower()]:
            if name in known:
                return known[name]
        if self.column is not None:
            close = difflib.get_close_matches(self.column, names, n=3) or list(names)
            raise self.fault(f"no column {self.column!r}; did you mean {', '.join(close)}?")
        shown = ", ".join(map(str, names))
        raise self.fault(f"none of its columns ({shown}) looks like captions; name one (--column)")

    def delimiter(self, header: str) -> str | None:
        """What separates a header one of whose names is a column of captions; None where it is no such header."""
        wanted = {self.column.strip().lower()} if self.column else set(_COLUMNS)
        for delimiter in _DELIMITERS:
            names = [name.strip(' "').lower() for name in header.split(delimiter)]
            if len(names) > 1 and wanted & set(names):
                return delimiter
        return None


def _zstd(path: Path, mode: str) -> Any:
    return require("pyarrow", "published").input_stream(path, compression="zstd")


def _numbered(what: str, values: Iterable[Any]) -> Values:
    """("line 1", value), ("line 2", value), ..."""
    return ((f"{what} {number}", value) for number, value in enumerate(values, 1))


def _text(file: _File) -> Values:
    lines = file.lines()
    if lines and file.delimiter(lines[0]) is not None:
        return _table(file)
    if lines and all(_PHOTO.match(line) for line in lines[:10]):
        return _numbered(
            "line", (re.split(r"[\t,;|]", line, maxsplit=1)[-1].strip() for line in lines)
        )
    if file.column is not None:
        raise file.fault(f"a text file has no column {file.column!r}; leave it out")
    return _numbered("line", lines)


def _table(file: _File) -> Iterator[tuple[str, Any]]:
    text = file.text
    found = file.delimiter(text.split("\n", 1)[0])
    delimiter = "\t" if file.kind == ".tsv" else found or ","
    unquoted = delimiter in "\t|"  # quotes are text there
    lines = io.StringIO(text, newline="")
    plain = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    rows = plain if unquoted else csv.reader(lines, delimiter=delimiter)
    names = [name.strip() for name in next(rows, [])]
    place = names.index(file.chosen(names))
    for number, row in enumerate((row for row in rows if row), 1):
        if len(row) > len(names):
            raise file.fault(
                f"row {number} has {len(row)} cells, the header {len(names)}; put captions with {delimiter!r} in quotes"
            )
        cell = row[place].strip() if place < len(row) else None
        yield f"row {number}", _unquoted(cell) if unquoted and cell else cell


def _unquoted(cell: str) -> str:
    """A cell that is wholly in quotes, as a writer of CSV puts it, without them; any other as it is."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def _parquet(file: _File) -> Values:
    parquet, arrow = require("pyarrow.parquet", "published"), require("pyarrow", "published")
    try:
        packed = file.path.suffix.lower() != ".parquet"
        table = parquet.ParquetFile(io.BytesIO(file.data()) if packed else file.path)
        name = file.chosen(table.schema_arrow.names)
        return _numbered("row", table.read(columns=[name])[name].to_pylist())
    except arrow.ArrowException as error:
        raise file.fault(f"not a readable Parquet file ({error})") from error


def _json_lines(file: _File) -> Iterator[tuple[str, Any]]:
    for place, line in _numbered("line", file.lines()):
        yield place, file.cell(file.parsed(line, f"{place}: "))


def _json(file: _File) -> Iterator[tuple[str, Any]]:
    content = file.parsed(file.text)
    rows = _listed(content, file) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise file.fault(f"holds {type(content).__name__}; a list of captions is expected")
    for number, row in enumerate(rows):
        yield f"item {number}", file.cell(row)


def _listed(content: dict[str, Any], file: _File) -> list[Any]:
    """The annotations of COCO's form, or the sentences of the wanted splits."""
    if isinstance(content.get("annotations"), list):
        return list(content["annotations"])
    images = content.get("images")
    wanted, left_out = list[Any](), set[str]()
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and isinstance(image.get("sentences"), list):
            if image.get("split") is None or image["split"] in file.splits:
                wanted += image["sentences"]
            else:
                left_out.add(str(image["split"]))
    others = ", ".join(sorted(left_out))
    if not wanted and left_out:
        raise file.fault(f"nothing in the splits {', '.join(file.splits)}; it has {others}")
    if not wanted:
        keys = ", ".join(map(repr, content))
        raise file.fault(f'no "annotations" with captions in it (it has {keys})')
    if left_out:
        _logger.warning("%s: left out the splits %s", file.path, others)
    return wanted


_READERS: dict[str, Callable[[_File], Values]] = {
    ".txt": _text,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json_lines,
}
