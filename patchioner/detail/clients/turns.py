"""Whose turn it is to ask: one thread of one process per question.

Knows: keys, locks in memory and in files. Does NOT know: questions, answers, who is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from patchioner.detail.clients.retry import Sleeper

_POLL = 0.05
_LONGEST = 900.0
_LOG = logging.getLogger(__name__)


class Turns:
    """Locks by name, between threads and between processes.

    Between processes a lock is a file of its own, so that different questions never wait for one another. It is there
    while a question is being asked, and removed afterwards; the operating system frees the lock of a process that dies,
    and the file that it leaves is taken over and removed by the next who asks. Where no file can be made (a read-only
    folder) or locked, only threads wait for one another.

    Args:
        folder: where lock files are; made when the first is needed.

    Example:
        >>> with Turns(Path("runs/answers/asking")).take(["abcd"]):  # doctest: +SKIP
        ...     ask_the_model()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._asking: dict[str, _InTurn] = {}

    @contextmanager
    def take(self, keys: Iterable[str], *, pause: Sleeper = time.sleep) -> Iterator[None]:
        """Hold the locks of several questions at once.

        Args:
            keys: usable as names of files; equal ones count once.
            pause: waits that many seconds while another process holds a lock; what it raises ends the wait.
        """
        # Everybody takes them in the same order, threads ahead of files: nobody waits in a circle.
        ordered = sorted(set(keys))
        with ExitStack() as held:
            for key in ordered:
                held.enter_context(self._among_threads(key))
            for key in ordered:
                held.enter_context(self._among_processes(key, pause))
            yield

    @contextmanager
    def _among_threads(self, key: str) -> Iterator[None]:
        """The lock goes when nobody waits for it."""
        with self._lock:
            turn = self._asking.setdefault(key, _InTurn())
            turn.waiting += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._asking[key]

    @contextmanager
    def _among_processes(self, key: str, pause: Sleeper) -> Iterator[None]:
        path = self.folder / f"{key}.lock"
        lock = _acquired(path, pause)
        try:
            yield
        finally:
            if lock is not None:
                # Ahead of the release: who has opened this file already finds it gone, and makes a new one.
                with suppress(OSError):
                    path.unlink()
                lock.release()


class _InTurn:
    """A lock and how many hold or want it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0


def _acquired(path: Path, pause: Sleeper) -> FileLock | None:
    """The lock of a file, held; None where there can be none, or its holder keeps it beyond all patience."""
    lock = FileLock(path)
    begun = time.monotonic()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            pass
        except (OSError, NotImplementedError) as error:
            _LOG.info("%s cannot be locked (%s); other processes may ask the same", path, error)
            return None
        if time.monotonic() - begun > _LONGEST:
            _LOG.warning(
                "%s: another process has been asking for %.0f s; asking as well", path, _LONGEST
            )
            return None
        pause(_POLL)
