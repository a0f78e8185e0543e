"""Files that are whole or absent: atomic writing, checksums, and JSON with errors that name the file.

Knows paths and JSON. Does not know what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchioner.base.errors import CheckpointError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, else it is removed.

    A process killed half way leaves the earlier file as it was. Missing parent folders are made.

    Example:
        >>> with atomic_path("weights.bin") as temporary:  # doctest: +SKIP
        ...     temporary.write_bytes(b"...")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = target.with_name(f".{target.name}.{writer}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Sha256 of a file's bytes, in hexadecimal.

    Example:
        >>> len(file_sha256("weights.bin"))  # doctest: +SKIP
        64
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as readable UTF-8 JSON, atomically.

    Raises:
        CheckpointError: `value` holds something JSON cannot express (NaN and infinity included).
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: cannot be written as JSON: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing, unreadable or not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{os.fspath(path)}: no such file; is the folder complete?"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{os.fspath(path)}: not valid JSON ({error}); fetch or write it again"
        ) from error
