"""What a person at a terminal sees of a command: progress of a long loop, one line about an error."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from patchioner.base.errors import PatchionerError, out_of_memory

T = TypeVar("T")
# ESC, BEL, C1 and the rest could drive a terminal, others turn the line around; a line is one line.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters, line feeds apart, escaped as JSON escapes them."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def complain(message: str, program: str = "") -> None:
    """One line on standard error, whatever line breaks the message has."""
    if sys.stderr is not None:
        wipe_progress()
        sys.stderr.write(f"{program}{printable(' '.join(message.split()))}\n")
        sys.stderr.flush()


def wipe_progress() -> None:
    """Clear the line of a bar."""
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")  # the bar draws itself again
        sys.stderr.flush()


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_terminal(level: int = logging.WARNING) -> None:
    """For commands: messages of the log go to standard error, fit for a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def guarded(work: Callable[[], int | None], program: str = "", stopped: str = "stopped") -> int:
    """Do a command's work and return its exit status (None is 0), or 1 after a line about an error, 130 after Ctrl-C.

    A line is enough about errors of ours, of the system, of memory, and of a library that cannot be loaded.
    """
    log_to_terminal()
    try:
        return work() or 0
    except KeyboardInterrupt:
        complain(stopped, program)
        return 130
    except (PatchionerError, OSError, ImportError) as error:
        complain(f"error: {error}", program)
    except (MemoryError, RuntimeError) as error:
        if (of_memory := out_of_memory(error)) is None:
            raise
        complain(f"error: {of_memory}", program)
    return 1


def progress(iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield the items, with a bar on a terminal's standard error; `total`: how many, where `len(iterable)` fails."""
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    # None is tqdm's own test for a terminal.
    yield from tqdm(iterable, desc=description, total=total, unit=unit, file=sys.stderr, disable=None)


def quiet_interrupts() -> None:
    """For commands, before their imports: Ctrl-C outside of any `try` gives one line in place of a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # A library that is stopped while it is imported hides the reason in its own error.
        if any(isinstance(one, KeyboardInterrupt) for one in (error, error.__cause__, error.__context__)):
            sys.stderr.write("stopped\n")
        else:
            before(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def meter(*, description: str, total: int | None = None, unit: str = "it") -> Iterator[Callable[[str], None]]:
    """A bar with rate and time left for work that is no iterable; call what it gives after each piece, with a note."""
    from tqdm import tqdm

    with tqdm(desc=description, total=total, unit=unit, file=sys.stderr, disable=None) as bar:

        def step(note: str = "") -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update()

        yield step
