"""Class boxes: which are asked about, and what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tasks import PhotoFolder, Reading
from benchmarks.tasks.objects import read_objects
from patchioner.regions import Box

SHARED = Path(__file__).parents[4] / "shared/data"


def read(content: Any, data: Path, **options: Any) -> Reading:
    path = data / "boxes.json"
    path.write_text(json.dumps(content))
    return read_objects(path, PhotoFolder(data / "photos"), **options)


def entry(*boxes: Any, photo: str = "000000000001.jpg") -> dict[str, Any]:
    return {"file_name": photo, "image_id": 1, "boxes": list(boxes)}


def box(name: Any, *xyxy: float) -> dict[str, Any]:
    return {"xyxy": list(xyxy), "name": name}


def test_the_class_is_the_reference(data: Path) -> None:
    (sample,) = read([entry(box("dog", 0, 0, 20, 10))], data).samples
    assert sample.region == Box(0, 0, 20, 10)
    assert (sample.id, sample.references, sample.row) == ("000000000001/0", ("dog",), 0)
    assert (sample.box_count, sample.area_share) == (1, 0.25)


def test_small_boxes_are_not_asked_about_and_not_malformed(data: Path) -> None:
    """The photos have 800 pixels: 16 of them are 2 %, and that is not more than 2 %."""
    content = [entry(box("dog", 0, 0, 4, 4), box("cat", 0, 0, 4.1, 4))]
    found = read(content, data)
    assert [(sample.references, sample.row) for sample in found.samples] == [(("cat",), 1)]
    assert found.skipped == ()
    assert len(read(content, data, min_area_share=0.0).samples) == 2


def test_malformed_boxes_are_reported_by_index(data: Path) -> None:
    content = [
        entry(box("dogg", 0, 0, 9, 9), box("dog", 9, 9, 1, 1), box("dog", 0, 0, 9, 9), None),
        entry(box("dog", 0, 0, 9, 9), photo="gone.jpg") | {"image_id": 99},
        7,
        {"file_name": "000000000002.jpg"},
        entry(box("dog", 100, 100, 120, 120)),
    ]
    found = read(content, data)
    assert [sample.row for sample in found.samples] == [2]
    assert [(row.row, row.where) for row in found.skipped] == [
        (0, "[0]/boxes[0]"), (1, "[0]/boxes[1]"), (3, "[0]/boxes[3]"), (4, "[1]/boxes[0]"), (5, "[2]"),
        (6, "[3]"), (7, "[4]/boxes[0]"),
    ]  # fmt: skip
    assert "'dogg' is none of COCO's 80" in found.skipped[0].reason
    assert "gone.jpg" in found.skipped[3].reason


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_the_development_set() -> None:
    """One of its boxes has no height; all of its classes are known."""
    path = SHARED / "annotations/class_boxes_dev.json"
    found = read_objects(path, PhotoFolder(SHARED / "photos"))
    assert (len(found.samples), len(found.skipped)) == (459, 1)
    assert "empty or inverted" in found.skipped[0].reason
