"""Exact coverage against slow twins: loops over cells, supersampled pictures, other kinds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchioner.geometry import ImageGeometry, fit_image
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


def test_a_round_mask_agrees_with_a_supersampled_disc() -> None:
    geometry = fit_image((90, 60), mode="pad", size=40, patch_size=8)
    y, x = np.indices((60, 90)) + 0.5
    weights = Mask((x - 40) ** 2 + (y - 25) ** 2 < 20**2).patch_weights(geometry)
    rows, columns = (np.indices((1000, 1000)) + 0.5) / 200
    sampled = geometry.to_pixels(np.stack([columns.ravel(), rows.ravel()], axis=1))
    inside = ((sampled - (40, 25)) ** 2).sum(axis=1) < 20**2
    twin = inside.reshape(5, 200, 5, 200).mean(axis=(1, 3))
    # The mask is the disc in whole pixels: they differ along its rim.
    np.testing.assert_allclose(weights, twin / twin.sum(), atol=0.005)


def test_a_mask_pixel_by_pixel_is_the_mean_of_its_boxes() -> None:
    geometry = fit_image((23, 17), mode="stretch", size=40, patch_size=8)
    array = np.random.default_rng(0).random((17, 23)) < 0.5
    pixels = [Box(x, y, x + 1, y + 1) for y, x in np.argwhere(array)]
    twin = np.stack([box_cell_by_cell(pixel, geometry) for pixel in pixels]).mean(axis=0)
    np.testing.assert_allclose(region_weights([Mask(array)], geometry)[0], twin, atol=1e-6)


def test_a_tall_mask_is_the_same_in_blocks_of_rows() -> None:
    geometry = fit_image((5, 1300), mode="stretch", size=32, patch_size=8)
    array = np.random.default_rng(1).random((1300, 5)) < 0.5
    columns = np.repeat(np.arange(5), 1300).reshape(5, 1300).T
    rows = np.indices((1300, 5))[0]
    twin = np.zeros((4, 4))
    for cell_row in range(4):
        for cell_column in range(4):
            down = np.clip(
                np.minimum(rows + 1, 325 * (cell_row + 1)) - np.maximum(rows, 325 * cell_row), 0, 1
            )
            across = np.clip(
                np.minimum(columns + 1, 1.25 * (cell_column + 1))
                - np.maximum(columns, 1.25 * cell_column),
                0,
                1,
            )
            twin[cell_row, cell_column] = (array * down * across).sum()
    np.testing.assert_allclose(
        region_weights([Mask(array)], geometry)[0], twin / twin.sum(), atol=1e-6
    )


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
