from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoders.scene_graph import noun_phrases
from patchioner import Box, Mask, Patchioner, Point, Polygon
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.describe import (
    Detection,
    DivideSettings,
    Given,
    area,
    as_detection,
    bounding_union,
    divide,
    grid,
    iou,
    merge_overlapping,
    overlap_share,
    quadrants,
    share_inside,
    trusted,
    union_of_named,
)
from patchioner.detail.values import DetailRegion, Photo, Rectangle, open_photo
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
    regions = divide(photo)
    ids = [region.id for region in regions]
    assert ids[0] == "global"
    assert ids[1:5] == [f"spatial-{number}" for number in range(1, 5)]
    assert ids[5:] == [f"grid-{number}" for number in range(1, 10)]
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
    regions = {r.id: r for r in divide(bare, things)}
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
    settings = DivideSettings(spatial="grid", rows=1, columns=10)
    regions = divide(photo, settings=settings)
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
    regions = divide(photo, [thing], settings, model)
    assert [(r.id, r.box) for r in regions[1:]] == [("semantic-1", (1, 1, 20, 20))]
    with pytest.raises(OptionError, match="objects='union'"):
        divide(photo, [thing], settings)


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
