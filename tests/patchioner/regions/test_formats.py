"""COCO annotations and SAM's dictionaries as regions."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.base.errors import RegionError
from patchioner.regions import Box, Mask, Polygon, from_coco, from_sam

RLE = {"size": [2, 3], "counts": [0, 6]}


def test_coco_prefers_the_outline_to_the_box() -> None:
    ring = [0, 0, 10, 0, 0, 10]
    box = [1, 2, 3, 4]
    assert from_coco({"segmentation": [ring], "bbox": box}) == Polygon.from_coco([ring])
    assert from_coco({"segmentation": RLE, "bbox": box}, (3, 2)) == Mask(np.ones((2, 3), bool))
    without: list[dict[str, object]] = [{}, {"segmentation": []}, {"segmentation": None}]
    for segmentation in without:
        assert from_coco({**segmentation, "bbox": box}) == Box(1, 2, 4, 6)


def test_sam_keeps_the_order() -> None:
    first, second = np.eye(3, dtype=bool), np.ones((3, 3), dtype=bool)
    regions = from_sam(
        [{"segmentation": first, "area": 3}, {"segmentation": second}, {"bbox": [1, 2, 3, 4]}],
        (3, 3),
    )
    assert regions == [Mask(first), Mask(second), Box(1, 2, 4, 6)]
    assert from_sam([{"segmentation": RLE}]) == [Mask(np.ones((2, 3), bool))]
    assert from_sam([]) == []


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ({"id": 3}, r"keys \['id'\].*'segmentation'"),
        ({"segmentation": {"counts": []}}, "no RLE"),
        ({"segmentation": "abc", "bbox": None}, "give a list|segmentation"),
        ({"bbox": [1, 2, 0, 4]}, "empty"),
        ([1, 2], "dictionary"),
    ],
)
def test_broken_annotations_are_refused(annotation: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        from_coco(annotation)  # type: ignore[arg-type]


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(RegionError, match="3x2 but the image is 4x4"):
        from_coco({"segmentation": RLE}, (4, 4))
    with pytest.raises(RegionError, match="entry 1 .*3x2 but the image is 2x2"):
        from_sam([{"segmentation": np.ones((2, 2), bool)}, {"segmentation": RLE}], (2, 2))


@pytest.mark.parametrize(
    ("masks", "text"),
    [([np.ones((2, 2))], "entry 0"), (5, "give a list"), ([{"area": 1}], "entry 0.*keys")],
)
def test_what_is_not_from_sam_is_refused(masks: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        from_sam(masks)  # type: ignore[arg-type]
