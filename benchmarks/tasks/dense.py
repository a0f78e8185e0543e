"""Reads dense captioning with given boxes. Knows ControlCap's form of COCO's JSON; nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.rows import Rows, box_of, load_mapping, mapping_of, share_of_boxes, text_of
from benchmarks.tasks.samples import Reading, Sample

FORM = '{"images": [{id, file_name}], "annotations": [{image_id, bbox: [x1, y1, x2, y2], caption}]}'


def read_dense(path: Path, photos: PhotoFolder, *, merge_references: bool = False) -> Reading:
    """Read boxes with captions: VG v1.2, VG-COCO and RefCOCOg as ControlCap wrote them.

    `bbox` is x1, y1, x2, y2 in pixels of the photo, unlike COCO's own. Each annotation is a sample with one reference,
    as in the published protocol. A row is malformed when its image is not listed or not found, the photo has another
    size than the file says (its boxes would lie elsewhere), or box or caption cannot be used.

    Args:
        path: the file.
        photos: where the photos lie.
        merge_references: make the captions of one and the same box the references of one sample.

    Example:
        >>> read_dense(Path("dense_refcocos_dev.json"), photos).samples[0].references  # doctest: +SKIP
    """
    content = load_mapping(path, FORM, "images", "annotations")
    rows = Rows(path)
    images: dict[Any, Mapping[str, Any]] = {}
    for index, entry in enumerate(content.value["images"]):
        with rows.part_of(index, f"images[{index}]"):
            _list_image(entry, images)
    for index, annotation in enumerate(content.value["annotations"]):
        with rows.row(f"annotations[{index}]") as row:
            rows.samples.append(_sample(annotation, images, photos, row))
    rows.note_repeated(content)
    found = rows.reading()
    return replace(found, samples=_merged(found.samples)) if merge_references else found


def _list_image(entry: Any, images: dict[Any, Mapping[str, Any]]) -> None:
    found = mapping_of(entry, "the image")
    image_id = found.get("id")
    if not isinstance(image_id, (str, int)):
        raise BenchmarkDataError(f"its id is {image_id!r:.40}, not a number or text")
    first = images.setdefault(image_id, found)
    if first.get("file_name") != found.get("file_name"):
        raise BenchmarkDataError(
            f"image {image_id!r:.40} is listed as {first.get('file_name')!r:.60} already: the first one counts"
        )


def _sample(
    annotation: Any, images: Mapping[Any, Mapping[str, Any]], photos: PhotoFolder, row: int
) -> Sample:
    entry = mapping_of(annotation, "the annotation")
    image_id = entry.get("image_id")
    if not isinstance(image_id, (str, int)) or image_id not in images:
        raise BenchmarkDataError(f"image_id {image_id!r:.40} is not among the images of the file")
    text, box = text_of(entry.get("caption")), box_of(entry.get("bbox"))
    photo = photos.find(images[image_id].get("file_name"), image_id)
    check_size(images[image_id], photos.size(photo), photo)
    share = share_of_boxes([box], photos, photo)
    return Sample(f"{image_id}/{row}", photo, box, (text,), row, 1, share)


def check_size(entry: Mapping[str, Any], size: tuple[int, int], photo: str) -> None:
    """Refuse a photo of another size than the data file states (where it states one).

    Raises:
        BenchmarkDataError: the sizes differ.
    """
    stated = entry.get("width"), entry.get("height")
    if None not in stated and stated != size:
        raise BenchmarkDataError(
            f"{photo} has {size[0]} x {size[1]} pixels, the file says {stated[0]} x {stated[1]}: its boxes would lie "
            "elsewhere; use the photos that the file was made for"
        )


def _merged(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    groups: dict[Any, list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.photo, sample.region), []).append(sample)
    return tuple(
        replace(group[0], references=tuple(text for one in group for text in one.references))
        for group in groups.values()
    )
