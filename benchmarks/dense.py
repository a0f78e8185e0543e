"""Dense captioning with given boxes. `python -m benchmarks.dense --baseline crop --out build/dense`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Rows, Sample, Task
from benchmarks.run import run_task
from patchioner.regions.items import box_of

FORM = '{"images": [{id, file_name}], "annotations": [{image_id, bbox: [x1, y1, x2, y2], caption}]}'


def read(path: Path, photos: PhotoFolder) -> Reading:
    """Read boxes with captions: VG v1.2, VG-COCO and RefCOCOg as ControlCap wrote them.

    `bbox` is x1, y1, x2, y2 in pixels, unlike COCO's own. Each annotation is a sample with one reference. A row is
    malformed when its image is not listed or found, has another size than the file says, or box or caption fail.
    """
    rows = Rows(path, FORM, "images", "annotations")
    images: dict[Any, Mapping[str, Any]] = {}
    for index, entry in enumerate(rows.content["images"]):
        with rows.part_of(index, f"images[{index}]"):
            _list_image(entry, images)
    for index, annotation in enumerate(rows.content["annotations"]):
        with rows.row(f"annotations[{index}]") as row:
            rows.samples.append(_sample(annotation, images, photos, row))
    return rows.reading()


def _list_image(entry: Any, images: dict[Any, Mapping[str, Any]]) -> None:
    found = data.mapping_of(entry, "the image")
    image_id = found.get("id")
    if not isinstance(image_id, (str, int)):
        raise BenchmarkDataError(f"its id is {image_id!r:.40}, not a number or text")
    first = images.setdefault(image_id, found)
    if first.get("file_name") != found.get("file_name"):
        told = f"image {image_id!r:.40} is listed as {first.get('file_name')!r:.60} already"
        raise BenchmarkDataError(f"{told}: the first one counts")


def _sample(annotation: Any, images: Mapping[Any, Any], photos: PhotoFolder, row: int) -> Sample:
    entry = data.mapping_of(annotation, "the annotation")
    image_id = entry.get("image_id")
    if not isinstance(image_id, (str, int)) or image_id not in images:
        raise BenchmarkDataError(f"image_id {image_id!r:.40} is not among the images of the file")
    text, box = data.text_of(entry.get("caption")), box_of(entry.get("bbox"), "xyxy")
    listed = images[image_id]
    photo = photos.find(listed.get("file_name"), image_id)
    size, stated = photos.size(photo), (listed.get("width"), listed.get("height"))
    if None not in stated and stated != size:
        told = f"{photo} has {size[0]} x {size[1]} pixels, the file says {stated[0]} x {stated[1]}"
        raise BenchmarkDataError(f"{told}: its boxes would lie elsewhere; use its own photos")
    share = data.share_of_boxes([box], photos, photo)
    return Sample(f"{image_id}/{row}", photo, box, (text,), row, share)


TASK = Task("dense", "dense captioning, boxes given", "dense_refcocos_dev.json", read, True)
main = partial(run_task, "dense")

if __name__ == "__main__":
    sys.exit(main())
