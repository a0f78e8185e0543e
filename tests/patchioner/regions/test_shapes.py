"""Every shape against slow twins; masks, run lengths, traces and rings; `cases/refused_values.json`."""

import json
import math
import operator
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from patchioner import Box, Patch, Point, Region, RegionSet, Weighting, WholeImage, regions
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import ImageGeometry, fit_image
from patchioner.regions import Mask, Polygon, Trace, decode_rle, encode_rle, region_weights
from patchioner.regions.shapes import reference_box_footprints, reference_model_boxes

Array = npt.NDArray[np.floating]
REFUSED = json.loads((Path(__file__).parent / "cases" / "refused_values.json").read_text("utf-8"))
MODES = ("stretch", "crop", "pad", "aspect")
REFERENCE = Weighting(rounding="reference")
GAUSSIAN = Weighting("gaussian")
SQUARE = fit_image((100, 100), mode="stretch", size=80, patch_size=8)
PADDED = fit_image((100, 50), mode="pad", size=80, patch_size=8)
GRID = fit_image((40, 40), mode="stretch", size=32, patch_size=8)  # 4 x 4 patches of 10 pixels
# Model pixels are original pixels, so that the published arithmetic can be written in integers.
PLAIN = fit_image((140, 140), mode="stretch", size=140, patch_size=14)


SIDES = st.integers(20, 90)
GEOMETRIES = st.builds(
    lambda size, mode, patches: fit_image(size, mode=mode, size=8 * patches, patch_size=8),
    *(st.tuples(SIDES, SIDES), st.sampled_from(MODES), st.integers(2, 7)),
)


@st.composite
def boxes_in_view(draw: st.DrawFn, geometry: ImageGeometry) -> Box:
    low, high = np.reshape(geometry.visible, (2, 2))
    ends = []
    for first, last in zip(low, high, strict=True):
        one, two = sorted(draw(st.tuples(*[st.floats(first - 5, last + 5)] * 2)))
        assume(min(two, last) - max(one, first) > 1e-3)
        ends.append((one, two))
    return Box(*np.transpose(ends).ravel())


def cell_by_cell(geometry: ImageGeometry, xs: Any, ys: Any, filled: Any) -> Array:
    """The slow twin: what each patch sees of `filled` (rows, columns), whose edges are `xs` and `ys`."""
    width, height = geometry.image_size
    xs, ys = np.clip(xs, 0, width), np.clip(ys, 0, height)
    weights = np.zeros(geometry.grid)
    for index, (x1, y1, x2, y2) in enumerate(geometry.cell_boxes()):
        across, down = np.diff(np.clip(xs, x1, x2)), np.diff(np.clip(ys, y1, y2))
        weights.flat[index] = down @ np.asarray(filled, float) @ across
    return np.asarray(weights / weights.sum())


@given(GEOMETRIES, st.data())
def test_boxes_and_their_outlines(geometry: ImageGeometry, data: st.DataObject) -> None:
    boxes = data.draw(st.lists(boxes_in_view(geometry), min_size=1, max_size=5))
    twin = [cell_by_cell(geometry, (one.x1, one.x2), (one.y1, one.y2), [[1]]) for one in boxes]
    outlines = [Polygon([(b.x1, b.y1), (b.x2, b.y1), (b.x2, b.y2), (b.x1, b.y2)]) for b in boxes]
    np.testing.assert_allclose(region_weights(boxes, geometry), twin, atol=2e-5)
    np.testing.assert_allclose(region_weights(outlines, geometry), twin, atol=2e-5)


@given(GEOMETRIES, st.integers(0, 2**32 - 1))
def test_masks_and_traces(geometry: ImageGeometry, seed: int) -> None:
    random = np.random.default_rng(seed)
    width, height = geometry.image_size
    array = random.random((height, width)) < 0.3
    twin = cell_by_cell(geometry, np.arange(width + 1), np.arange(height + 1), array)
    np.testing.assert_allclose(region_weights([Mask(array)], geometry)[0], twin, atol=1e-6)

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


def test_reference_boxes_of_fits_that_were_not_published_and_of_noisy_numbers() -> None:
    for mode in ("pad", "aspect"):
        geometry = fit_image((280, 140), mode=mode, size=140, patch_size=14)
        corners = np.array([[30.0, 20.0, 130.0, 90.0]])
        grid = geometry.to_grid(corners.reshape(2, 2)) * 14
        model = reference_model_boxes(corners, geometry)[0]
        np.testing.assert_allclose([*model[:2], *(model[:2] + model[2:])], grid.ravel(), rtol=1e-6)
    assert (2.4 + 14) - 2.4 < 14
    boxes = np.array([[2.4, 0.0, 2.4 + 14, 1.0]])
    assert np.count_nonzero(reference_box_footprints(boxes, PLAIN)[0]) == 2
    # 22 x 3 / 10 pixels are column 3 of 10, but 6.6 x (140 / 22) / 14 is a little less than 3.
    geometry = fit_image((22, 22), mode="stretch", size=140, patch_size=14)
    assert Box(6.6, 0, 7, 1).patch_weights(geometry, REFERENCE)[0, 3] == 1


@pytest.mark.parametrize("weighting", [None, REFERENCE, GAUSSIAN])
def test_boxes_that_stick_out_and_tiny_ones(weighting: Weighting | None) -> None:
    boxes = [Box(100, 100, 140, 140), Box(100, 100, 900, 1e300)]
    inside, outside = region_weights(boxes, PLAIN, weighting)
    np.testing.assert_array_equal(inside, outside)
    dot = Point(33, 47).patch_weights(PLAIN)
    for right, lower in ((34, 48), (33 + 1e-3, 47 + 1e-3), (33 + 1e-12, math.nextafter(47, 50))):
        tiny = Box(33, 47, right, lower).patch_weights(PLAIN, weighting)
        np.testing.assert_array_equal(tiny, dot)


def test_a_point_is_the_patch_under_it() -> None:
    points = [(0, 0), (9.99, 10), (55, 31), (100, 100), (100, 0)]
    weights = region_weights([Point(*one) for one in points], SQUARE)
    assert np.argwhere(weights == 1)[:, 1:].tolist() == [[0, 0], [1, 0], [3, 5], [9, 9], [0, 9]]
    assert weights.sum() == 5


def test_padding_is_no_part_of_the_image() -> None:
    with pytest.raises(RegionError, match="padding"):
        Patch(0, 0).patch_weights(PADDED)
    shown = Patch.all(PADDED)
    # 50 of 100 rows: 5 patches' worth, from row 2.5 to 7.5, so six rows show some of it.
    assert [patch.row for patch in shown[::10]] == [2, 3, 4, 5, 6, 7]
    assert (len(shown), len(Patch.all(SQUARE))) == (60, 100)
    weights, by_share = WholeImage().patch_weights(PADDED), [0, 0, 1, 2, 2, 2, 2, 1, 0, 0]
    np.testing.assert_allclose(weights[:, 0] * 100, by_share, atol=1e-6)
    trace = Trace([(6, 6), (94, 46)]).patch_weights(PADDED, REFERENCE)
    assert trace[3, 0] == trace[7, 9] == 0.5


@pytest.mark.parametrize("weighting", [None, GAUSSIAN, REFERENCE, Weighting("attention")])
def test_a_set_is_the_mean_of_its_members(weighting: Weighting | None) -> None:
    attention = np.random.default_rng(0).random((3, 4, 4))
    members: list[Region] = [Box(0, 0, 40, 30), Box(30, 30, 35, 35), Point(5, 5)]
    sets = [RegionSet(members), RegionSet([members[0], RegionSet(members[1:])])]
    *one, flat, nested = region_weights([*members, *sets], GRID, weighting, attention)
    np.testing.assert_allclose(flat, sum(one) / 3, atol=1e-7)
    np.testing.assert_allclose(nested, one[0] / 2 + one[1] / 4 + one[2] / 4, atol=1e-7)


def test_rows_of_xywh_become_boxes_and_padding_is_left_out() -> None:
    rows = np.array([[0, 0, 10, 20], [-1, -1, -1, -1], [-2, 3, 9, 9], [-1, -1, -1, -1]])
    assert RegionSet.from_xywh(rows) == RegionSet([Box(0, 0, 10, 20), Box(-2, 3, 7, 12)])
    # Off any image, but no padding: an error of its own when it is pooled.
    assert RegionSet.from_xywh(iter([[-30, 3, 9, 9]])) == RegionSet([Box(-30, 3, -21, 12)])


# Traces: lengths, dots, points off the image.


@pytest.mark.parametrize("weighting", [None, REFERENCE, Weighting("gaussian", variance=0)])
def test_shares_of_the_image_and_dots(weighting: Weighting | None) -> None:
    pixels = Trace([(4, 8), (20, 30), (40, 0)])
    shares = Trace([(0.1, 0.2), (0.5, 0.75), (1, 0)], normalized=True)
    samples = [{"x": 0.1, "y": 0.2, "t": 0}, {"x": 0.5, "y": 0.75}, {"x": 1, "y": 0, "t": 2.5}]
    assert Trace.from_points_xyt(samples) == shares
    assert Trace(torch.tensor([[4, 8], [20, 30], [40, 0]])) == pixels
    found, wanted = (one.patch_weights(GRID, weighting) for one in (shares, pixels))
    np.testing.assert_allclose(found, wanted)
    for points in ([(15, 25)], [(15, 25), (15, 25)], [(15, 25), (99, 25)]):
        dot = Trace(points).patch_weights(GRID, weighting)
        np.testing.assert_array_equal(dot, Point(15, 25).patch_weights(GRID))


def test_the_path_is_broken_where_points_are_off_the_image_and_pauses_do_not_count() -> None:
    path = [(5, 5), *[(15, 5)] * 9, (15, -99), (35, 35), (25, 35)]
    expected = np.zeros((4, 4))
    expected[0, :2] = expected[3, 2:] = 0.25
    np.testing.assert_allclose(Trace(path).patch_weights(GRID), expected, atol=1e-7)
    far_edge = Trace([(40, 0), (40, 40)]).patch_weights(GRID)
    np.testing.assert_allclose(far_edge[:, 3], 0.25, atol=1e-7)


# Polygons: areas and rings.


def test_areas_of_polygons_whose_rings_come_as_lists_tuples_and_arrays() -> None:
    triangle = Polygon([(0, 0), (20, 0), (0, 20)]).patch_weights(GRID)
    np.testing.assert_allclose(triangle[:2, :2], [[0.5, 0.25], [0.25, 0]], atol=1e-7)
    tiny = Polygon([(15, 25), (15.001, 25), (15, 25.001)])
    assert tiny.patch_weights(GRID)[2, 1] == 1
    # A ring that crosses itself means all that it encloses.
    bow_tie = Polygon([(0, 0), (40, 40), (40, 0), (0, 40)]).patch_weights(GRID)
    halves = Polygon([[(0, 0), (20, 20), (0, 40)], [(40, 0), (20, 20), (40, 40)]])
    np.testing.assert_allclose(bow_tie, halves.patch_weights(GRID), atol=1e-7)
    assert bow_tie[0, 1] == bow_tie[3, 2] == 0
    ring = [(10, 10), (30, 10), (30, 30), (10, 30)]
    for points in (np.array(ring), torch.tensor(ring), [np.array(ring)], [[*map(list, ring)]]):
        assert Polygon(points) == Polygon(ring)
    assert Polygon.from_coco([np.ravel(ring)]) == Polygon(ring)
    assert len({Polygon(ring), Polygon(iter(ring))}) == 1


# Masks: arrays, pictures, run lengths.

ARRAY = np.zeros((20, 40), dtype=bool)
ARRAY[5:10, 10:20] = True


def test_a_mask_is_a_copy_of_bools_integers_or_clean_floats_that_cannot_change() -> None:
    array = ARRAY.copy()
    mask = Mask(array)
    array[:] = True
    kinds = ARRAY * 3, ARRAY.astype(np.uint8) * 255, ARRAY.astype(float), ARRAY.tolist()
    for other in (*kinds, ARRAY[None], ARRAY[..., None], torch.tensor(ARRAY).bfloat16()):
        assert Mask(other) == mask != Mask(~ARRAY)
    assert len({mask, Mask(ARRAY), pickle.loads(pickle.dumps(mask))}) == 1
    assert (mask.bounds, mask.image_size) == ((10, 5, 20, 10), (40, 20))
    with pytest.raises(ValueError, match="read-only"):
        mask.array[0, 0] = True


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_any_mode_is_read(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # of which Pillow warns, and we do not
    picture = Image.fromarray(ARRAY.astype(np.uint8) * 255).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(ARRAY.astype(np.uint16) * 4000)
    picture.save(tmp_path / "mask.png")
    assert Mask.from_file(tmp_path / "mask.png") == Mask(ARRAY)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    Image.fromarray(np.array([[1, 255]], np.uint8)).save(tmp_path / "grey.png")
    for name in ("empty.png", "black.png", "grey.png", "missing.png"):
        with pytest.raises(RegionError, match=name):
            Mask.from_file(tmp_path / name)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths_come_back_and_agree_with_the_coco_tools(array: npt.NDArray[np.bool_]) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask", reason="the COCO tools are the judge")
    rle = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))
    for given_runs in (encode_rle(array), rle, {**rle, "counts": rle["counts"].decode("ascii")}):
        np.testing.assert_array_equal(decode_rle(given_runs), array)


# What no shape accepts, and what lies out of view.


@pytest.mark.parametrize("weighting", [None, REFERENCE])
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["error"])
def test_what_is_refused(case: dict[str, Any], weighting: Weighting | None) -> None:
    with pytest.raises(OptionError if "weighting" in case else RegionError, match=case["error"]):
        if "weighting" in case:
            Weighting(**case["weighting"])
        elif "make" in case:
            operator.attrgetter(case["make"])(regions)(*case["args"])
        else:
            region_weights([Region.from_json(case["region"])], SQUARE, weighting)


def test_a_mask_that_is_cut_away_is_refused() -> None:
    cropped = fit_image((40, 20), mode="crop", size=32, patch_size=8)
    with pytest.raises(RegionError, match=r"Mask\(40x20, 100 pixels\).*x 10 to 30"):
        Mask(np.arange(40) < np.full((20, 1), 5)).patch_weights(cropped)
