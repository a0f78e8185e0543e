"""Image captioning: whole photos. `python -m benchmarks.image --baseline nearest --out build/image`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Rows, Sample, Task
from benchmarks.run import run_task
from patchioner.regions import WholeImage

FORM = '{"images": [{id, file_name}], "annotations": [{image_id, caption}]}'


def read(path: Path, photos: PhotoFolder, *, references: Path | None = None) -> Reading:
    """Read whole photos with all their captions, in COCO's form.

    `path` may list images alone (coco-test.json): then `references` is the file with the annotations. A malformed
    annotation is left out; an image is when it is missing or has no caption left. Their indices count separately.
    """
    rows = Rows(path, FORM, "images")
    captioned = rows if references is None else Rows(references, FORM, "annotations")
    annotations = captioned.content.get("annotations")
    if not isinstance(annotations, list):
        told = f"{path} has no annotations"
        raise BenchmarkDataError(f"{told}: give the file that has them with --references")
    wanted = {found for found in map(_id_of, rows.content["images"]) if found is not None}
    texts: dict[str, list[str]] = {}
    for index, annotation in enumerate(annotations):
        with rows.part_of(index, f"{captioned.source.name}: annotations[{index}]"):
            entry = data.mapping_of(annotation, "the annotation")
            image_id = _id_of(entry, "image_id")
            if image_id is not None and image_id in wanted:
                texts.setdefault(image_id, []).append(data.text_of(entry.get("caption")))
            elif captioned is rows:
                given = entry.get("image_id")
                raise BenchmarkDataError(f"image_id {given!r:.40} is not among the images")
    asked: set[str] = set()
    for index, entry in enumerate(rows.content["images"]):
        with rows.row(f"images[{index}]") as row:
            image_id = _id_of(data.mapping_of(entry, "the image"))
            if image_id is None:
                raise BenchmarkDataError(f"its id is {entry.get('id')!r:.40}, not a number or text")
            if image_id in asked:
                raise BenchmarkDataError(f"image {image_id!r:.40} is listed already")
            if image_id not in texts:
                raise BenchmarkDataError(f"image {image_id!r:.40} has no caption")
            photo = photos.find(entry.get("file_name"), image_id)
            photos.size(photo)
            asked.add(image_id)
            found = tuple(texts[image_id])
            rows.samples.append(Sample(image_id, photo, WholeImage(), found, row, 1.0))
    return rows.reading(*([captioned] if captioned is not rows else []))


def _id_of(entry: Any, key: str = "id") -> str | None:
    """Ids as text: 7 and "7" are one image, as they are one file."""
    found = entry.get(key) if isinstance(entry, dict) else None
    return str(found) if isinstance(found, (str, int)) else None


TASK = Task("image", "image captioning", "image_captions_dev.json", read)
main = partial(run_task, "image")

if __name__ == "__main__":
    sys.exit(main())
