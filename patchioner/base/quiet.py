"""Warnings switched off for a while, by any number of threads at once."""

from __future__ import annotations

import threading
import warnings
from types import TracebackType


class Quiet:
    """A context in which warnings are ignored; reusable and safe among threads.

    `warnings.catch_warnings` alone is not: of two threads whose blocks overlap, the one that leaves last puts back the
    filters of the other's block, and the process stays silent for good.

    Example:
        >>> quiet = Quiet()
        >>> with quiet:
        ...     warnings.warn("nobody sees this")
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(kind, error, traceback)
