"""What every kind of region says of itself: words, JSON, outlines; and other libraries' results."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    RegionSet,
    Trace,
    WholeImage,
    from_sam,
)

SIZE = (40, 20)
GEOMETRY = fit_image(SIZE, mode="stretch", size=32, patch_size=8)
ARRAY = np.random.default_rng(1).random((20, 40)) < 0.4
ARRAY[0, 0] = True


REGIONS: list[Region] = [
    Box(1, 2, 3.5, 4),
    Point(1, 2.25),
    Patch(1, 2),
    Polygon([[(0, 0), (7, 0), (0, 5)], [(5, 5), (7, 5), (6, 3)]]),
    Trace([(1, 2), (3, 4)]),
    Trace([(0.1, 0.2)], normalized=True),
    Mask(ARRAY),
    Mask(~ARRAY),
    RegionSet([Box(0, 0, 3, 3), RegionSet([Point(1, 1), WholeImage()])]),
    WholeImage(),
]


@pytest.mark.parametrize("region", REGIONS, ids=lambda region: region.kind)
def test_json_gives_the_region_back(region: Region) -> None:
    assert Region.from_json(json.loads(json.dumps(region.to_json()))) == region
    assert 0 < len(region.describe()) < 40


def test_json_without_a_folder_names_no_file() -> None:
    with pytest.raises(RegionError, match="secret.png"):
        Region.from_json({"mask": "secret.png"})


@pytest.mark.parametrize("region", REGIONS, ids=lambda region: region.kind)
def test_outlines_lie_on_the_image(region: Region) -> None:
    parts = region.outline(SIZE, GEOMETRY)
    assert parts
    for part in parts:
        assert (part.points >= 0).all() and (part.points <= SIZE).all()
        assert (part.mask is not None) == (part.style == "mask")


def test_a_patch_needs_the_grid_to_be_drawn() -> None:
    with pytest.raises(OptionError, match="geometry"):
        Patch(0, 0).outline(SIZE)


def test_detections_of_supervision() -> None:
    found = SimpleNamespace(xyxy=np.array([[1, 2, 3, 4.0]]), mask=ARRAY[None])
    assert Box.from_supervision(found) == [Box(1, 2, 3, 4)]
    assert Mask.from_supervision(found) == [Mask(ARRAY)]
    assert Mask.from_supervision(SimpleNamespace(mask=None)) == []


def test_results_of_ultralytics_lose_their_padding() -> None:
    quarter = np.zeros((20, 40), dtype=bool)
    quarter[:10, :20] = True
    box = SimpleNamespace(xyxy=torch.tensor([[1.0, 2, 3, 4]]))
    letterboxed = np.zeros((96, 96), dtype=np.float32)
    scale = 96 / 40
    letterboxed[24 : 24 + int(10 * scale), : int(20 * scale)] = 1
    masks = SimpleNamespace(data=torch.from_numpy(letterboxed[None]))
    result = SimpleNamespace(boxes=box, masks=masks, orig_shape=(20, 40))
    assert Box.from_ultralytics(result) == [Box(1, 2, 3, 4)]
    assert Mask.from_ultralytics(result) == [Mask(quarter)]
    plain = SimpleNamespace(masks=SimpleNamespace(data=ARRAY[None]), orig_shape=(20, 40))
    assert Mask.from_ultralytics(plain) == [Mask(ARRAY)]
    assert Mask.from_ultralytics(SimpleNamespace(masks=None)) == []


def test_masks_of_sam_2s_predictor() -> None:
    stack = np.stack([ARRAY, ~ARRAY])
    expected: list[Region] = [Mask(ARRAY), Mask(~ARRAY)]
    scores = np.ones(2)
    for given in (stack, torch.from_numpy(stack), stack[:, None], (stack, scores, stack)):
        assert from_sam(given) == expected
    with pytest.raises(RegionError, match=r"\(2, 3, 20, 40\)"):
        from_sam(np.ones((2, 3, 20, 40)))


PHOTO = (96, 60)  # 24 x 15 pixels a patch under a stretch
ON_PHOTO = fit_image(PHOTO, mode="stretch", size=64, patch_size=16)


def mask(x1: int, y1: int, x2: int, y2: int) -> Mask:
    array = np.zeros(PHOTO[::-1], dtype=bool)
    array[y1, x1] = array[y2 - 1, x2 - 1] = True
    return Mask(array)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Box(10.5, 20, 30, 40.25), (10.5, 20, 30, 40.25)),
        (Box(-5, -5, 200, 30), (0, 0, 96, 30)),
        (mask(7, 3, 50, 41), (7, 3, 50, 41)),
        (mask(95, 59, 96, 60), (95, 59, 96, 60)),
        (Polygon([[(1, 2), (9, 2), (9, 8)], [(20, 30), (25, 30), (20, 99)]]), (1, 2, 25, 60)),
        (Point(30, 20), (24, 15, 48, 30)),
        (Patch(3, 0), (0, 45, 24, 60)),
        (Trace([(5, 5), (40, 5)]), (0, 0, 48, 15)),
        (WholeImage(), (0, 0, 96, 60)),
        (RegionSet([Box(50, 10, 60, 20), RegionSet([Box(5, 30, 8, 40)])]), (5, 10, 60, 40)),
    ],
)
def test_the_box_around_a_region(
    region: Region, expected: tuple[float, float, float, float]
) -> None:
    assert region.bounds(ON_PHOTO) == pytest.approx(expected)


@pytest.mark.parametrize(
    "region",
    [Box(100, 0, 120, 20), Point(500, 5), Polygon([(99, 1), (120, 1), (99, 9)])],
)
def test_a_region_off_the_photo_is_refused(region: Region) -> None:
    with pytest.raises(RegionError):
        region.bounds(ON_PHOTO)


def test_under_a_central_square_the_crop_reaches_beyond_it() -> None:
    geometry = fit_image(PHOTO, mode="crop", size=64, patch_size=16)
    assert Box(0, 0, 30, 30).bounds(geometry) == (0, 0, 30, 30)
    assert WholeImage().bounds(geometry) == pytest.approx(geometry.visible)
    with pytest.raises(RegionError):
        Box(0, 0, 10, 30).bounds(geometry)  # cut away


def test_bounds_read_as_they_were_given_and_are_empty_where_only_an_image_can_tell() -> None:
    assert Box(-5, -5, 200, 30).bounds == (-5, -5, 200, 30)
    assert mask(7, 3, 50, 41).bounds == (7, 3, 50, 41)
    assert RegionSet([Point(1, 2), Trace([(5, 5), (40, 5)])]).bounds == (1, 2, 40, 5)
    for region in (WholeImage(), Patch(0, 0), Trace([(0.1, 0.2)], normalized=True)):
        assert region.bounds == ()
