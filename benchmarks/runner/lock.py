"""One process per folder: two that append to one predictions.jsonl would write every line twice.

Knows: the operating system's locks, which end with the process, however it ends. Does NOT know: what is in the folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchioner.base.errors import OptionError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nobody watches
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes that ask for it in the same way.

    Raises:
        OptionError: another process holds it, or it cannot be made.

    Example:
        >>> with folder_lock(Path("out")):  # doctest: +SKIP
        ...     write_predictions()
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{folder} cannot be made ({error.strerror}): choose another --out"
        ) from error
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _hold(handle, folder)
        yield
    finally:
        os.close(handle)  # lets go of the lock


def _hold(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OptionError(
            f"another process is writing into {folder}: wait for it, or choose another --out"
        ) from error
    except OSError as error:  # a file system without locks
        logger.warning(
            "%s cannot be locked (%s): see that no second run writes into it", folder, error
        )
