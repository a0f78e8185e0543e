"""Region-set captioning: several boxes, one caption. `python -m benchmarks.region_set --out build/region_set`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.data import BenchmarkDataError, PhotoFolder, Reading, Rows, Sample, Task
from benchmarks.run import run_task
from patchioner.regions import RegionSet
from patchioner.regions.items import box_of

FORM = '{image id: {"caption[\\ncaption...]": [[x1, y1, x2, y2], ...]}}'


def read(path: Path, photos: PhotoFolder) -> Reading:
    """Read sets of boxes with captions (coco_entities, flickr30k_entities); corners are pixels of the photo.

    A key with newlines holds several references of one set. A row is malformed when its caption is blank, its set empty
    (22 of the Flickr30k file, which the published code answers with noise), or a box inverted, not finite or outside.
    """
    rows = Rows(path, FORM)
    forms = lambda sets: data.mapping_of(sets, "the sets of an image")  # noqa: E731
    for key, named in rows.each(rows.content.items(), forms):
        for index, (captions, boxes) in enumerate(named.items()):
            with rows.row(f"{key}/{index}") as row:
                data.text_of(captions)
                references = tuple(text for text in captions.split("\n") if text.strip())
                members = [box_of(box, "xyxy") for box in data.list_of(boxes, "the list of boxes")]
                if not members:
                    raise BenchmarkDataError("the list of boxes is empty")
                photo = photos.find(key)
                share = data.share_of_boxes(members, photos, photo)
                region = RegionSet(members)
                rows.samples.append(Sample(f"{key}/{index}", photo, region, references, row, share))
    return rows.reading()


TASK = Task("region_set", "region-set captioning", "region_sets_dev.json", read)
main = partial(run_task, "region_set")

if __name__ == "__main__":
    sys.exit(main())
