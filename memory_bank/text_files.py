"""Captions out of the files that people have them in.

Knows: text, CSV/TSV, Parquet and COCO-style JSON, plain or gzipped. Does not know: what the captions are for.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from patchioner.base.errors import TextError
from patchioner.base.optional import require

_COLUMNS = ("caption", "captions", "text", "sentence", "raw")
"""Names of the column or key that are tried when none is given."""


def read_captions(path: str | Path, column: str | None = None) -> list[str]:
    """Read every caption of a file, in its order.

    Args:
        path: ``.txt`` (one caption per line), ``.csv`` / ``.tsv`` (with a header), ``.parquet``, or ``.json``: a list
            of strings, a list of objects, ``{"annotations": [{"caption": ...}]}`` as COCO, or ``{"images":
            [{"sentences": [{"raw": ...}]}]}`` as the Karpathy splits. A further ``.gz`` is unpacked on the way.
        column: of a table, or the key of the objects; None tries "caption", "captions", "text", "sentence", "raw".
            A cell may hold several captions (a list).

    Returns:
        Captions as they stand, blank lines of a text file left out.

    Raises:
        TextError: the file cannot be read, is of another kind, or a row holds no caption (its number is named).
        MissingExtraError: Parquet without pyarrow.

    Example:
        >>> read_captions("captions_train2017.json")  # doctest: +SKIP
        ['A bicycle replica with a clock as the front wheel.', ...]
    """
    path = Path(path)
    kind = Path(path.stem if _packed(path) else path.name).suffix.lower()
    reader = _READERS.get(kind)
    if reader is None:
        raise TextError(
            f"{path}: captions are not read from {kind or 'files without an ending'!r}; "
            f"give one of {', '.join(_READERS)}"
        )
    try:
        captions = reader(path, column)
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise TextError(f"{path}: damaged, or not UTF-8 text ({error})") from error
    if not captions:
        raise TextError(f"{path}: no caption in it")
    return captions


def _packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if _packed(path) else path.read_bytes()


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8-sig")


def _lines(path: Path, column: str | None) -> list[str]:
    if column is not None:
        raise TextError(f"{path}: a text file has no column {column!r}; leave it out")
    # Not splitlines(), which also splits at form feeds and other marks inside a sentence.
    return [line.rstrip("\r") for line in _text(path).split("\n") if line.strip()]


def _table(path: Path, column: str | None) -> list[str]:
    delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
    name = _chosen(rows.fieldnames or (), column, path)
    return [_caption(row[name], path, f"row {number}") for number, row in enumerate(rows, 1)]


def _parquet(path: Path, column: str | None) -> list[str]:
    parquet = require("pyarrow.parquet", "published")
    arrow = require("pyarrow", "published")
    try:
        file = parquet.ParquetFile(io.BytesIO(_bytes(path)) if _packed(path) else path)
        name = _chosen(file.schema_arrow.names, column, path)
        values = file.read(columns=[name])[name].to_pylist()
    except arrow.ArrowException as error:
        raise TextError(f"{path}: not a readable Parquet file ({error})") from error
    return [
        caption
        for number, value in enumerate(values, 1)
        for caption in _captions(value, path, f"row {number}")
    ]


def _json(path: Path, column: str | None) -> list[str]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise TextError(f"{path}: no JSON ({error})") from error
    if isinstance(content, dict):
        return _json_rows(_json_list(content, path), column, path)
    if isinstance(content, list):
        return _json_rows(content, column, path)
    raise TextError(f"{path}: holds {type(content).__name__}; a list of captions is expected")


def _json_list(content: dict[str, Any], path: Path) -> list[Any]:
    if isinstance(content.get("annotations"), list):
        return list(content["annotations"])
    images = content.get("images")
    if isinstance(images, list):
        sentences = [image.get("sentences") for image in images if isinstance(image, dict)]
        found = [one for listed in sentences if isinstance(listed, list) for one in listed]
        if found:
            return found
    raise TextError(
        f'{path}: no "annotations" with captions in it (it has {", ".join(map(repr, content))})'
    )


def _json_rows(rows: Sequence[Any], column: str | None, path: Path) -> list[str]:
    captions: list[str] = []
    for number, row in enumerate(rows):
        where = f"item {number}"
        if isinstance(row, dict):
            captions += _captions(row[_chosen(tuple(row), column, path)], path, where)
        else:
            captions.append(_caption(row, path, where))
    return captions


def _chosen(names: Sequence[str], column: str | None, path: Path) -> str:
    if column is not None:
        if column in names:
            return column
        close = difflib.get_close_matches(column, names, n=3) or list(names)
        raise TextError(f"{path}: no column {column!r}; did you mean {', '.join(close)}?")
    for name in _COLUMNS:
        if name in names:
            return name
    raise TextError(
        f"{path}: none of its columns ({', '.join(map(str, names))}) looks like captions; name one (--column)"
    )


def _captions(value: object, path: Path, where: str) -> list[str]:
    return [_caption(one, path, where) for one in (value if isinstance(value, list) else [value])]


def _caption(value: object, path: Path, where: str) -> str:
    if not isinstance(value, str):
        raise TextError(f"{path}: {where} is {value!r:.60}, no caption")
    return value


_READERS: dict[str, Callable[[Path, str | None], list[str]]] = {
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".json": _json,
}
