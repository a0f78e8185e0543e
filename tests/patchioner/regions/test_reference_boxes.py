"""The published map of boxes to model pixels, by hand; the plain twin is in `tests/patchioner/reference`."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.geometry import Fit, fit_image
from patchioner.regions.coverage import reference_box_footprints, reference_model_boxes


def mapped(
    mode: Fit, image_size: tuple[int, int], size: int, *corners: tuple[float, ...]
) -> list[list[float]]:
    geometry = fit_image(image_size, mode=mode, size=size, patch_size=14)
    model = reference_model_boxes(np.array(corners), geometry)
    assert model.dtype == np.float32
    values: list[list[float]] = model.tolist()
    return values


def test_a_stretch_scales_each_axis() -> None:
    assert mapped("stretch", (280, 70), 140, (20, 7, 120, 35)) == [[10, 14, 50, 56]]


def test_a_crop_scales_by_the_short_side_and_moves_by_whole_pixels() -> None:
    # 640 x 480 becomes 690.67 x 518; (690 - 518) // 2 = 86 go at each side.
    scale = 518 / 480
    x, y, w, h = mapped("crop", (640, 480), 518, (100, 40, 200, 90))[0]
    np.testing.assert_allclose(
        [x, y, w, h], [100 * scale - 86, 40 * scale, 100 * scale, 50 * scale], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("corners", "wanted"),
    [
        ((30, 0, 90, 20), [0, 0, 60, 20]),  # x 60 .. 90 is seen, x 60 .. 120 is taken
        ((0, 0, 260, 140), [0, 0, 140, 140]),
        ((180, 10, 260, 20), [120, 10, 20, 10]),
        ((210, 10, 260, 20), [139, 10, 1, 10]),  # cut away: a sliver
        ((0, 10, 50, 20), [0, 10, 50, 10]),  # cut away on the left: what stands at the border
        ((-20, -20, 1e300, 1e300), [0, 0, 140, 140]),
    ],
)
def test_a_crop_clamps_the_origin_without_shortening(
    corners: tuple[float, ...], wanted: list[float]
) -> None:
    # Shows x 60 .. 200 of 260.
    assert mapped("crop", (260, 140), 140, corners) == [wanted]


def test_odd_remainders_are_floored_where_the_pixels_are_rounded_to_even() -> None:
    # 143 - 140 leaves 3: the boxes move by 1, the pixels by round(1.5) = 2.
    assert mapped("crop", (143, 140), 140, (41, 0, 51, 10)) == [[40, 0, 10, 10]]
    geometry = fit_image((143, 140), mode="crop", size=140, patch_size=14)
    assert geometry.offset == (-2, 0)
    # 641 x 480 becomes 691.7 x 518, cut to 691 before the half of the rest is taken: 86.
    assert mapped("crop", (641, 480), 518, (96, 0, 144, 24))[0][0] == pytest.approx(17.6)


@pytest.mark.parametrize("mode", ["pad", "aspect"])
def test_fits_that_were_not_published_follow_their_own_map(mode: Fit) -> None:
    geometry = fit_image((280, 140), mode=mode, size=140, patch_size=14)
    corners = np.array([[30.0, 20.0, 130.0, 90.0]])
    grid = geometry.to_grid(corners.reshape(2, 2)) * 14
    model = reference_model_boxes(corners, geometry)[0]
    np.testing.assert_allclose([*model[:2], *(model[:2] + model[2:])], grid.ravel(), rtol=1e-6)


def test_noise_of_double_precision_is_no_patch() -> None:
    geometry = fit_image((140, 140), mode="stretch", size=140, patch_size=14)
    assert (2.4 + 14) - 2.4 < 14
    boxes = np.array([[2.4, 0.0, 2.4 + 14, 1.0]])
    assert np.count_nonzero(reference_box_footprints(boxes, geometry).cover) == 2


def test_the_boxes_of_the_caller_stay_as_they_were() -> None:
    boxes = np.array([[-5.0, 0.0, 33.0, 14.0]])
    before = boxes.copy()
    for mode in ("stretch", "crop"):
        geometry = fit_image((260, 140), mode=mode, size=140, patch_size=14)
        reference_box_footprints(boxes, geometry)
    np.testing.assert_array_equal(boxes, before)
