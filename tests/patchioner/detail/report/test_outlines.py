"""Outlines of regions, against the masks that they were drawn from."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from patchioner.detail.report.outlines import mask_path, outline
from patchioner.detail.values import DetailRegion


def edges_of(path: str) -> tuple[set[Any], set[Any]]:
    """Unit pieces of a path: (x, y) of the upper or left end of each."""
    across, down = set(), set()
    for x, y, way, end in re.findall(r"M(\S+) (\S+?)([HV])([\d.]+)", path):
        if way == "H":
            across |= {(column, int(y)) for column in range(int(x), int(end))}
        else:
            down |= {(int(x), row) for row in range(int(y), int(end))}
    return across, down


def slow_edges(mask: Any) -> tuple[set[Any], set[Any]]:
    """Pixel by pixel."""
    height, width = mask.shape

    def inside(x: int, y: int) -> bool:
        return 0 <= x < width and 0 <= y < height and bool(mask[y, x])

    across = {
        (x, y) for y in range(height + 1) for x in range(width) if inside(x, y) != inside(x, y - 1)
    }
    down = {
        (x, y) for y in range(height) for x in range(width + 1) if inside(x, y) != inside(x - 1, y)
    }
    return across, down


@pytest.mark.parametrize("seed", range(5))
def test_edges_of_any_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random(generator.integers(1, 12, 2)) > 0.4
    assert edges_of(mask_path(mask, (mask.shape[1], mask.shape[0]))) == slow_edges(mask)


def test_a_hole_is_drawn() -> None:
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    across, _ = edges_of(mask_path(mask, (5, 5)))
    assert {(2, 2), (2, 3)} < across


def test_large_masks_stay_small_and_in_place() -> None:
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[1000:2000, 500:1500] = True
    path = mask_path(mask, (4000, 3000))
    assert len(path) < 200
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    assert {500, 1500, 1000, 2000} == set(numbers)
    thin = np.zeros((3000, 4000), dtype=bool)
    thin[1500, 2000] = True
    assert mask_path(thin, (4000, 3000))


def test_boxes_are_cut_to_the_photo() -> None:
    region = DetailRegion("a", "user", (-50, 10, 900, 20))
    text = outline(region, (400, 300))
    assert text.count("<rect") == 2
    assert 'x="1" y="10" width="398" height="10"' in text
