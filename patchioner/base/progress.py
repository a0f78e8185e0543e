"""Progress of a long loop, for a person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def progress(
    iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Yield the items of `iterable`, with a bar on standard error if that is a terminal.

    `total` is the number of items, where `len(iterable)` does not tell; `unit` what one is called.
    """
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    how: dict[str, Any] = {
        "file": sys.stderr,
        "disable": None,
    }  # None is tqdm's own test for a terminal
    yield from tqdm(iterable, desc=description, total=total, unit=unit, **how)


def quiet_interrupts() -> None:
    """For commands, before their imports: Ctrl-C outside of any `try` gives one line in place of a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # A library that is stopped while it is imported hides the reason in its own error.
        chain = (error, error.__cause__, error.__context__)
        if any(isinstance(one, KeyboardInterrupt) for one in chain):
            sys.stderr.write("stopped\n")
        else:
            before(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def meter(
    *, description: str, total: int | None = None, unit: str = "it"
) -> Iterator[Callable[[str], None]]:
    """A bar with rate and time left for work that is no iterable; call what it gives after each piece, with a note."""
    from tqdm import tqdm

    with tqdm(desc=description, total=total, unit=unit, file=sys.stderr, disable=None) as bar:

        def step(note: str = "") -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update()

        yield step
