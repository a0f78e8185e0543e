"""How figures are shown and stored. Knows: seconds, bytes, JSON values. Does NOT know what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def duration(seconds: float) -> str:
    """Seconds in words: milliseconds below a second.

    Example:
        >>> duration(0.0123), duration(1.5)
        ('12.3 ms', '1.50 s')
    """
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def plain(value: Any) -> Any:
    """The value as JSON takes it: a path as its text."""
    return str(value) if isinstance(value, Path) else value
