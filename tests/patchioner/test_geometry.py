"""Pixels to patches and back, for every way of fitting a photo into the backbone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.geometry import Fit, ImageGeometry, Preprocessing, fit_image

MODES: tuple[Fit, ...] = ("stretch", "crop", "pad", "aspect")


@st.composite
def geometries(draw: st.DrawFn) -> ImageGeometry:
    patch_size, side = draw(st.sampled_from([8, 14, 16])), st.integers(1, 900)
    size, mode = patch_size * draw(st.integers(2, 12)), draw(st.sampled_from(MODES))
    return fit_image((draw(side), draw(side)), mode=mode, size=size, patch_size=patch_size)


@given(geometries(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_pixels_and_grid_agree(geometry: ImageGeometry, place: tuple[float, float]) -> None:
    (rows, columns), size = geometry.grid, np.array(geometry.image_size)
    pixels = np.array([place]) * size
    back = geometry.to_pixels(geometry.to_grid(pixels))
    np.testing.assert_allclose(back, pixels, rtol=1e-9, atol=1e-6)
    # The box of each cell is that cell.
    cells = geometry.to_grid(geometry.cell_boxes().reshape(rows, columns, 2, 2))
    row, column = np.mgrid[:rows, :columns]
    low = np.stack([column, row], axis=-1)
    np.testing.assert_allclose(cells, np.stack([low, low + 1], axis=2), atol=1e-6)
    seen = np.array(geometry.visible).reshape(2, 2)
    assert (seen[0] >= 0).all() and (seen[0] < seen[1]).all() and (seen[1] <= size).all()
    on_grid = geometry.to_grid(seen)
    assert (on_grid >= -1e-6).all() and (on_grid <= np.array([columns, rows]) + 1e-6).all()


def test_a_crop_sees_the_central_square_other_modes_the_whole_image() -> None:
    for mode in MODES:
        geometry = fit_image((640, 480), mode=mode, size=480, patch_size=16)
        expected = (80, 0, 560, 480) if mode == "crop" else (0, 0, 640, 480)
        np.testing.assert_allclose(geometry.visible, expected, atol=1e-9)


@pytest.mark.parametrize(("how", "message"), [
    ({"mode": "squeeze"}, "squeeze"), ({"size": 520, "patch_size": 14}, "518"),
    ({"std": (1.0, 0.0, 1.0)}, "std is .* divides the pixels"), ({"std": (1.0, -1.0, 1.0)}, "std"),
    ({"mean": (0.5, float("nan"), 0.5)}, "mean is .*three finite numbers"), ({"mean": (0.5, 0.5)}, "mean"),
])  # fmt: skip
def test_what_would_poison_the_pixels_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Preprocessing(**how)
