"""Boxes: adapters, clipping, tiny ones, bad ones, and the published rounding."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Box, Point, Weighting, region_weights

PATCH = 14
# Model pixels are original pixels, so that the published arithmetic can be written in integers.
PLAIN = fit_image((140, 140), mode="stretch", size=140, patch_size=PATCH)
CROPPED = fit_image((200, 100), mode="crop", size=140, patch_size=PATCH)
REFERENCE = Weighting(rounding="reference")


def published_box(x: int, y: int, w: int, h: int, side: int) -> npt.NDArray[np.float64]:
    """The plain twin: origin and size floored separately, both ends included."""
    weights = np.zeros((side, side))
    for row in range(y // PATCH, min(y // PATCH + h // PATCH, side - 1) + 1):
        for column in range(x // PATCH, min(x // PATCH + w // PATCH, side - 1) + 1):
            weights[row, column] = 1
    return np.asarray(weights / weights.sum())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_reference_boxes_are_the_published_integers(data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, 139)), data.draw(st.integers(0, 139))
    w, h = data.draw(st.integers(1, 140 - x)), data.draw(st.integers(1, 140 - y))
    box = Box.from_xywh(x, y, w, h)
    np.testing.assert_allclose(
        box.patch_weights(PLAIN, REFERENCE), published_box(x, y, w, h, 10), rtol=1e-6
    )


def test_reference_keeps_the_published_oddities() -> None:
    one_patch = Box.from_xywh(0, 0, 14, 14).patch_weights(PLAIN, REFERENCE)
    assert one_patch[:2, :2].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    touches_four = Box.from_xywh(13, 13, 13, 13).patch_weights(PLAIN, REFERENCE)
    assert touches_four[0, 0] == 1


def test_reference_corners_on_a_patch_border_survive_scaling() -> None:
    # 22 x 3 / 10 pixels are column 3 of 10, but 6.6 x (140 / 22) / 14 is a little less than 3.
    geometry = fit_image((22, 22), mode="stretch", size=140, patch_size=PATCH)
    weights = Box(6.6, 0, 7, 1).patch_weights(geometry, REFERENCE)
    assert weights[0, 3] == 1


def test_coverage_of_one_patch_is_that_patch() -> None:
    weights = Box(14, 28, 28, 42).patch_weights(PLAIN)
    assert weights[2, 1] == 1


@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_box_that_sticks_out_is_cut(weighting: Weighting | None) -> None:
    inside, outside = region_weights(
        [Box(100, 100, 140, 140), Box(100, 100, 900, 1e300)], PLAIN, weighting
    )
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("weighting", [None, REFERENCE, Weighting("gaussian")])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-12])
def test_a_box_smaller_than_a_patch_works(size: float, weighting: Weighting | None) -> None:
    box = Box(33, 47, 33 + size, math.nextafter(47, 50) if size < 1e-9 else 47 + size)
    weights = box.patch_weights(PLAIN, weighting)
    np.testing.assert_array_equal(weights, Point(33, 47).patch_weights(PLAIN))


def test_a_box_too_thin_for_floats_is_the_patch_under_it() -> None:
    geometry = fit_image((7, 7), mode="stretch", size=140, patch_size=PATCH)
    left = 0.768561872909699
    right = math.nextafter(left, 1)
    assert len(set(geometry.to_grid([[left, 0], [right, 0]])[:, 0])) == 1
    weights = Box(left, 3.0, right, 3.5).patch_weights(geometry)
    np.testing.assert_allclose(weights, Point(left, 3.0).patch_weights(geometry))


def test_a_hundred_thousandth_box_weighs_as_alone() -> None:
    random = np.random.default_rng(0)
    places = random.random((2500, 2)) * 100
    boxes = [Box(x, y, x + 30, y + 20) for x, y in places]
    weights = region_weights(boxes, PLAIN)
    for index in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(weights[index], boxes[index].patch_weights(PLAIN))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "12", None])
def test_coordinates_must_be_finite_numbers(bad: object) -> None:
    with pytest.raises(RegionError, match="y1 of the box"):
        Box(1, bad, 3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 9, 9, 5)])
def test_empty_and_inverted_boxes_name_value_and_remedy(corners: tuple[int, ...]) -> None:
    with pytest.raises(RegionError, match=r"Box\(x1=.*empty or inverted.*from_xywh"):
        Box(*corners)


@pytest.mark.parametrize("corners", [(140, 0, 150, 10), (-9, 0, 0, 10), (0, 200, 10, 300)])
@pytest.mark.parametrize("weighting", [None, REFERENCE])
def test_a_box_off_the_image_names_value_and_size(
    corners: tuple[int, ...], weighting: Weighting | None
) -> None:
    good = Box(0, 0, 10, 10)
    with pytest.raises(RegionError, match=r"Box\(.*140x140 image"):
        region_weights([good, Box(*corners)], PLAIN, weighting)


def test_a_box_that_was_cropped_away_says_what_is_seen() -> None:
    with pytest.raises(RegionError, match=r"x 50 to 150.*stretch"):
        Box(0, 0, 40, 100).patch_weights(CROPPED)


def test_adapters() -> None:
    assert Box.from_xywh(10, 20, 30, 40) == Box(10, 20, 40, 60)
    assert Box.from_coco({"bbox": [10, 20, 30, 40], "id": 1}) == Box(10, 20, 40, 60)
    with pytest.raises(RegionError, match="no 'bbox'"):
        Box.from_coco({"id": 1})
    with pytest.raises(RegionError, match="3 numbers"):
        Box.from_coco({"bbox": [1, 2, 3]})
    with pytest.raises(RegionError, match="width of the box"):
        Box.from_xywh(0, 0, float("nan"), 1)
    with pytest.raises(RegionError, match="empty"):
        Box.from_xywh(0, 0, -3, 1)


def test_boxes_are_values() -> None:
    three = float(np.float32(3))
    assert len({Box(1, 2, 3, 4), Box(1.0, 2.0, three, 4)}) == 1
    with pytest.raises(AttributeError):
        Box(1, 2, 3, 4).x1 = 0  # type: ignore[misc]
