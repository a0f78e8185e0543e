"""Captions out of the files that people have them in: text, tables, Parquet, JSON, JSON lines; plain, gz or zst."""

from __future__ import annotations

import ast
import codecs
import csv
import difflib
import gzip
import io
import json
import logging
import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from patchioner.base.errors import LONE_SURROGATE, TextError
from patchioner.base.optional import require

MAX_BYTES, MOST_UNPACKED = 2 * 2**30, 32
"""A file that holds more once unpacked, or so many times its own size, is refused."""

MOST_CHARACTERS = 10_000  # what is longer is no caption

_COLUMNS = ("caption", "captions", "text", "sentence", "raw", "comment")
_DELIMITERS = ",;|\t"
_PICTURE = r"\.(?:jpe?g|png|webp|gif|bmp)"
_PHOTO = re.compile(
    rf"(?:[^\t,;|]*{_PICTURE}(?:#\d+)?\s*[\s,;|:]|\d+[\t,;|](?!\d{{3}}\b)|\w*_\d{{6,}}\s)\s*", re.IGNORECASE
)
_LISTED = re.compile(r"^\s*(?:[-*\u2022]|\d+[.):])\s+")
_QUOTED = re.compile(r'\s*".*",?\s*')
_PHOTO_KEY = re.compile(rf"\d+|.*{_PICTURE}", re.IGNORECASE)
_ADDRESS = rf"https?://\S+|\S+{_PICTURE}"
_NO_LINE = re.compile(_ADDRESS, re.IGNORECASE)
# A line may be a label such as "50".
_NO_CELL = re.compile(rf"{_ADDRESS}|[\W_]*\d[\W\d_]*", re.IGNORECASE)
_MARKUP = re.compile(r"\s*<(?:!doctype|html|\?xml)\b", re.IGNORECASE)
_NOTHING = {"", "nan", "null", "none", "n/a"}  # as pandas and the like write what is not there
_logger = logging.getLogger(__name__)

Values: TypeAlias = Iterable[tuple[str, Any]]  # where each stands ("line 1"), and what


def read_captions(
    path: str | Path, column: str | None = None, *, splits: Sequence[str] = ("train", "restval")
) -> list[str]:
    """Read every caption of a file, in its order. How many were left out, and why, goes to the log as a warning.

    Args:
        path: the ending says the kind; a further ``.gz`` or ``.zst`` is unpacked on the way.

            * ``.txt``, ``.token``, none: a caption a line, freed of list marks and of quotes round all; or JSON; or a
              table, told by its header (``image,caption``) or by names or numbers of photos (Flickr's ``token.txt``);
            * ``.csv``: separated by comma, semicolon, bar or tab; ``.tsv``: by tab, quotes are text;
            * ``.parquet``;
            * ``.json``: a list of strings or objects, ``{"annotations": [{"caption": ...}]}`` as COCO, or
              ``{"images": [{"split": ..., "sentences": [{"raw": ...}]}]}`` as Karpathy splits, or photos with
              their captions, ``{"1.jpg": [...]}``; ``.jsonl``, ``.ndjson``: one such string or object a line.
        column: of a table, or the key of objects, in any case; None tries "caption", "text", ... A cell may be a list.
        splits: of a file whose rows or photos have a ``split``, those to read.

    Returns:
        Captions as they stand; blank and missing ones are left out.

    Raises:
        TextError: the file cannot be read, is of another kind, unpacks to more than `MAX_BYTES`, holds numbers or names
            of files in place of captions, or a row does not fit its header (its number is named).
        MissingExtraError: Parquet or zst without pyarrow.
    """
    file = _File(Path(path), column, [split.lower() for split in splits])
    reader = _READERS.get(file.kind)
    if reader is None:
        known = ", ".join(filter(None, _READERS))
        raise file.fault(f"captions are not read from {file.kind!r}; give one of {known}")
    captions, missing, place = list[str](), 0, "nothing"
    try:
        for place, row in reader(file):
            value = file.cell(row)
            for one in value if isinstance(value, list) else [value]:
                if _is_missing(one):
                    missing += 1
                elif wrong := _what_is_wrong(one):
                    raise file.fault(f"{place} is {one!r:.60}, {wrong}; mend it or take it out")
                else:
                    captions.append(one)
    except OSError as error:
        raise file.fault(f"cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise file.fault(f"damaged, or not UTF-8 text, after {place} ({error}); mend it or save it as UTF-8") from error
    if missing:
        _logger.warning("%s: left out %d rows without a caption", file.path, missing)
    others = ", ".join(sorted(file.left_out))
    if not captions:
        there = f"nothing in the splits {', '.join(splits)}; it has {others}"
        raise file.fault(there if others else "no caption in it")
    if others:
        _logger.warning("%s: left out the splits %s", file.path, others)
    no_caption = _NO_LINE if reader is _text else _NO_CELL
    strange = [one for one in captions if no_caption.fullmatch(one.strip())]
    if 5 * len(strange) > len(captions):
        raise file.fault(
            f"{len(strange):,} of {len(captions):,} captions are numbers, addresses or names of files, such as "
            f"{strange[0]!r:.60}; name the column of captions (--column), or take those out"
        )
    return captions


def _what_is_wrong(caption: object) -> str:
    if not isinstance(caption, str):
        return "no caption"
    if len(caption) > MOST_CHARACTERS:
        return f"too long ({len(caption):,} characters) for a caption"
    return "with half a character in it" if LONE_SURROGATE.search(caption) else ""


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        # Blanks, marks and what is not seen; letters, digits and emoji, unknown ones too, are something.
        kinds = {unicodedata.category(one) for one in value}
        nothing = all(kind[0] in "ZP" or kind in ("Cc", "Cf") for kind in kinds)
        return nothing or value.strip().lower() in _NOTHING
    return value is None or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True)
class _File:
    """A file, and what of it is wanted."""

    path: Path
    column: str | None
    splits: Sequence[str]
    left_out: set[str] = field(default_factory=set)

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
            raise self.fault(f"holds more than {most >> 20:,} MiB; cut it into several files, or unpack it")
        return data

    @cached_property
    def text(self) -> str:
        """Of UTF-8, or of UTF-16 with its mark, as Excel writes it; all ends of lines are "\\n"."""
        data = self.data()
        marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        text = data.decode("utf-16" if data.startswith(marks) else "utf-8-sig")
        if "\0" in text:
            raise self.fault("holds NUL characters, so it is no text; save it as UTF-8")
        if _MARKUP.match(text):
            raise self.fault("a page of HTML or XML; take the captions out of it")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def lines(self) -> list[str]:
        """The lines that are not blank; not by splitlines(), which splits at form feeds inside a sentence, too."""
        return [line for line in self.text.split("\n") if line.strip()]

    def parsed(self, text: str, where: str = "") -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.fault(f"{where}no JSON ({error})") from error

    def cell(self, row: Any) -> Any:
        """The captions of an object, none where its split is not wanted; anything else as it is."""
        if not isinstance(row, dict):
            return row
        split = next((value for name, value in row.items() if _is_split(name)), None)
        return row[self.chosen(tuple(row))] if self.wants(split) else []

    def wants(self, split: object) -> bool:
        """Whether what has this split, or None, is to be read; noted where it is not."""
        wanted = _is_missing(split) or str(split).strip().lower() in self.splits
        if not wanted:
            self.left_out.add(str(split).strip())
        return wanted

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
        names_on_top = "put a line of names on top, such as image,caption"
        raise self.fault(f"none of its columns ({shown:.200}) holds captions; name one (--column), or {names_on_top}")

    def delimiter(self, header: str) -> str | None:
        """What separates a header one of whose names is a column of captions; None where it is no such header."""
        wanted = {self.column.strip().lower()} if self.column else set(_COLUMNS)
        for delimiter in _DELIMITERS:
            names = [name.strip(' "').lower() for name in header.split(delimiter)]
            if len(names) > 1 and wanted & set(names):
                return delimiter
        return None


def _is_split(name: str) -> bool:
    return name.strip().lower() == "split"


def _zstd(path: Path, mode: str) -> Any:
    return require("pyarrow", "published").input_stream(path, compression="zstd")


def _numbered(what: str, values: Iterable[Any]) -> Values:
    """("line 1", value), ("line 2", value), ..."""
    return ((f"{what} {number}", value) for number, value in enumerate(values, 1))


def _text(file: _File) -> Values:
    if file.text.lstrip()[:1] in ("[", "{"):
        with suppress(TextError):  # else a caption that begins so
            return _json(file)
    lines = file.lines()
    if lines and file.delimiter(lines[0]) is not None:
        return _table(file)
    if file.column is not None:
        raise file.fault(f"a text file has no column {file.column!r}; leave it out")
    if lines and lines[0].strip().lower() in _COLUMNS:
        lines = lines[1:]
    for mark in (_PHOTO, _LISTED):
        if _most(lines, mark.match):
            lines = [mark.sub("", line, count=1) for line in lines]
    if _most(lines, _QUOTED.fullmatch):
        lines = [_unquoted(line.strip().removesuffix(",")) for line in lines]
    if _most(lines, re.compile(r".*\S\t+\S").match):
        raise file.fault("its lines have tabs: a table without names; put those on top, such as image, a tab, caption")
    return _numbered("line", lines)


def _most(lines: Sequence[str], holds: Callable[[str], object]) -> bool:
    """Whether something is true of more than half of the first ten lines."""
    first = lines[:10]
    return 2 * sum(bool(holds(line)) for line in first) > len(first)


def _table(file: _File) -> Iterator[tuple[str, Any]]:
    text = re.sub('^"?sep=.*\n', "", file.text.lstrip("\n"))  # Excel's
    found = file.delimiter(text.split("\n", 1)[0])
    delimiter = "\t" if file.kind == ".tsv" else found or ","
    unquoted = delimiter in "\t|"  # quotes are text there
    quoting: Literal[0, 3] = csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL
    # Strict: a quote that is not closed would swallow the rows up to the next one.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    names = [name.strip() for name in next(rows, [])]
    place = names.index(file.chosen(names))
    split = next((at for at, name in enumerate(names) if _is_split(name)), len(names))
    for at, row in _numbered("row", filter(None, rows)):
        if len(row) > len(names):
            raise file.fault(f"{at} has {len(row)} cells, not {len(names)}; quote captions with {delimiter!r}")
        if any(_is_glued(cell.split("\n"), delimiter) for cell in row if "\n" in cell):
            raise file.fault(f"{at} has the next in its quotes: double a quote that is text, or take it out")
        if file.wants(row[split] if split < len(row) else None):
            cell = row[place].strip() if place < len(row) else None
            yield at, _opened(cell, quoted=not unquoted) if cell else cell


def _is_glued(lines: Sequence[str], delimiter: str) -> bool:
    """Whether a cell of several lines is several rows: a photo begins a later one, or ends an earlier one."""
    ends = (f"{line.rpartition(delimiter)[2]} " for line in lines[:-1])
    return any(_PHOTO.match(one) for one in (*lines[1:], *ends))


def _opened(cell: str, *, quoted: bool) -> Any:
    """The captions of a cell, which pandas or numpy may have written as a list; an object as such."""
    cell = cell if quoted else _unquoted(cell)
    if not cell.startswith(("[", "{")) or cell[1:2] not in ("'", '"'):
        return cell
    listed = re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", cell)  # numpy's has no commas
    odd = ValueError, SyntaxError, RecursionError, MemoryError
    with suppress(*odd):
        return json.loads(cell)
    with suppress(*odd):  # a comma more inside of a caption makes no longer list
        return max(ast.literal_eval(cell), ast.literal_eval(listed), key=len)
    return cell


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
        names = table.schema_arrow.names
        wanted = [file.chosen(names), *filter(_is_split, names)]
        return _numbered("row", table.read(columns=wanted).to_pylist())
    except arrow.ArrowException as error:
        raise file.fault(f"not a readable Parquet file ({error})") from error


def _json_lines(file: _File) -> Iterator[tuple[str, Any]]:
    for place, line in _numbered("line", file.lines()):
        yield place, file.parsed(line, f"{place}: ")


def _json(file: _File) -> Values:
    try:
        content = file.parsed(file.text)
    except TextError:
        if file.text.lstrip()[:1] not in '{"':
            raise
        return _json_lines(file)  # by another ending
    rows = _listed(content, file) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise file.fault(f"holds {type(content).__name__}; a list of captions is expected")
    return ((f"item {number}", row) for number, row in enumerate(rows))


def _listed(content: dict[str, Any], file: _File) -> list[Any]:
    """The annotations of COCO's form, the sentences of the wanted splits, or the captions of photos."""
    if isinstance(content.get("annotations"), list):
        return list(content["annotations"])
    images = content.get("images")
    wanted = list[Any]()
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and isinstance(image.get("sentences"), list) and file.wants(image.get("split")):
            wanted += image["sentences"]
    if wanted or file.left_out:
        return wanted
    listed = {name: value for name, value in content.items() if isinstance(value, list)}
    rows = [value for name, value in listed.items() if name.lower() in _COLUMNS or _are_objects(value)]
    if len(rows) == 1 and "images" not in content:
        return rows[0]
    if content and all(map(_PHOTO_KEY.fullmatch, content)):
        return list(content.values())
    keys = ", ".join(map(repr, content))
    raise file.fault(f'no "annotations" with captions in it (it has {keys:.200})')


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(one, dict) for one in values)


_READERS: dict[str, Callable[[_File], Values]] = {
    **dict.fromkeys((".txt", ".text", ".token", ""), _text),
    **{".csv": _table, ".tsv": _table, ".parquet": _parquet},
    **{".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines},
}
