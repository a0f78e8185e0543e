from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from patchioner import Box, Mask, Point, Polygon
from patchioner.base.errors import RegionError
from patchioner.regions.annotators import from_label_studio

SIZE = (40, 20)
RECTANGLE = {"x": 25, "y": 50, "width": 50, "height": 25}


def brush(inside: npt.NDArray[np.bool_]) -> list[int]:
    """A mask as Label Studio writes it: runs of equal RGBA pixels, and a first pair of single ones."""
    values = np.repeat(np.where(inside.ravel(), 255, 0), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    bits += f"0{0:02b}{1:03b}{values[0]:08b}{values[1]:08b}"
    starts = [2, *(place for place in range(3, len(values)) if values[place] != values[place - 1])]
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        for first in range(start, stop, 2**16):
            length = min(2**16, stop - first)
            bits += f"1{3:02b}{length - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def test_a_brush_is_a_mask() -> None:
    inside = np.random.default_rng(0).random((20, 40)) > 0.7
    found = from_label_studio({"type": "brushlabels", "value": {"rle": brush(inside)}}, SIZE)
    assert found == Mask(inside)


def test_a_brush_of_the_official_sdk_is_read() -> None:
    """What label_studio_sdk.converter.brush.mask2rle writes of this mask."""
    rle = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 252, 96, 17, 255, 225, 48, 0]
    inside = np.zeros((4, 6), dtype=bool)
    inside[1:3, 2:5] = inside[3, 0] = True
    value = {"format": "rle", "rle": rle, "brushlabels": ["Thing"]}
    assert from_label_studio({"type": "brushlabels", "value": value}, (6, 4)) == Mask(inside)


@pytest.mark.parametrize(
    ("kind", "value", "region"),
    [
        ("rectanglelabels", RECTANGLE, Box(10, 10, 30, 15)),
        ("rectangle", RECTANGLE | {"rotation": 0}, Box(10, 10, 30, 15)),
        ("keypointlabels", {"x": 50, "y": 50, "width": 1}, Point(20, 10)),
        ("polygon", {"points": [[0, 0], [100, 0], [0, 100]]}, Polygon([(0, 0), (40, 0), (0, 20)])),
    ],
)
def test_shapes_are_in_per_cent(kind: str, value: Any, region: object) -> None:
    assert from_label_studio({"type": kind, "value": value}, SIZE) == region


@pytest.mark.parametrize(
    ("kind", "value", "bounds"),
    [
        # a quarter turn clockwise around the left top corner (10, 10), on a photo that has room for it
        ("rectangle", RECTANGLE | {"rotation": 90}, (5, 10, 10, 30)),
        ("ellipse", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}, (16, 6, 24, 14)),
    ],
)
def test_turned_rectangles_and_ellipses_are_polygons(
    kind: str, value: Any, bounds: tuple[float, ...]
) -> None:
    found = from_label_studio({"type": kind, "value": value}, SIZE)
    assert isinstance(found, Polygon)
    np.testing.assert_allclose(found.bounds, bounds, atol=0.1)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("brush", {"rle": [1, 2]}),
        ("brush", {"rle": [0, 0, 0, 9] * 9}),
        ("brush", {"rle": "abc"}),
        ("brush", {"rle": [999]}),
        ("brush", {"rle": brush(np.ones((3, 3), dtype=bool))}),
        ("brush", {"rle": brush(np.eye(20, 40, dtype=bool))[:-4]}),
        ("rectangle", {"x": "a"}),
        ("polygon", {"points": 5}),
        ("video", {}),
        ("rectangle", None),
    ],
)
def test_damaged_ones_are_named(kind: str, value: Any) -> None:
    with pytest.raises(RegionError):
        from_label_studio({"type": kind, "value": value}, SIZE)
