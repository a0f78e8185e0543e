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
    region_kinds,
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


def test_the_kinds_are_those_of_the_settings() -> None:
    built_in = {type(region).kind for region in REGIONS}
    assert built_in <= region_kinds().keys()
    assert built_in == {
        "box", "mask", "patch", "point", "polygon", "region_set", "trace", "whole_image",
    }  # fmt: skip


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
