"""Class boxes: does the caption of a box name what is in it? `python -m benchmarks.objects --baseline whole`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Rows, Sample, Task
from benchmarks.metrics.regions import SYNONYMS
from benchmarks.run import run_task
from patchioner.regions.items import BoxFormat, box_of

FORM = '[{"file_name", "image_id", "boxes": [{"xyxy": [x1, y1, x2, y2], "name"}, ...]}, ...], or COCO\'s instances'
MIN_AREA_SHARE = 0.02


def read(path: Path, photos: PhotoFolder, *, min_area_share: float = MIN_AREA_SHARE) -> Reading:
    """Read boxes with the names of their COCO classes; the name is the one reference of its sample.

    Corners are pixels. Of COCO's instances single ones count, not crowds. A box that covers no more than
    `min_area_share` of its photo is not asked about. A row is malformed when its photo is missing, the class is none of
    COCO's 80, or the box inverted, not finite or outside.
    """
    rows = Rows(path, FORM, kind=(list, dict))
    if isinstance(rows.content, dict):
        rows.content = _by_photo(path, rows.content)
    entries = ((f"[{number}]", entry) for number, entry in enumerate(rows.content))
    for where, entry in rows.each(entries, _checked):
        for index, box in enumerate(entry["boxes"]):
            with rows.row(f"{where}/boxes[{index}]") as row:
                sample = _sample(data.mapping_of(box, "the box"), entry, photos, row)
                if sample.area_share > min_area_share:
                    rows.samples.append(sample)
    return rows.reading()


def _by_photo(path: Path, instances: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        names = {one["id"]: one["name"] for one in instances["categories"]}
        photos = {
            one["id"]: {"file_name": one["file_name"], "image_id": one["id"], "boxes": []}
            for one in instances["images"]
        }
        for one in instances["annotations"]:
            if not one.get("iscrowd"):
                box = {"xywh": one["bbox"], "name": names[one["category_id"]]}
                photos[one["image_id"]]["boxes"].append(box)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchmarkDataError(f"{path} has no instances of COCO: {error!r}") from error
    return list(photos.values())


def _checked(value: Any) -> Any:
    data.list_of(data.mapping_of(value, "the entry").get("boxes"), "the list of boxes")
    return value


def _sample(box: Any, entry: Any, photos: PhotoFolder, row: int) -> Sample:
    name = box.get("name")
    if not isinstance(name, str) or name not in SYNONYMS:
        raise BenchmarkDataError(f"the class {name!r:.40} is none of COCO's 80")
    form: BoxFormat = "xywh" if "xywh" in box else "xyxy"
    region = box_of(box.get(form), form)
    photo = photos.find(entry.get("file_name"), entry.get("image_id"))
    share = data.share_of_boxes([region], photos, photo)
    return Sample(f"{Path(photo).stem}/{row}", photo, region, (name,), row, share)


TITLE = "class boxes over 2 % of their photo: is the object named?"
TASK = Task("objects", TITLE, "class_boxes_dev.json", read, clip_crops=True)
main = partial(run_task, "objects")

if __name__ == "__main__":
    sys.exit(main())
