"""Reads class boxes. Knows the JSON form of the development set; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.metrics.class_names import SYNONYMS
from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.rows import (
    Rows,
    box_of,
    list_of,
    load_json,
    mapping_of,
    share_of_boxes,
    wrong_form,
)
from benchmarks.tasks.samples import Reading, Sample

FORM = '[{"file_name", "image_id", "boxes": [{"xyxy": [x1, y1, x2, y2], "name"}, ...]}, ...]'
MIN_AREA_SHARE = 0.02


def read_objects(
    path: Path, photos: PhotoFolder, *, min_area_share: float = MIN_AREA_SHARE
) -> Reading:
    """Read boxes with the names of their COCO classes; the name is the one reference of its sample.

    Corners are pixels of the photo. A box that covers no more than `min_area_share` of its photo is not asked about,
    and is no malformed row either. A row is malformed when its photo is missing, the class is none of COCO's 80, or the
    box is inverted, not finite or wholly outside.

    Example:
        >>> read_objects(Path("class_boxes_dev.json"), photos).samples[0].references  # doctest: +SKIP
        ('dog',)
    """
    rows, content = Rows(path), load_json(path)
    if not isinstance(content.value, list):
        raise wrong_form(path, FORM)
    for number, value in enumerate(content.value):
        try:
            entry = mapping_of(value, "the entry")
            boxes = list_of(entry.get("boxes"), "the list of boxes")
        except BenchmarkDataError as error:
            with rows.row(f"[{number}]"):
                raise error
            continue
        for index, box in enumerate(boxes):
            with rows.row(f"[{number}]/boxes[{index}]") as row:
                sample = _sample(mapping_of(box, "the box"), entry, photos, row)
                if sample.area_share > min_area_share:
                    rows.samples.append(sample)
    rows.note_repeated(content)
    return rows.reading()


def _sample(box: Any, entry: Any, photos: PhotoFolder, row: int) -> Sample:
    name = box.get("name")
    if not isinstance(name, str) or name not in SYNONYMS:
        raise BenchmarkDataError(f"the class {name!r:.40} is none of COCO's 80")
    region = box_of(box.get("xyxy"))
    photo = photos.find(entry.get("file_name"), entry.get("image_id"))
    share = share_of_boxes([region], photos, photo)
    return Sample(f"{Path(photo).stem}/{row}", photo, region, (name,), row, 1, share)
