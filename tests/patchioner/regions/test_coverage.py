"""Exact coverage against slow twins: loops over cells, supersampled pictures, other kinds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchioner.geometry import Fit, ImageGeometry, fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    Trace,
    WholeImage,
    region_weights,
)
from patchioner.regions.shapes import reference_box_footprints, reference_model_boxes

Weights = npt.NDArray[np.floating]
MODES = ("stretch", "crop", "pad", "aspect")
FEW = settings(max_examples=50, deadline=None)


@st.composite
def geometries(draw: st.DrawFn) -> ImageGeometry:
    side = st.integers(20, 90)
    image_size = draw(side), draw(side)
    size = 8 * draw(st.integers(2, 7))
    return fit_image(image_size, mode=draw(st.sampled_from(MODES)), size=size, patch_size=8)


@st.composite
def boxes_in_view(draw: st.DrawFn, geometry: ImageGeometry, whole_pixels: bool = False) -> Box:
    x1, y1, x2, y2 = geometry.visible
    if whole_pixels:
        left = draw(st.integers(int(np.ceil(x1)), int(x2) - 1))
        top = draw(st.integers(int(np.ceil(y1)), int(y2) - 1))
        right = draw(st.integers(left + 1, int(x2)))
        return Box(left, top, right, draw(st.integers(top + 1, int(y2))))
    xs = sorted(draw(st.tuples(st.floats(x1 - 5, x2 + 5), st.floats(x1 - 5, x2 + 5))))
    ys = sorted(draw(st.tuples(st.floats(y1 - 5, y2 + 5), st.floats(y1 - 5, y2 + 5))))
    assume(min(xs[1], x2) - max(xs[0], x1) > 1e-3)
    assume(min(ys[1], y2) - max(ys[0], y1) > 1e-3)
    return Box(xs[0], ys[0], xs[1], ys[1])


def box_cell_by_cell(box: Box, geometry: ImageGeometry) -> Weights:
    """The slow twin: overlap of the box with the pixels that each patch sees."""
    width, height = geometry.image_size
    weights = np.zeros(geometry.grid)
    for index, (x1, y1, x2, y2) in enumerate(geometry.cell_boxes()):
        across = min(box.x2, x2, width) - max(box.x1, x1, 0)
        down = min(box.y2, y2, height) - max(box.y1, y1, 0)
        weights[np.unravel_index(index, geometry.grid)] = max(across, 0) * max(down, 0)
    return np.asarray(weights / weights.sum())


@FEW
@given(geometries(), st.data())
def test_boxes_agree_with_a_loop_over_cells(geometry: ImageGeometry, data: st.DataObject) -> None:
    boxes = data.draw(st.lists(boxes_in_view(geometry), min_size=1, max_size=5))
    twin = np.stack([box_cell_by_cell(box, geometry) for box in boxes])
    np.testing.assert_allclose(region_weights(boxes, geometry), twin, atol=2e-5)


@FEW
@given(geometries(), st.data())
def test_box_mask_and_polygon_of_one_rectangle_agree(
    geometry: ImageGeometry, data: st.DataObject
) -> None:
    box = data.draw(boxes_in_view(geometry, whole_pixels=True))
    width, height = geometry.image_size
    array = np.zeros((height, width), dtype=bool)
    array[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]
    as_box, as_mask, as_polygon = region_weights([box, Mask(array), Polygon(corners)], geometry)
    np.testing.assert_allclose(as_mask, as_box, atol=1e-6)
    np.testing.assert_allclose(as_polygon, as_box, atol=1e-6)


@FEW
@given(geometries(), st.integers(0, 2**32 - 1))
def test_masks_agree_with_a_loop_over_cells(geometry: ImageGeometry, seed: int) -> None:
    width, height = geometry.image_size
    array = np.random.default_rng(seed).random((height, width)) < 0.3
    x, y = np.arange(width), np.arange(height)
    twin = np.zeros(geometry.grid)
    for index, (x1, y1, x2, y2) in enumerate(geometry.cell_boxes()):
        across = np.maximum(np.minimum(x + 1, x2) - np.maximum(x, x1), 0)
        down = np.maximum(np.minimum(y + 1, y2) - np.maximum(y, y1), 0)
        twin.flat[index] = (array * down[:, None] * across).sum()
    weights = region_weights([Mask(array)], geometry)[0]
    np.testing.assert_allclose(weights, twin / twin.sum(), atol=1e-6)


@FEW
@given(geometries(), st.integers(0, 2**32 - 1))
def test_traces_agree_with_a_finely_sampled_path(geometry: ImageGeometry, seed: int) -> None:
    random = np.random.default_rng(seed)
    x1, y1, x2, y2 = geometry.visible
    path = random.random((4, 2)) * (x2 - x1, y2 - y1) + (x1, y1)
    twin = np.zeros(geometry.grid)
    for start, end in zip(path[:-1], path[1:], strict=True):
        steps = (np.arange(5000)[:, None] + 0.5) / 5000
        column, row = np.floor(geometry.to_grid(start + steps * (end - start))).astype(int).T
        row, column = row.clip(0, geometry.grid[0] - 1), column.clip(0, geometry.grid[1] - 1)
        np.add.at(twin, (row, column), np.linalg.norm(end - start) / 5000)
    weights = region_weights([Trace(path)], geometry)[0]
    np.testing.assert_allclose(weights, twin / twin.sum(), atol=2e-3)


def mapped(
    mode: Fit, image_size: tuple[int, int], size: int, *corners: tuple[float, ...]
) -> list[list[float]]:
    geometry = fit_image(image_size, mode=mode, size=size, patch_size=14)
    model = reference_model_boxes(np.array(corners), geometry)
    assert model.dtype == np.float32
    values: list[list[float]] = model.tolist()
    return values


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
    assert np.count_nonzero(reference_box_footprints(boxes, geometry)[0]) == 2


@FEW
@given(geometries(), st.data())
def test_every_kind_sums_to_one_in_every_mode(geometry: ImageGeometry, data: st.DataObject) -> None:
    box = data.draw(boxes_in_view(geometry))
    x1, y1, x2, y2 = geometry.visible
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    array = np.ones(geometry.image_size[::-1], dtype=bool)
    regions: list[Region] = [
        box,
        Point(*middle),
        Mask(array),
        Polygon([(x1, y1), (x2, y1), middle]),
        Trace([middle, (box.x1, box.y1), (x1, y2)]),
        WholeImage(),
        *Patch.all(geometry),
    ]
    weights = region_weights(regions, geometry)
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, atol=1e-5)
