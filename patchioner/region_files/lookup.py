"""Finding a photo's part of a file about several photos. Does NOT know formats."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeVar

from patchioner.base.errors import RegionError

T = TypeVar("T")


def part_of(parts: Mapping[str, T], image_name: str | None) -> T:
    """The part under a photo's file name, folders aside; the only part needs no name.

    Raises:
        RegionError: no such name (offers the close ones), or no name and several parts.
    """
    if image_name is None:
        if len(parts) == 1:
            return next(iter(parts.values()))
        raise RegionError(f"it has {len(parts)} images; say which one by its file name")
    name = PurePath(image_name).name
    by_name = {PurePath(key).name: part for key, part in parts.items()}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=3)
        guess = f"; close: {', '.join(close)}" if close else ""
        raise RegionError(f"none of its {len(parts)} images is called {name!r}{guess}")
    return by_name[name]
