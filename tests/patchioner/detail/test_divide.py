from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decoders.scene_graph.phrases import noun_phrases
from patchioner import Box, Mask, Patchioner, Point, Polygon
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.divide import (
    Detection,
    DivideSettings,
    Given,
    PhotoDivider,
    area,
    as_detection,
    bounding_union,
    cells_to_pixels,
    discover_objects,
    grid,
    iou,
    merge_overlapping,
    merge_tree,
    overlap_share,
    quadrants,
    salient_segments,
    share_inside,
    trusted,
    union_of_named,
    without_parts,
)
from patchioner.detail.values import DetailRegion, Photo, Rectangle, open_photo
from patchioner.geometry import Fit, ImageGeometry, fit_image
from patchioner.regions import NamedRegion
from tests.support.tiny import noise_photo, tiny_backbone, tiny_parts

corners = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])))
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def test_overlaps_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0
    assert share_inside((0, 0, 4, 1), (3, 0, 9, 9)) == 0.25
    assert area((3, 3, 2, 9)) == 0.0
    assert share_inside((1, 1, 1, 1), (0, 0, 9, 9)) == iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0.0
    left, wide = (
        DetailRegion(name, "user", box)
        for name, box in (("a", (0, 0, 10, 10)), ("b", (5, 0, 25, 10)))
    )
    assert overlap_share(left, wide) == overlap_share(wide, left) == 0.5
    assert overlap_share(left, left) == 1.0


@given(st.lists(boxes, min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_merging_leaves_no_pair_above_the_limit_and_loses_nothing(
    found: list[Rectangle], limit: float
) -> None:
    before = list(found)
    merged = merge_overlapping(found, limit)
    assert found == before
    assert all(iou(one, two) <= limit for place, one in enumerate(merged) for two in merged[:place])
    assert all(any(bounding_union([one, box]) == one for one in merged) for box in found)
    assert bounding_union(merged) == bounding_union(found)


@pytest.mark.parametrize(
    "box", [(math.nan, 0, 1, 1), (9, 9, 9, 12), (50, 0, 60, 9), (0, 0, math.inf, 1)]
)
def test_a_box_with_nothing_in_the_photo_is_refused(box: Rectangle) -> None:
    with pytest.raises(RegionError, match="40x30"):
        as_detection(Detection(box), (40, 30))


@given(sizes, st.integers(1, 5), st.integers(1, 5))
def test_quadrants_and_cells_fill_the_photo_without_overlap(
    size: tuple[int, int], rows: int, columns: int
) -> None:
    for parts in (quadrants(size), grid(size, rows, columns)):
        assert sum(map(area, parts)) == pytest.approx(size[0] * size[1])
        assert all(area(part) > 0 for part in parts)
        assert bounding_union(parts) == (0, 0, *size)
    assert len(grid(size, rows, columns)) == rows * columns
    assert quadrants((101, 60))[0] == (0, 0, 50, 30)  # as published


def test_the_whole_comes_first_then_things_then_places(photo: Photo, model: Patchioner) -> None:
    regions = PhotoDivider(model=model).divide(photo)
    ids = [region.id for region in regions]
    assert ids[0] == "global"
    assert ids[-4:] == [f"spatial-{number}" for number in range(1, 5)]
    assert all(name.startswith("semantic-") for name in ids[1:-4])
    assert len(set(ids)) == len(ids) > 5
    for region in regions:
        assert set(region.parents) <= set(ids) - {region.id}
    assert model.caption(photo.features or photo.image, [region.region for region in regions])


def test_given_things_are_regions_and_grow_quadrants() -> None:
    bare = open_photo(noise_photo(100, 80))
    mask = np.zeros((80, 100), dtype=bool)
    mask[50:70, 30:60] = True
    things: list[Given] = [
        NamedRegion(Box(45, 5, 60, 30), "dog"), Mask(mask), (60.0, 60.0, 80.0, 90.0),
        Box(62, 62, 70, 70),
    ]  # fmt: skip
    regions = {r.id: r for r in PhotoDivider().divide(bare, things)}
    assert regions["user-1"].name == "dog"
    assert regions["user-2"].box == (30, 50, 60, 70)
    assert np.array_equal(regions["user-2"].mask, mask)  # type: ignore[arg-type]
    assert regions["user-3"].box == (60, 60, 80, 80)
    assert regions["user-4"].parents == ("global", "user-3")
    assert regions["spatial-1"].box == (0, 0, 60, 40)
    assert regions["spatial-1"].parents == ("global", "user-1")
    assert regions["spatial-2"].box == (45, 0, 100, 40)
    assert regions["spatial-3"].box == (0, 40, 60, 80)
    assert regions["spatial-4"].box == (30, 40, 100, 80)


def test_what_the_model_does_not_see_is_left_out() -> None:
    cropping = Patchioner(replace(tiny_parts(), backbone=tiny_backbone(mode="crop")), device="cpu")
    photo = open_photo(noise_photo(400, 64), cropping)
    settings = DivideSettings(spatial="grid", rows=1, columns=10, objects="none")
    regions = PhotoDivider(settings).divide(photo)
    assert 2 <= len(regions) < 11
    assert cropping.caption(photo.features or photo.image, [region.region for region in regions])


def test_the_published_patch_is_the_box_around_what_the_caption_names() -> None:
    things = [
        Detection((0, 0, 10, 10), "dog"),
        Detection((30, 20, 50, 40), "sofa"),
        Detection((80, 80, 99, 99), "traffic_light"),
        Detection((0, 0, 99, 99)),
    ]
    assert union_of_named(things, "two dogs on a couch", (100, 100)) == (0, 0, 50, 40)
    assert union_of_named(things, "a traffic light", (100, 100)) == (80, 80, 99, 99)
    assert union_of_named(things, "a traffic light and dogs", (100, 100)) is None  # too large
    assert union_of_named(things, "a zebra", (100, 100)) is None


def test_a_union_goes_by_the_models_caption(photo: Photo, model: Patchioner) -> None:
    settings = DivideSettings(objects="union", spatial="none")
    caption = model.caption(photo.features or photo.image)[0].text
    thing = Detection((1, 1, 20, 20), noun_phrases(caption)[0].name)
    regions = PhotoDivider(settings, model=model).divide(photo, [thing])
    assert [(r.id, r.box) for r in regions[1:]] == [("semantic-1", (1, 1, 20, 20))]
    with pytest.raises(OptionError, match="objects='union'"):
        PhotoDivider(settings)


def test_detections_count_by_score_with_a_fallback() -> None:
    for scores, used in (
        ((0.9, 0.3, 0.4), [0.9, 0.4]),
        ((0.3, 0.2, 0.1), [0.3, 0.2]),
        ((0.1,), []),
    ):
        found = trusted([Detection((0, 0, 9, 9), score=score) for score in scores])
        assert [detection.score for detection in found] == used


def test_polygons_become_masks_and_points_are_refused() -> None:
    found = as_detection(Polygon([(10, 10), (30, 10), (30, 20), (10, 20)]), (40, 30))
    assert found.mask is not None
    assert found.mask[15, 20]
    assert not found.mask[25, 20]
    for bad in (Point(3, 3), "box", (1, 2, 3)):
        with pytest.raises(RegionError, match="no region with an inside"):
            as_detection(bad, (40, 30))  # type: ignore[arg-type]
    with pytest.raises(RegionError, match="2x2"):
        as_detection(Mask(np.ones((2, 2), dtype=bool)), (40, 30))


@pytest.mark.parametrize(
    "wrong",
    [{"spatial": "thirds"}, {"objects": "all"}, {"rows": 0}, {"rows": 1.5}, {"grow": 1.5},
     {"merge_iou": float("nan")}],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        DivideSettings(**wrong)  # type: ignore[arg-type]


def plain_order(vectors: npt.NDArray[np.float64]) -> list[frozenset[int]]:
    """The unions in order, each as its set of cells: every pair of touching groups is costed anew."""
    rows, columns, _ = vectors.shape
    flat = vectors.reshape(rows * columns, -1)
    groups = [frozenset([cell]) for cell in range(rows * columns)]
    made: list[frozenset[int]] = []

    def spread(cells: frozenset[int]) -> float:
        values = flat[sorted(cells)]
        return float(((values - values.mean(axis=0)) ** 2).sum())

    def touch(one: frozenset[int], two: frozenset[int]) -> bool:
        places = [[divmod(cell, columns) for cell in group] for group in (one, two)]
        return any(abs(a - c) + abs(b - d) == 1 for a, b in places[0] for c, d in places[1])

    while len(groups) > 1:
        _, one, two = min(
            (spread(one | two) - spread(one) - spread(two), place, other)
            for place, one in enumerate(groups)
            for other, two in enumerate(groups)
            if place < other and touch(one, two)
        )
        union = groups[one] | groups[two]
        groups = [group for group in groups if not group <= union] + [union]
        made.append(union)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_that_of_the_plain_twin(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(4, 5, 3))
    tree, parent, height = merge_tree(vectors)
    unions = [frozenset(np.flatnonzero(cells).tolist()) for cells in tree[20:]]
    assert unions == plain_order(vectors)
    assert all((tree[node] <= tree[parent[node]]).all() for node in range(38))
    assert all(height[node] <= height[parent[node]] for node in range(38))


def planted(seed: int = 0) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.bool_]]]:
    """Tokens of a background and of two things in it, with noise."""
    rng = np.random.default_rng(seed)
    first, second = np.zeros((12, 16), dtype=bool), np.zeros((12, 16), dtype=bool)
    first[2:6, 2:7], second[6:11, 9:13] = True, True
    directions = rng.normal(size=(3, 8))
    tokens = np.where(first[..., None], directions[1], directions[0])
    tokens = np.where(second[..., None], directions[2], tokens)
    return tokens + rng.normal(scale=0.05, size=(12, 16, 8)), [first, second]


@pytest.mark.parametrize("seed", range(4))
def test_planted_things_come_first_and_limits_are_kept(seed: int) -> None:
    tokens, things = planted(seed)
    attention = np.full((12, 16), 1.0) + 2.0 * (things[0] | things[1])
    found = salient_segments(tokens, attention, limit=3)
    for thing in things:
        assert any(np.array_equal(cells, thing) for _, cells in found[:2])
    assert len(found) <= 3
    assert [score for score, _ in found] == sorted((score for score, _ in found), reverse=True)
    for place, (_, one) in enumerate(found):
        assert 0.012 <= one.mean() <= 0.7
        assert all((one & two).sum() <= 0.5 * (one | two).sum() for _, two in found[:place])


def test_boxes_and_masks_lie_where_the_things_are() -> None:
    tokens, _ = planted()
    geometry = ImageGeometry((160, 120), (12, 16), 10, (1.0, 1.0), (0.0, 0.0))
    features = PatchFeatures(torch.tensor(tokens, dtype=torch.float32), None, None, geometry)
    found = discover_objects(features)
    assert {(20.0, 20.0, 70.0, 60.0), (90.0, 60.0, 130.0, 110.0)} <= {one.box for one in found}
    assert found[0].score == 1.0 and found[0].name is None
    assert found[0].mask is not None and found[0].mask.shape == (120, 160)
    assert salient_segments(np.ones((6, 8, 4))) == []  # without contrast there are no things


def test_parts_that_go_by_the_name_of_their_whole_are_dropped() -> None:
    def thing(name: str | None, x1: int, x2: int) -> Detection:
        mask = np.zeros((10, 40), dtype=bool)
        mask[:, x1:x2] = True
        return Detection((x1, 0, x2, 10), name, mask=mask)

    whole, leg, other = thing("zebra", 0, 20), thing("zebra", 5, 10), thing("zebra", 15, 40)
    tree, bare = thing("tree", 5, 10), thing(None, 5, 10)
    assert without_parts([whole, leg, other, tree, bare, bare]) == [whole, other, tree, bare, bare]
    assert without_parts([leg, whole]) == [leg, whole]


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
def test_pixels_of_cells_agree_with_a_plain_loop(mode: Fit) -> None:
    geometry = fit_image((37, 23), mode=mode, size=60, patch_size=10)
    cells = np.random.default_rng(1).random(geometry.grid) > 0.5
    expected = np.zeros((23, 37), dtype=bool)
    for y in range(23):
        for x in range(37):
            column, row = geometry.to_grid([[x + 0.5, y + 0.5]])[0]
            if 0 <= column <= geometry.grid[1] and 0 <= row <= geometry.grid[0]:
                expected[y, x] = bilinear(cells, column - 0.5, row - 0.5) >= 0.5 - 1e-6
    assert np.array_equal(cells_to_pixels(cells, geometry), expected)


def bilinear(cells: npt.NDArray[np.bool_], x: float, y: float) -> float:
    x, y = min(max(x, 0.0), cells.shape[1] - 1.0), min(max(y, 0.0), cells.shape[0] - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, cells.shape[1] - 1), min(top + 1, cells.shape[0] - 1)
    across, down = x - left, y - top
    upper = cells[top, left] * (1 - across) + cells[top, right] * across
    lower = cells[bottom, left] * (1 - across) + cells[bottom, right] * across
    return float(upper * (1 - down) + lower * down)
