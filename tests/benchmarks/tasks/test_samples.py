"""Regions as JSON, and the area under boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks import region_json
from benchmarks.tasks.samples import covered_share
from patchioner.regions import Box, Point, Region, RegionSet, Trace, WholeImage, read_regions

REGIONS: list[Region] = [
    Box(1, 2.5, 30, 18),
    RegionSet([Box(1, 2, 3, 4), Box(5, 6, 7, 8)]),
    Trace([(0.25, 0.5), (0.75, 0.125)], normalized=True),
    Trace([(3, 4)]),
    WholeImage(),
]


@pytest.mark.parametrize("region", REGIONS, ids=lambda region: type(region).__name__)
def test_the_package_reads_the_json_back(region: Region, tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"regions": [region_json(region)]}))
    (found,) = read_regions(path, (40, 20), "a.jpg")
    assert found.region == region


def test_a_region_that_no_task_has() -> None:
    with pytest.raises(BenchmarkDataError, match="cannot be written"):
        region_json(Point(1, 2))


corner = st.integers(-3, 12)


@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=6))
def test_the_area_is_that_of_counted_pixels(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = [Box(x, y, x + abs(w) + 1, y + abs(h) + 1) for x, y, w, h in corners]
    pixels = np.zeros((8, 10), dtype=bool)
    for box in boxes:
        left, top, right, bottom = (max(0, int(v)) for v in (box.x1, box.y1, box.x2, box.y2))
        pixels[top:bottom, left:right] = True
    assert covered_share(boxes, (10, 8)) == pytest.approx(pixels.mean())
