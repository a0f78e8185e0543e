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
from pathlib import Path
from typing import Any, NamedTuple

from patchioner.base.errors import TextError
from patchioner.base.optional import require

MAX_BYTES, MOST_UNPACKED = 2 * 2**30, 32
"""A file that holds more once unpacked, or so many times its own size, is refused."""

_COLUMNS = ("caption", "captions", "text", "sentence", "raw", "comment")
_DELIMITERS = ",;|\t"
_PHOTO = re.compile(r"[^\t,;|]*\.(?:jpe?g|png|webp|gif|bmp)(?:#\d+)?\s*[\t,;|]", re.IGNORECASE)
_logger = logging.getLogger(__name__)


class _Source(NamedTuple):
    path: Path
    column: str | None
    splits: Sequence[str]

    def fault(self, message: str) -> TextError:
        return TextError(f"{self.path}: {message}")


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
    source = _Source(Path(path), column, splits)
    kind = _kind(source.path)
    reader = _READERS.get(kind)
    if reader is None:
        kind = kind or "files without an ending"
        raise source.fault(
            f"captions are not read from {kind!r}; give one of {', '.join(_READERS)}"
        )
    captions, missing = list[str](), 0
    try:
        for place, value in reader(source):
            for one in value if isinstance(value, list) else [value]:
                if _is_missing(one):
                    missing += 1
                elif isinstance(one, str):
                    captions.append(one)
                else:
                    raise source.fault(f"{place} is {one!r:.60}, no caption")
    except OSError as error:
        raise source.fault(f"cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise source.fault(f"damaged, or not UTF-8 text ({error})") from error
    if missing:
        _logger.warning("%s: left out %d rows without a caption", source.path, missing)
    if not captions:
        raise source.fault("no caption in it")
    return captions


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(path: Path) -> str:
    """The ending, without that of the packer."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix


def _bytes(source: _Source) -> bytes:
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".zst": _zstd}
    opened, most = openers.get(source.path.suffix.lower()), MAX_BYTES
    if opened is not None:
        most = min(MAX_BYTES, 2**26 + MOST_UNPACKED * source.path.stat().st_size)
    with (opened or Path.open)(source.path, "rb") as file:
        data: bytes = file.read(most + 1)
    if len(data) > most:
        raise source.fault(
            f"holds more than {most >> 20:,} MiB; cut it into several files, or unpack it"
        )
    return data


def _zstd(path: Path, mode: str) -> Any:
    return require("pyarrow", "published").input_stream(path, compression="zstd")


def _decoded(source: _Source) -> str:
    return _bytes(source).decode("utf-8-sig")


def _lines(text: str) -> list[str]:
    """The lines that are not blank; not by splitlines(), which splits at form feeds inside a sentence, too."""
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _text(source: _Source) -> Iterator[tuple[str, Any]]:
    text = _decoded(source)
    lines = _lines(text)
    if lines and _header_delimiter(lines[0], source.column) is not None:
        yield from _rows(text, source)
    elif lines and all(_PHOTO.match(line) for line in lines[:10]):
        for number, line in enumerate(lines, 1):
            yield f"line {number}", re.split(r"[\t,;|]", line, maxsplit=1)[-1].strip()
    elif source.column is not None:
        raise source.fault(f"a text file has no column {source.column!r}; leave it out")
    else:
        yield from _numbered("line", lines)


def _numbered(what: str, values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """("line 1", value), ("line 2", value), ..."""
    return ((f"{what} {number}", value) for number, value in enumerate(values, 1))


def _header_delimiter(header: str, column: str | None) -> str | None:
    """What separates a header one of whose names is a column of captions; None where it is no such header."""
    wanted = {column.strip().lower()} if column else set(_COLUMNS)
    for delimiter in _DELIMITERS:
        names = [name.strip(' "').lower() for name in header.split(delimiter)]
        if len(names) > 1 and wanted & set(names):
            return delimiter
    return None


def _rows(text: str, source: _Source) -> Iterator[tuple[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = (
        "\t" if _kind(source.path) == ".tsv" else _header_delimiter(header, source.column) or ","
    )
    unquoted = delimiter in "\t|"  # quotes are text there
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
    )
    names = [name.strip() for name in next(rows, [])]
    place = names.index(_chosen(names, source))
    for number, row in enumerate((row for row in rows if row), 1):
        if len(row) > len(names):
            raise source.fault(
                f"row {number} has {len(row)} cells, the header {len(names)}; put captions with {delimiter!r} in quotes"
            )
        cell = row[place].strip() if place < len(row) else None
        yield f"row {number}", _unquoted(cell) if unquoted and cell else cell


def _unquoted(cell: str) -> str:
    """A cell that is wholly in quotes, as a writer of CSV puts it, without them; any other as it is."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def _parquet(source: _Source) -> Iterator[tuple[str, Any]]:
    parquet, arrow = require("pyarrow.parquet", "published"), require("pyarrow", "published")
    try:
        packed = source.path.suffix.lower() != ".parquet"
        file = parquet.ParquetFile(io.BytesIO(_bytes(source)) if packed else source.path)
        name = _chosen(file.schema_arrow.names, source)
        values = file.read(columns=[name])[name].to_pylist()
    except arrow.ArrowException as error:
        raise source.fault(f"not a readable Parquet file ({error})") from error
    yield from _numbered("row", values)


def _json_lines(source: _Source) -> Iterator[tuple[str, Any]]:
    for place, line in _numbered("line", _lines(_decoded(source))):
        row = _parsed(line, source, f"{place}: ")
        yield place, row[_chosen(tuple(row), source)] if isinstance(row, dict) else row


def _json(source: _Source) -> Iterator[tuple[str, Any]]:
    content = _parsed(_decoded(source), source)
    rows = _listed(content, source) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise source.fault(f"holds {type(content).__name__}; a list of captions is expected")
    for number, row in enumerate(rows):
        value = row[_chosen(tuple(row), source)] if isinstance(row, dict) else row
        yield f"item {number}", value


def _parsed(text: str, source: _Source, where: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.fault(f"{where}no JSON ({error})") from error


def _listed(content: dict[str, Any], source: _Source) -> list[Any]:
    """The annotations of COCO's form, or the sentences of the wanted splits."""
    if isinstance(content.get("annotations"), list):
        return list(content["annotations"])
    images = content.get("images")
    wanted, left_out = list[Any](), set[str]()
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and isinstance(image.get("sentences"), list):
            if image.get("split") is None or image["split"] in source.splits:
                wanted += image["sentences"]
            else:
                left_out.add(str(image["split"]))
    others = ", ".join(sorted(left_out))
    if not wanted and left_out:
        raise source.fault(f"nothing in the splits {', '.join(source.splits)}; it has {others}")
    if not wanted:
        keys = ", ".join(map(repr, content))
        raise source.fault(f'no "annotations" with captions in it (it has {keys})')
    if left_out:
        _logger.warning("%s: left out the splits %s", source.path, others)
    return wanted


def _chosen(names: Sequence[str], source: _Source) -> str:
    """The column of captions, by its name in any case."""
    known = {str(name).strip().lower(): name for name in reversed(names)}
    if source.column is not None and source.column in names:
        return source.column
    for name in _COLUMNS if source.column is None else [source.column.strip().lower()]:
        if name in known:
            return known[name]
    if source.column is not None:
        close = difflib.get_close_matches(source.column, names, n=3) or list(names)
        raise source.fault(f"no column {source.column!r}; did you mean {', '.join(close)}?")
    shown = ", ".join(map(str, names))
    raise source.fault(f"none of its columns ({shown}) looks like captions; name one (--column)")


_READERS: dict[str, Callable[[_Source], Iterator[tuple[str, Any]]]] = {
    ".txt": _text,
    ".csv": lambda source: _rows(_decoded(source), source),
    ".tsv": lambda source: _rows(_decoded(source), source),
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json_lines,
}
