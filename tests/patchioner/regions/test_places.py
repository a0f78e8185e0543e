"""Points, patches and the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Box, Mask, Patch, Point, WholeImage

SQUARE = fit_image((100, 100), mode="stretch", size=80, patch_size=8)
PADDED = fit_image((100, 50), mode="pad", size=80, patch_size=8)
CROPPED = fit_image((200, 100), mode="crop", size=80, patch_size=8)


def where(weights: np.ndarray) -> tuple[int, int]:
    assert np.count_nonzero(weights) == 1
    assert weights.sum() == 1
    row, column = np.argwhere(weights)[0]
    return int(row), int(column)


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [(0, 0, 0, 0), (9.99, 10, 1, 0), (55, 31, 3, 5), (100, 100, 9, 9), (100, 0, 0, 9)],
)
def test_a_point_is_the_patch_under_it(x: float, y: float, row: int, column: int) -> None:
    assert where(Point(x, y).patch_weights(SQUARE)) == (row, column)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_the_point_in_the_middle_of_a_patch_is_that_patch(row: int, column: int) -> None:
    x, y = SQUARE.to_pixels(np.array([[column + 0.5, row + 0.5]]))[0]
    assert where(Point(x, y).patch_weights(SQUARE)) == (row, column)
    assert where(Patch(row, column).patch_weights(SQUARE)) == (row, column)


@pytest.mark.parametrize("place", [(-1, 5), (5, -0.1), (100.1, 5), (5, 1e30)])
def test_a_point_off_the_image_names_value_and_image(place: tuple[float, float]) -> None:
    with pytest.raises(RegionError, match=r"Point\(.*100x100 image.*original"):
        Point(*place).patch_weights(SQUARE)


def test_a_point_that_was_cropped_away_says_what_would_keep_it() -> None:
    with pytest.raises(RegionError, match=r"x 50 to 150.*stretch, pad or aspect"):
        Point(10, 50).patch_weights(CROPPED)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "3", None, [1], 10**400])
def test_a_point_takes_finite_numbers_only(bad: object) -> None:
    with pytest.raises(RegionError, match="x of the point"):
        Point(bad, 3)  # type: ignore[arg-type]


def test_a_patch_outside_the_grid_names_the_grid() -> None:
    with pytest.raises(RegionError, match=r"Patch\(row=10, col=0\).*10 rows and 10 columns"):
        Patch(10, 0).patch_weights(SQUARE)


@pytest.mark.parametrize(("row", "col", "text"), [(-1, 0, "-1"), (0, 1.5, "1.5"), ("1", 0, "'1'")])
def test_a_patch_takes_integers_from_zero(row: object, col: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Patch(row, col)  # type: ignore[arg-type]


def test_a_patch_takes_numpy_integers() -> None:
    assert Patch(np.int64(3), np.uint8(4)) == Patch(3, 4)  # type: ignore[arg-type]


def test_a_patch_of_padding_is_refused_and_left_out_of_all() -> None:
    with pytest.raises(RegionError, match="padding"):
        Patch(0, 0).patch_weights(PADDED)
    shown = Patch.all(PADDED)
    # 50 of 100 rows: 5 patches' worth, from row 2.5 to 7.5, so six rows show some of it.
    assert [patch.row for patch in shown[::10]] == [2, 3, 4, 5, 6, 7]
    assert len(shown) == 60
    assert len(Patch.all(SQUARE)) == 100


def test_the_whole_image_is_flat_where_nothing_is_padded() -> None:
    np.testing.assert_allclose(WholeImage().patch_weights(SQUARE), 0.01, rtol=1e-5)
    np.testing.assert_allclose(WholeImage().patch_weights(CROPPED), 0.01, rtol=1e-5)


def test_the_whole_image_counts_border_patches_by_share() -> None:
    weights = WholeImage().patch_weights(PADDED)
    np.testing.assert_allclose(
        weights[:, 0] * 10, [0, 0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0, 0], atol=1e-7
    )
    np.testing.assert_allclose(weights, Box(0, 0, 100, 50).patch_weights(PADDED))
    full = Mask(np.ones((50, 100), dtype=bool))
    np.testing.assert_allclose(weights, full.patch_weights(PADDED), atol=1e-7)
