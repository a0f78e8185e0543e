"""Regions as Label Studio writes them: rectangles, polygons, ellipses, points and brushes, in per cent of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Size, finite, items_of, numbers
from patchioner.regions.mask import Mask
from patchioner.regions.paths import Polygon
from patchioner.regions.shapes import Box, Point

_CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def from_label_studio(result: Mapping[str, Any], image_size: Size) -> Region:
    """The region of one result of an annotation or prediction.

    Args:
        result: with ``type`` and ``value``, such as a rectangle's x, y, width and height.
        image_size: (width, height) of the image.

    Raises:
        RegionError: another kind, or a value that is damaged or was drawn on another size.

    Example:
        >>> value = {"x": 10, "y": 10, "width": 50, "height": 20}
        >>> from_label_studio({"type": "rectanglelabels", "value": value}, (640, 480))
        Box(x1=64.0, y1=48.0, x2=384.0, y2=144.0)
    """
    value, kind = result.get("value"), str(result.get("type"))
    if not isinstance(value, Mapping):
        raise RegionError(f"Label Studio's {kind!r:.40} has no value; draw it again")
    width, height = (side / 100.0 for side in image_size)
    if kind.startswith("brush"):
        return Mask(_brush(value.get("rle"), image_size))
    if kind.startswith("polygon"):
        ring = (numbers(one, 2, "point") for one in items_of(value.get("points"), "points"))
        return Polygon([(x * width, y * height) for x, y in ring])
    if kind.startswith("keypoint"):
        return Point(finite(value.get("x"), "x") * width, finite(value.get("y"), "y") * height)
    names = {"rectangle": "x y width height", "ellipse": "x y radiusX radiusY"}
    keys = next((names[one].split() for one in names if kind.startswith(one)), None)
    if keys is None:
        raise RegionError(f"Label Studio's {kind!r:.40} is not read; export the project as COCO")
    x, y, across, down = (finite(value.get(key), key) for key in keys)
    origin, sides = (x * width, y * height), (across * width, down * height)
    turn = math.radians(finite(value.get("rotation") or 0.0, "rotation"))
    if kind.startswith("ellipse"):
        angles = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
        return _turned(list(zip(np.cos(angles), np.sin(angles), strict=True)), origin, sides, turn)
    if turn:
        return _turned(_CORNERS, origin, sides, turn)
    return Box.from_xywh(*origin, *sides)


def _turned(shape: Any, origin: tuple[float, float], sides: Any, turn: float) -> Polygon:
    """A shape of unit size, stretched, then turned clockwise around the origin."""
    points = np.array(shape) * sides
    turned = points @ np.array(
        [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    )
    return Polygon(turned + origin)


def _brush(rle: object, size: Size) -> Any:
    """(height, width) bool of a brush: run lengths of RGBA pixels.

    Source: the format of thi.ng's rle-pack. Bits, highest first: 32 for how many values there are, 5 for the bits of
    a value, 4 times 4 for the bits of a length; then of each run whether it repeats, which of the four lengths is
    used, the length, and one value or as many as the length says. All but the first of these numbers count from 1.
    """
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(rle))  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise RegionError(
            f"Label Studio's brush has 'rle' {rle!r:.60}; give a list of bytes"
        ) from None
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise RegionError("the brush's run lengths end too early: draw it again")
        return int(bits[place - count : place], 2)

    total, width = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise RegionError(
            f"the brush was drawn on another size than the image's {size[0]}x{size[1]}"
        )
    if width > 8:
        raise RegionError(f"the brush has values of {width} bits; export the project as COCO")
    values, done = np.zeros(total, dtype=np.uint8), 0
    while done < total:
        repeats = read(1)
        stop = done + 1 + read(lengths[read(2)])
        if stop > total:
            raise RegionError("the brush's run lengths go beyond its size: draw it again")
        values[done:stop] = read(width) if repeats else [read(width) for _ in range(done, stop)]
        done = stop
    return values.reshape(size[1], size[0], 4)[..., 3] > 0
