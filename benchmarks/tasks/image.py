"""Reads image captioning. Knows the COCO captions form; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.rows import Rows, load_mapping, mapping_of, text_of
from benchmarks.tasks.samples import Reading, Sample
from patchioner.regions import WholeImage

FORM = '{"images": [{id, file_name}], "annotations": [{image_id, caption}]}'


def read_images(path: Path, photos: PhotoFolder, *, references: Path | None = None) -> Reading:
    """Read whole photos with all their captions.

    Args:
        path: COCO captions form, or images alone (coco-test.json has no annotations).
        photos: where the photos lie.
        references: the file with the annotations, where `path` has none; images that only this file has are not asked
            about. Without it, the annotations of `path` count.

    An annotation that is malformed is reported by its index and left out; an image is left out when it is missing or
    has no caption left. Indices of images and of annotations count separately.

    Example:
        >>> len(read_images(Path("image_captions_dev.json"), photos).samples)  # doctest: +SKIP
        121
    """
    listed = load_mapping(path, FORM, "images")
    content = listed.value
    source, annotations = path, content.get("annotations")
    repeated = [listed]
    if references is not None:
        source = references
        captioned = load_mapping(references, FORM, "annotations")
        annotations = captioned.value["annotations"]
        repeated.append(captioned)
    if not isinstance(annotations, list):
        raise BenchmarkDataError(
            f"{path} has no annotations: give the file that has them with --references"
        )
    rows = Rows(path)
    wanted = {image_id for image_id in map(_id_of, content["images"]) if image_id is not None}
    texts = _texts(rows, annotations, source, wanted)
    asked: set[str] = set()
    for index, entry in enumerate(content["images"]):
        with rows.row(f"images[{index}]") as row:
            image_id = _id_of(mapping_of(entry, "the image"))
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
            rows.samples.append(Sample(image_id, photo, WholeImage(), found, row, 0, 1.0))
    for one in repeated:
        rows.note_repeated(one)
    return rows.reading()


def _id_of(entry: Any, key: str = "id") -> str | None:
    """Ids as text: 7 and "7" are one image, as they are one file."""
    found = entry.get(key) if isinstance(entry, dict) else None
    return str(found) if isinstance(found, (str, int)) else None


def _texts(
    rows: Rows, annotations: list[Any], source: Path, wanted: set[str]
) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for index, annotation in enumerate(annotations):
        with rows.part_of(index, f"{source.name}: annotations[{index}]"):
            entry = mapping_of(annotation, "the annotation")
            image_id = _id_of(entry, "image_id")
            if image_id is not None and image_id in wanted:
                texts.setdefault(image_id, []).append(text_of(entry.get("caption")))
            elif source == rows.source:
                raise BenchmarkDataError(
                    f"image_id {entry.get('image_id')!r:.40} is not among the images"
                )
    return texts
