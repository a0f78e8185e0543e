"""Objects covered by regions: counting against slow twins, sizes, controls, the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.detail.regions import (
    DEFAULT,
    GRID,
    QUADRANTS,
    SIZES,
    THINGS,
    Coverage,
    Covered,
    coco_size,
    covered_boxes,
    main,
    union_share,
)
from benchmarks.readers import DevSets
from patchioner import Patchioner
from patchioner.detail import DetailRegion, Photo
from patchioner.detail.divide import grid, iou, quadrants, whole_photo

SIZE = (96, 64)


class Divider:
    """Divides every photo in the same way, the whole of it first."""

    def __init__(self, *boxes: Sequence[float], kind: Any = "semantic") -> None:
        self._boxes, self._kind = boxes, kind

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def divide(self, photo: Photo) -> list[DetailRegion]:
        parts = [
            DetailRegion(f"{self._kind}-{number}", self._kind, (box[0], box[1], box[2], box[3]))
            for number, box in enumerate(self._boxes, 1)
        ]
        return [whole_photo(photo.size), *parts]


@pytest.mark.parametrize("seed", range(8))
def test_the_union_is_that_of_painted_pixels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.integers(-5, 45, size=(seed, 2, 2)), axis=1)
    boxes = corners.reshape(seed, 4).astype(np.float64)
    painted = np.zeros((30, 40), dtype=bool)
    for x1, y1, x2, y2 in boxes.astype(int):
        painted[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    assert union_share(boxes, (40, 30)) == pytest.approx(painted.mean())


def test_the_controls_cover_the_photo() -> None:
    for boxes in (grid((101, 67), 3, 3), quadrants((101, 67))):
        assert union_share(np.array(boxes), (101, 67)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("side", "image", "name"),
    [
        (31.9, (640, 480), "small"),
        (32.0, (640, 480), "medium"),
        (95.9, (480, 640), "medium"),
        (96.0, (480, 640), "large"),
        (31.9, (320, 240), "medium"),
        (48.0, (320, 240), "large"),
    ],
)
def test_sizes_are_those_of_the_photo_as_it_was_published(
    side: float, image: tuple[int, int], name: str
) -> None:
    assert coco_size((1.0, 2.0, 1.0 + side, 2.0 + side), image) == name


def test_shares_by_hand() -> None:
    """Photo "a" has two boxes, "b" has one."""
    ways = {
        "x": Coverage(np.array([0.3, 0.5, 0.1]), np.array([2.0, 4.0]), np.array([0.5, 1.0])),
        "y": Coverage(np.array([0.0, 0.29, 0.6]), np.array([1.0, 1.0]), np.array([1.0, 1.0])),
    }
    covered = Covered(("a", "b"), ("a", "a", "b"), ("small", "large", "large"), ways)
    assert covered.share("x", 0.3).value == pytest.approx(2 / 3)
    assert covered.share("x", 0.5).value == pytest.approx(1 / 3)
    assert covered.share("x", 0.3, "large").value == pytest.approx(1 / 2)
    interval = covered.share("x", 0.3)
    assert (interval.low, interval.high) == (0.0, 1.0)  # all photos drawn may be "b", or "a"
    assert math.isnan(covered.share("x", 0.3, "medium").value)
    assert covered.gain("x", "y", 0.3).value == pytest.approx(1 / 3)
    assert covered.gain("x", "y", 0.5).value == pytest.approx(0.0)
    assert covered.mean("x", "counts").value == 3.0
    assert covered.mean("x", "areas").value == 0.75


def test_the_best_region_of_each_box_against_a_plain_twin(
    detail_data: Path, tiny_detail_model: Patchioner
) -> None:
    sets, given = DevSets(detail_data), [(0.0, 0.0, 50.0, 50.0), (2.0, 1.0, 12.0, 9.0)]
    covered = covered_boxes(sets, tiny_detail_model, Divider(*given))
    boxes = sets.class_boxes()
    ways = {DEFAULT: given, THINGS: given, GRID: grid(SIZE, 3, 3), QUADRANTS: quadrants(SIZE)}
    for way, regions in ways.items():
        best = [max(iou(box.box, region) for region in regions) for box in boxes]
        assert covered.ways[way].best == pytest.approx(np.array(best))
        assert covered.ways[way].counts.tolist() == [len(regions)] * 4
    assert covered.owners == tuple(box.photo for box in boxes)


def test_the_whole_photo_counts_for_nothing(
    detail_data: Path, tiny_detail_model: Patchioner
) -> None:
    covered = covered_boxes(DevSets(detail_data), tiny_detail_model, Divider(), 2)
    assert covered.ways[DEFAULT].best.tolist() == [0.0] * 4
    assert covered.ways[DEFAULT].areas.tolist() == covered.ways[DEFAULT].counts.tolist() == [0, 0]
    assert len(covered.photos) == 2


def test_parts_by_place_are_no_things(detail_data: Path, tiny_detail_model: Patchioner) -> None:
    divider = Divider((4.0, 4.0, 60.0, 60.0), kind="spatial")
    covered = covered_boxes(DevSets(detail_data), tiny_detail_model, divider)
    assert covered.share(DEFAULT, 0.5).value == 0.5  # the larger box of each photo, exactly
    assert covered.share(THINGS, 0.3).value == 0.0


def test_the_command(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    arguments = ["--data", str(detail_data), "--out", str(tmp_path)]
    assert main(arguments, load_model=lambda name: tiny_detail_model) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "regions.md").read_text(encoding="utf-8") == text
    assert "8 COCO boxes of 4 dev photos" in text
    values = json.loads((tmp_path / "regions.json").read_text(encoding="utf-8"))
    assert list(values["ways"]) == [DEFAULT, THINGS, GRID, QUADRANTS]
    assert set(values["ways"][GRID]["covered"]) == {"all", *SIZES}
    assert values["ways"][QUADRANTS]["per photo"]["value"] == 4.0
    assert main([*arguments, "--json"], load_model=lambda name: tiny_detail_model) == 0
    assert json.loads(capsys.readouterr().out) == values


def test_no_data_is_an_error_with_a_remedy(
    tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    arguments = ["--data", str(tmp_path / "nothing"), "--out", str(tmp_path)]
    assert main(arguments, load_model=lambda name: tiny_detail_model) == 1
    assert "give the folder" in capsys.readouterr().err
