"""This project's own JSON form of regions. Does NOT know files of other tools.

    {"regions": [
        {"box": [x1, y1, x2, y2], "label": "left dog"},
        {"point": [x, y]},
        {"patch": [row, col]},
        {"polygon": [[x, y], ...]},                       (or a list of such rings)
        {"trace": [[x, y], ...], "normalized": true},
        {"mask": "mask.png"},                             (beside the JSON; or an RLE dictionary)
        {"set": [{"box": [...]}, {"point": [...]}]},
        {"whole": true}
    ]}

or, for several images, {"images": {"a.jpg": [...], "b.jpg": [...]}} with such lists. All numbers
are pixels of the original image, x right, y down; ``normalized`` traces count in 0..1.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from patchioner.base.errors import RegionError
from patchioner.region_files.named import NamedRegion
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    RegionSet,
    Trace,
    WholeImage,
)
from patchioner.regions.values import items_of, numbers

ImageSize = tuple[int, int]


def named_region(entry: object, folder: Path, image_size: ImageSize) -> NamedRegion:
    """One entry of a list of regions; RegionError when it is not in the form above."""
    region = _region(entry, folder, image_size, also=("label",))
    label = entry.get("label") if isinstance(entry, Mapping) else None
    if label is not None and not isinstance(label, str):
        raise RegionError(f"label is {label!r:.80}; give a text")
    return NamedRegion(region, label)


def _region(
    entry: object, folder: Path, image_size: ImageSize, also: tuple[str, ...] = ()
) -> Region:
    if not isinstance(entry, Mapping):
        raise RegionError(f"a region is a dictionary such as {{'box': [...]}}, not {entry!r:.80}")
    kinds = [key for key in entry if key in _READERS]
    allowed = {*kinds, *also, *(("normalized",) if kinds == ["trace"] else ())}
    unknown = [str(key) for key in entry if key not in allowed]
    if unknown:
        known = [*_READERS, "normalized", "label"]
        close = difflib.get_close_matches(unknown[0], known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise RegionError(f"key {unknown[0]!r} does not belong here; {guess}{_USE_ONE}")
    if len(kinds) != 1:
        raise RegionError(f"a region has exactly one kind, this one {len(kinds)}; {_USE_ONE}")
    return _READERS[kinds[0]](entry, folder, image_size)


def _box(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    return Box(*numbers(entry["box"], 4, "box"))


def _point(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    return Point(*numbers(entry["point"], 2, "point"))


def _patch(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    numbers(entry["patch"], 2, "patch")
    row, col = items_of(entry["patch"], "patch")
    return Patch(row, col)  # type: ignore[arg-type]  # Patch says what is wrong with a float


def _polygon(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    return Polygon(items_of(entry["polygon"], "polygon"))


def _trace(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    normalized = entry.get("normalized", False)
    if not isinstance(normalized, bool):
        raise RegionError(f"'normalized' is {normalized!r:.80}; give true or false")
    return Trace(items_of(entry["trace"], "trace"), normalized)


def _mask(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    source = entry["mask"]
    if isinstance(source, Mapping):
        mask = Mask.from_rle(source)
    elif isinstance(source, str):
        mask = Mask.from_file(folder / source)
    else:
        raise RegionError(f"'mask' is {source!r:.80}; give a file name or an RLE dictionary")
    mask.require_size(image_size)
    return mask


def _set(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    members = items_of(entry["set"], "set")
    return RegionSet([_region(member, folder, image_size) for member in members])


def _whole(entry: Mapping[str, object], folder: Path, image_size: ImageSize) -> Region:
    if entry["whole"] is not True:
        raise RegionError(f"'whole' is {entry['whole']!r:.80}; give true, or leave the entry out")
    return WholeImage()


_READERS: Mapping[str, Callable[[Mapping[str, object], Path, ImageSize], Region]] = {
    "box": _box,
    "point": _point,
    "patch": _patch,
    "polygon": _polygon,
    "trace": _trace,
    "mask": _mask,
    "set": _set,
    "whole": _whole,
}
_USE_ONE = "use one of " + ", ".join(_READERS)
