"""Reads region-set captioning. Knows that one JSON form; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.rows import (
    Rows,
    box_of,
    list_of,
    load_mapping,
    mapping_of,
    share_of_boxes,
    text_of,
)
from benchmarks.tasks.samples import Reading, Sample
from patchioner.regions import RegionSet

FORM = '{image id: {"caption[\\ncaption...]": [[x1, y1, x2, y2], ...]}}'


def read_region_sets(path: Path, photos: PhotoFolder) -> Reading:
    """Read {image id: {"caption[\\ncaption...]": [[x1, y1, x2, y2], ...]}} (coco_entities, flickr30k_entities).

    Corners are pixels of the photo. A key with newlines holds several references of one set. A row is malformed when
    its caption is blank, its set is empty (22 rows of the Flickr30k file are, and the published code answers them with
    noise) or one of its boxes is inverted, not finite or wholly outside.

    Example:
        >>> read_region_sets(Path("coco_entities_test.json"), photos).samples[0].box_count  # doctest: +SKIP
        6
    """
    rows, content = Rows(path), load_mapping(path, FORM)
    for key, sets in content.value.items():
        try:
            named = mapping_of(sets, f"entry {key!r}")
        except BenchmarkDataError as error:
            with rows.row(key):
                raise error
            continue
        for index, (captions, boxes) in enumerate(named.items()):
            _read_row(rows, photos, key, f"{key}/{index}", captions, boxes)
    rows.note_repeated(content)
    return rows.reading()


def _read_row(
    rows: Rows, photos: PhotoFolder, key: str, name: str, captions: str, boxes: Any
) -> None:
    with rows.row(name) as row:
        text_of(captions)
        references = tuple(text for text in captions.split("\n") if text.strip())
        members = [box_of(box) for box in list_of(boxes, "the list of boxes")]
        if not members:
            raise BenchmarkDataError("the list of boxes is empty")
        photo = photos.find(key)
        share = share_of_boxes(members, photos, photo)
        region = RegionSet(members)
        rows.samples.append(Sample(name, photo, region, references, row, len(members), share))
