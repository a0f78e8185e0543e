"""COCO annotation files, made up and real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchioner.aggregate import region_weights
from patchioner.base.errors import RegionFileError
from patchioner.geometry import fit_image
from patchioner.region_files import NamedRegion, read_regions
from patchioner.regions import Box, Mask, Polygon

REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "annotations" / "instances_dev.json"
FULL = {"size": [4, 6], "counts": [0, 24]}


def written(folder: Path, **changes: object) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 6, "height": 4},
            {"id": 8, "file_name": "b.jpg", "width": 6, "height": 4},
            {"id": 9, "file_name": "c.jpg"},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "segmentation": [[0, 0, 3, 0, 0, 3]]},
            {"id": 2, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]},
            {"id": 3, "image_id": 7, "category_id": 1, "segmentation": FULL, "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 5, "segmentation": [], "bbox": [1, 2, 3, 2]},
        ],
        **changes,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_annotations_of_the_photo_are_read_in_order(tmp_path: Path) -> None:
    assert read_regions(written(tmp_path), (6, 4), "photos/a.jpg") == [
        NamedRegion(Polygon([(0, 0), (3, 0), (0, 3)]), "dog"),
        NamedRegion(Mask(np.ones((4, 6))), "cat"),
        NamedRegion(Box(1, 2, 4, 4), None),
    ]


def test_categories_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = json.loads(path.read_text())
    del content["categories"]
    path.write_text(json.dumps(content))
    assert [named.label for named in read_regions(path, (6, 4), "b.jpg")] == [None]


def test_compressed_runs(tmp_path: Path) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask", reason="the COCO tools write the file")
    rle = coco_mask.encode(np.asfortranarray(np.eye(4, 6, dtype=np.uint8)))
    rle["counts"] = rle["counts"].decode("ascii")
    path = written(tmp_path, annotations=[{"image_id": 7, "segmentation": rle}])
    assert read_regions(path, (6, 4), "a.jpg") == [NamedRegion(Mask(np.eye(4, 6)))]


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        (None, (6, 4), "3 images; say which one"),
        ("d.jpg", (6, 4), r"called 'd.jpg'; close: .*a.jpg"),
        ("a.jpg", (12, 8), "6x4, but the image is 12x8"),
        ("c.jpg", (6, 4), "no region for 'c.jpg'"),
    ],
)
def test_the_wrong_photo_is_refused(
    name: str | None, size: tuple[int, int], text: str, tmp_path: Path
) -> None:
    with pytest.raises(RegionFileError, match=text):
        read_regions(written(tmp_path), size, name)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"annotations": [{"id": 5, "image_id": 7}]}, r"annotation 0 \(id 5\): .*'segmentation'"),
        ({"annotations": [{"image_id": 7, "bbox": [0, 0, 0, 4]}]}, "annotation 0.*empty"),
        ({"annotations": [[1]]}, "entry 0 of 'annotations'"),
        ({"annotations": 5}, "give a list"),
        ({"images": [None]}, "entry 0 of 'images'"),
        ({"images": None}, "give a list"),
    ],
)
def test_broken_files_are_refused(changes: dict[str, object], text: str, tmp_path: Path) -> None:
    with pytest.raises(RegionFileError, match=text):
        read_regions(written(tmp_path, **changes), (6, 4), "a.jpg")


@pytest.mark.skipif(not REAL.exists(), reason="the COCO annotations are not beside the checkout")
def test_real_annotations_cover_what_their_boxes_say() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask", reason="the COCO tools are the judge")
    content = json.loads(REAL.read_text())
    for image in content["images"][:4]:
        width, height = size = (image["width"], image["height"])
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = read_regions(REAL, size, image["file_name"])
        assert len(found) == len(annotations)
        geometry = fit_image(size, mode="aspect", size=224, patch_size=14)
        weights = region_weights([named.region for named in found], geometry)
        for annotation, mine in zip(annotations, weights, strict=True):
            runs = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
            runs["counts"] = runs["counts"].decode("ascii")
            theirs = Mask.from_rle(runs).patch_weights(geometry)
            # Theirs is rounded to whole pixels: a rim of a pixel, most of a small thing.
            rim = 2 * (annotation["bbox"][2] + annotation["bbox"][3]) / annotation["area"]
            assert abs(mine - theirs).sum() < 0.02 + rim
