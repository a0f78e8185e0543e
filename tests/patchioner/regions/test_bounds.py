"""Boxes around regions."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
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

SIZE = (96, 60)  # 24 x 15 pixels a patch under a stretch
GEOMETRY = fit_image(SIZE, mode="stretch", size=64, patch_size=16)


def mask(x1: int, y1: int, x2: int, y2: int) -> Mask:
    array = np.zeros(SIZE[::-1], dtype=bool)
    array[y1, x1] = array[y2 - 1, x2 - 1] = True
    return Mask(array)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Box(10.5, 20, 30, 40.25), (10.5, 20, 30, 40.25)),
        (Box(-5, -5, 200, 30), (0, 0, 96, 30)),
        (mask(7, 3, 50, 41), (7, 3, 50, 41)),
        (mask(95, 59, 96, 60), (95, 59, 96, 60)),
        (Polygon([[(1, 2), (9, 2), (9, 8)], [(20, 30), (25, 30), (20, 99)]]), (1, 2, 25, 60)),
        (Point(30, 20), (24, 15, 48, 30)),
        (Patch(3, 0), (0, 45, 24, 60)),
        (Trace([(5, 5), (40, 5)]), (0, 0, 48, 15)),
        (WholeImage(), (0, 0, 96, 60)),
        (RegionSet([Box(50, 10, 60, 20), RegionSet([Box(5, 30, 8, 40)])]), (5, 10, 60, 40)),
    ],
)
def test_the_box_around_a_region(
    region: Region, expected: tuple[float, float, float, float]
) -> None:
    assert region.bounds(GEOMETRY) == pytest.approx(expected)


@pytest.mark.parametrize(
    "region",
    [Box(100, 0, 120, 20), Point(500, 5), Polygon([(99, 1), (120, 1), (99, 9)])],
)
def test_a_region_off_the_photo_is_refused(region: Region) -> None:
    with pytest.raises(RegionError):
        region.bounds(GEOMETRY)


def test_under_a_central_square_the_crop_reaches_beyond_it() -> None:
    geometry = fit_image(SIZE, mode="crop", size=64, patch_size=16)
    assert Box(0, 0, 30, 30).bounds(geometry) == (0, 0, 30, 30)
    assert WholeImage().bounds(geometry) == pytest.approx(geometry.visible)
    with pytest.raises(RegionError):
        Box(0, 0, 10, 30).bounds(geometry)  # cut away


def test_padding_is_never_part_of_a_crop() -> None:
    geometry = fit_image(SIZE, mode="pad", size=64, patch_size=16)
    assert WholeImage().bounds(geometry) == pytest.approx((0, 0, 96, 60))


def test_bounds_read_as_they_were_given_and_are_empty_where_only_an_image_can_tell() -> None:
    assert Box(-5, -5, 200, 30).bounds == (-5, -5, 200, 30)
    assert mask(7, 3, 50, 41).bounds == (7, 3, 50, 41)
    assert RegionSet([Point(1, 2), Trace([(5, 5), (40, 5)])]).bounds == (1, 2, 40, 5)
    for region in (WholeImage(), Patch(0, 0), Trace([(0.1, 0.2)], normalized=True)):
        assert region.bounds == ()
