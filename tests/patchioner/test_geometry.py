"""Pixels to patches and back, for every way of fitting a photo into the backbone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.geometry import ImageGeometry, Preprocessing, fit_image

MODES = ("stretch", "crop", "pad", "aspect")


@st.composite
def geometries(draw: st.DrawFn) -> ImageGeometry:
    patch_size = draw(st.sampled_from([8, 14, 16]))
    size = patch_size * draw(st.integers(2, 12))
    side = st.integers(1, 900)
    image_size = draw(side), draw(side)
    return fit_image(
        image_size, mode=draw(st.sampled_from(MODES)), size=size, patch_size=patch_size
    )


@settings(max_examples=100, deadline=None)
@given(geometries(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_pixels_survive_the_way_to_the_grid_and_back(
    geometry: ImageGeometry, place: tuple[float, float]
) -> None:
    pixels = np.array([place]) * geometry.image_size
    np.testing.assert_allclose(
        geometry.to_pixels(geometry.to_grid(pixels)), pixels, rtol=1e-9, atol=1e-6
    )


@settings(max_examples=100, deadline=None)
@given(geometries(), st.data())
def test_the_box_of_a_cell_maps_onto_that_cell(
    geometry: ImageGeometry, data: st.DataObject
) -> None:
    rows, columns = geometry.grid
    row = data.draw(st.integers(0, rows - 1))
    column = data.draw(st.integers(0, columns - 1))
    boxes = geometry.cell_boxes()
    assert boxes.shape == (rows * columns, 4)
    corners = geometry.to_grid(boxes[row * columns + column].reshape(2, 2))
    np.testing.assert_allclose(corners, [[column, row], [column + 1, row + 1]], atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(geometries())
def test_the_visible_box_is_in_the_image_and_on_the_grid(geometry: ImageGeometry) -> None:
    x1, y1, x2, y2 = geometry.visible
    width, height = geometry.image_size
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    corners = geometry.to_grid(np.array([[x1, y1], [x2, y2]]))
    assert (corners >= -1e-6).all()
    assert (corners <= np.array([geometry.grid[1], geometry.grid[0]]) + 1e-6).all()


@pytest.mark.parametrize("mode", ["stretch", "pad", "aspect"])
def test_these_modes_see_the_whole_image(mode: str) -> None:
    geometry = fit_image((640, 480), mode=mode, size=518, patch_size=14)  # type: ignore[arg-type]
    np.testing.assert_allclose(geometry.visible, (0, 0, 640, 480), atol=1e-9)


def test_a_crop_sees_the_central_square() -> None:
    geometry = fit_image((640, 480), mode="crop", size=480, patch_size=16)
    assert geometry.visible == (80.0, 0.0, 560.0, 480.0)


def test_an_unknown_mode_and_an_odd_size_are_refused() -> None:
    with pytest.raises(OptionError, match="squeeze"):
        Preprocessing(mode="squeeze")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="518"):
        Preprocessing(size=520, patch_size=14)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "std is .* divides the pixels"),
        ({"std": (1.0, -1.0, 1.0)}, "std"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is .*three finite numbers"),
        ({"mean": (0.5, 0.5)}, "mean"),
    ],
)
def test_statistics_that_would_poison_the_pixels_are_refused(
    statistics: dict[str, tuple[float, ...]], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        Preprocessing(**statistics)  # type: ignore[arg-type]
