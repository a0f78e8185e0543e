from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from patchioner import Patchioner
from patchioner.backbones import PatchFeatures
from patchioner.detail.divide import Detection, DiscoverySettings
from patchioner.detail.divide_objects import (
    cells_to_pixels,
    discover_objects,
    merge_tree,
    salient_segments,
    without_parts,
)
from patchioner.detail.text import noun_phrases
from patchioner.geometry import Fit, ImageGeometry, fit_image
from tests.support.tiny import noise_photo, tiny_parts


def plain_order(vectors: npt.NDArray[np.float64]) -> list[frozenset[int]]:
    """The unions in order, each as its set of cells: every pair of touching groups is costed anew."""
    rows, columns, _ = vectors.shape
    flat = vectors.reshape(rows * columns, -1)
    groups = [frozenset([cell]) for cell in range(rows * columns)]
    made: list[frozenset[int]] = []
    while len(groups) > 1:
        _, one, two = min(
            (ward(flat, one, two), place, other)
            for place, one in enumerate(groups)
            for other, two in enumerate(groups)
            if place < other and touch(one, two, columns)
        )
        union = groups[one] | groups[two]
        groups = [group for group in groups if not group <= union] + [union]
        made.append(union)
    return made


def ward(flat: npt.NDArray[np.float64], one: frozenset[int], two: frozenset[int]) -> float:
    def spread(cells: frozenset[int]) -> float:
        values = flat[sorted(cells)]
        return float(((values - values.mean(axis=0)) ** 2).sum())

    return spread(one | two) - spread(one) - spread(two)


def touch(one: frozenset[int], two: frozenset[int], columns: int) -> bool:
    return any(
        abs(a // columns - b // columns) + abs(a % columns - b % columns) == 1
        for a in one
        for b in two
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_that_of_the_plain_twin(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(4, 5, 3))
    tree = merge_tree(vectors)
    unions = [
        frozenset(np.flatnonzero(tree.cells(node).ravel()).tolist()) for node in range(20, 39)
    ]
    assert unions == plain_order(vectors)


def planted(seed: int = 0) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.bool_]]]:
    """Tokens of a background and of two things in it, with noise."""
    rng = np.random.default_rng(seed)
    first, second = np.zeros((12, 16), dtype=bool), np.zeros((12, 16), dtype=bool)
    first[2:6, 2:7], second[6:11, 9:13] = True, True
    directions = rng.normal(size=(3, 8))
    tokens = np.where(first[..., None], directions[1], directions[0])
    tokens = np.where(second[..., None], directions[2], tokens)
    return tokens + rng.normal(scale=0.05, size=(12, 16, 8)), [first, second]


def cell_iou(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> float:
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.parametrize("seed", range(4))
def test_planted_things_come_first(seed: int) -> None:
    tokens, things = planted(seed)
    attention = np.full((12, 16), 1.0) + 2.0 * (things[0] | things[1])
    found = salient_segments(tokens, attention)
    for thing in things:
        assert max(cell_iou(segment.cells, thing) for segment in found[:2]) == 1.0


def test_limits_are_kept() -> None:
    tokens, _ = planted()
    settings = DiscoverySettings(limit=3, least_area=0.05, most_area=0.2, overlap=0.1)
    found = salient_segments(tokens, settings=settings)
    assert 1 <= len(found) <= 3
    assert all(0.05 <= segment.cells.mean() <= 0.2 for segment in found)
    scores = [segment.score for segment in found]
    assert scores == sorted(scores, reverse=True)
    for place, one in enumerate(found):
        assert all(cell_iou(one.cells, two.cells) <= 0.1 for two in found[:place])


def test_a_photo_without_contrast_has_no_objects() -> None:
    assert salient_segments(np.ones((6, 8, 4))) == []


def features_of(
    tokens: npt.NDArray[np.float64], size: tuple[int, int] = (160, 120)
) -> PatchFeatures:
    rows, columns = tokens.shape[:2]
    scale = (columns * 10 / size[0], rows * 10 / size[1])
    geometry = ImageGeometry(size, (rows, columns), 10, scale, (0.0, 0.0))
    return PatchFeatures(torch.tensor(tokens, dtype=torch.float32), None, None, geometry)


def test_boxes_and_masks_lie_where_the_things_are() -> None:
    tokens, _ = planted()
    found = discover_objects(features_of(tokens))
    boxes = {thing.box for thing in found}
    assert {(20.0, 20.0, 70.0, 60.0), (90.0, 60.0, 130.0, 110.0)} <= boxes
    assert found[0].score == 1.0
    for thing in found:
        assert thing.name is None
        assert thing.mask is not None
        assert thing.mask.shape == (120, 160)


def test_names_come_from_the_captions() -> None:
    model = Patchioner(tiny_parts(), device="cpu")
    features = model.encode(noise_photo())
    settings = DiscoverySettings(limit=3, part=1.0)
    found = discover_objects(features, model, settings)
    captions = model.caption(features, [thing.region for thing in found])
    assert found
    assert [thing.name for thing in found] == [
        next((phrase.name for phrase in noun_phrases(caption.text)), None) for caption in captions
    ]
    quiet = discover_objects(features, model, replace(settings, names="none"))
    assert [thing.name for thing in quiet] == [None] * len(found)


def test_parts_that_go_by_the_name_of_their_whole_are_dropped() -> None:
    def thing(name: str | None, x1: int, x2: int) -> Detection:
        mask = np.zeros((10, 40), dtype=bool)
        mask[:, x1:x2] = True
        return Detection((x1, 0, x2, 10), name, mask=mask)

    whole, leg, other = thing("zebra", 0, 20), thing("zebra", 5, 10), thing("zebra", 15, 40)
    tree, bare = thing("tree", 5, 10), thing(None, 5, 10)
    assert without_parts([whole, leg, other, tree, bare, bare], 0.6) == [
        whole,
        other,
        tree,
        bare,
        bare,
    ]
    assert without_parts([leg, whole], 0.6) == [leg, whole]
    assert without_parts([whole, leg], 1.0) == [whole, leg]


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
def test_pixels_of_cells_agree_with_a_plain_loop(mode: Fit) -> None:
    geometry = fit_image((37, 23), mode=mode, size=60, patch_size=10)
    rng = np.random.default_rng(1)
    cells = rng.random(geometry.grid) > 0.5
    pixels = cells_to_pixels(cells, geometry)
    expected = np.zeros((23, 37), dtype=bool)
    for y in range(23):
        for x in range(37):
            column, row = geometry.to_grid([[x + 0.5, y + 0.5]])[0]
            if 0 <= column <= geometry.grid[1] and 0 <= row <= geometry.grid[0]:
                expected[y, x] = bilinear(cells, column - 0.5, row - 0.5) >= 0.5 - 1e-6
    assert np.array_equal(pixels, expected)


def bilinear(cells: npt.NDArray[np.bool_], x: float, y: float) -> float:
    x, y = min(max(x, 0.0), cells.shape[1] - 1.0), min(max(y, 0.0), cells.shape[0] - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, cells.shape[1] - 1), min(top + 1, cells.shape[0] - 1)
    across, down = x - left, y - top
    upper = cells[top, left] * (1 - across) + cells[top, right] * across
    lower = cells[bottom, left] * (1 - across) + cells[bottom, right] * across
    return float(upper * (1 - down) + lower * down)
