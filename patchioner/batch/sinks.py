"""Where rows go: Parquet, JSON lines, CSV, or a folder of shards; a file is whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from patchioner.base.errors import OptionError
from patchioner.base.files import atomic_path
from patchioner.base.optional import require
from patchioner.batch.rows import Row, check_schema, schema, to_csv, to_json_line, to_table

FORMATS = (".parquet", ".jsonl", ".csv")
_AT_ONCE = 1024  # rows that are held while writing


def run_folder(out: str | os.PathLike[str]) -> tuple[Path, str]:
    """(folder of the shards, their suffix) of an output: itself, or FILE.run beside a single file.

    Raises:
        OptionError: neither a folder nor a file of a known suffix, or somewhere that cannot be renamed in.
    """
    path = Path(out)
    if "://" in os.fspath(out):
        raise OptionError(f"--out {os.fspath(out)!r} is a URL: write to a local or shared folder")
    if path.suffix.lower() in FORMATS and not path.is_dir():
        shard = ".parquet" if path.suffix.lower() == ".parquet" else ".jsonl"
        return path.with_name(f"{path.name}.run"), shard
    if path.exists() and not path.is_dir() or (path.suffix and not os.fspath(out).endswith("/")):
        raise OptionError(
            f"--out {os.fspath(out)!r} is no folder/ and ends in none of {', '.join(FORMATS)}"
        )
    return path, ".parquet"


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when all of it is on the disk."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as the suffix says, atomically; few are held at a time. OSError where that cannot be."""
    upcoming = iter(rows)
    groups = iter(lambda: list(islice(upcoming, _AT_ONCE)), [])
    suffix = path.suffix.lower()
    with _whole(path) as stream:
        if suffix == ".parquet":
            _write_parquet(stream, groups)
        elif suffix == ".jsonl":
            for group in groups:
                stream.write("".join(to_json_line(row) + "\n" for row in group).encode())
        else:
            stream.write(to_csv([], header=True).encode())
            for group in groups:
                stream.write(to_csv(group, header=False).encode())


def _write_parquet(stream: BinaryIO, groups: Iterable[list[Row]]) -> None:
    with require("pyarrow.parquet", "batch").ParquetWriter(stream, schema()) as writer:
        for group in groups:
            writer.write_table(to_table(group))


def read_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows that a batch job has written, one by one.

    Args:
        path: the .parquet or .jsonl file, or the folder, that was its output.

    Raises:
        OptionError: no such file, or one that holds something else.

    Example:
        >>> [row.text for row in read_rows("captions.parquet")]  # doctest: +SKIP
        ['a cat sitting on a chair']
    """
    place = Path(path)
    for file in shard_files(place) if place.is_dir() else [place]:
        yield from _read_file(file)


def shard_files(folder: Path) -> list[Path]:
    """The finished shards of a folder, in their order."""
    found = (path for path in folder.glob("[0-9]*") if path.stem.isdigit())
    return sorted(path for path in found if path.suffix in FORMATS)


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
    except (ValueError, TypeError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{str(path)!r} holds no rows of `patchioner batch` ({error})") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        file = require("pyarrow.parquet", "batch").ParquetFile(stream)
        check_schema(file.schema_arrow, repr(str(path)))
        for batch in file.iter_batches(_AT_ONCE):
            yield from map(Row.from_dict, batch.to_pylist())
