"""Formats of annotation tools, and what numbers mean where they cannot say it: one table of files and regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import OptionError, RegionFileError
from patchioner.regions import Mask, RegionFile, read_regions

SIZE = (200, 100)
BOX = (20.0, 10.0, 120.0, 60.0)
PATCH = np.zeros((100, 200), dtype=bool)
PATCH[10:60, 20:120] = True


CVAT = '<annotations><image name="d/a.jpg" width="200" height="100">{}</image></annotations>'
FILES: dict[str, tuple[str, str]] = {
    "cvat box": ("a.xml", CVAT.format('<box label="cup" xtl="20" ytl="10" xbr="120" ybr="60"/>')),
    "cvat polygon": (
        "a.xml",
        CVAT.format('<polygon label="cup" points="20,10;120,10;120,60;20,60"/>'),
    ),
    "cvat mask": (
        "a.xml",
        CVAT.format('<mask label="cup" rle="0, 5000" left="20" top="10" width="100" height="50"/>'),
    ),
    "voc": (
        "a.xml",
        "<annotation><filename>a.jpg</filename><object><name>cup</name><bndbox><xmin>21</xmin>"
        "<ymin>11</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object></annotation>",
    ),
    "yolo": ("a.txt", "0 0.35 0.35 0.5 0.5\n"),
    "yolo polygon": ("a.txt", "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"),
}


@pytest.mark.parametrize("whole", [True, False], ids=["file", "folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_tool_s_file_gives_its_region_and_label(name: str, whole: bool, tmp_path: Path) -> None:
    file, content = FILES[name]
    (tmp_path / file).write_text(content)
    (tmp_path / "classes.txt").write_text("cup\ndog\n")
    path = tmp_path / file if whole else tmp_path
    (found,) = read_regions(path, SIZE, "photos/a.jpg")
    np.testing.assert_allclose(found.region.bounds, BOX, atol=0.2)
    assert found.label == "cup"


def test_a_folder_of_sam_s_masks_is_read_by_its_table(tmp_path: Path) -> None:
    Image.fromarray(PATCH).save(tmp_path / "0.png")
    (tmp_path / "metadata.csv").write_text("id,area\n0,5000\n1,9\n")
    first, second = RegionFile(tmp_path).entries(SIZE, "a.jpg")
    assert getattr(first, "region", None) == Mask(PATCH)
    assert isinstance(second, RegionFileError)


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        ("xyxy", [20, 10, 120, 60]),
        ("xywh", [20, 10, 100, 50]),
        ("cxcywh", [70, 35, 100, 50]),
    ],
)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("kind", ["npz", "coco", "ours"])
def test_boxes_are_read_as_the_caller_says(
    form: str, numbers: list[float], shares: bool, kind: str, tmp_path: Path
) -> None:
    row = list(np.divide(numbers, SIZE * 2)) if shares else numbers
    path = tmp_path / "b.npz"
    if kind == "npz":
        np.savez(path, boxes=[row])
    else:
        path.write_text(json.dumps([{"bbox": row}] if kind == "coco" else [{"box": row}]))
    (found,) = read_regions(path, SIZE, box_format=form, normalized=shares)
    np.testing.assert_allclose(found.region.bounds, BOX)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["box", "mask", "polygon"])
def test_regions_of_stored_pixels_are_turned_with_the_photo(
    orientation: int, kind: str, tmp_path: Path
) -> None:
    from patchioner.images import load_image

    picture = Image.fromarray(PATCH.astype(np.uint8) * 255)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    ring = [[20, 10], [120, 10], [120, 60], [20, 60]]
    region: dict[str, Any] = {"box": list(BOX), "mask": "a.png", "polygon": ring}
    (tmp_path / "r.json").write_text(json.dumps([{kind: region[kind]}]))
    upright = load_image(tmp_path / "a.png")
    (found,) = read_regions(
        tmp_path / "r.json", upright.size, str(tmp_path / "a.png"), exif="ignore"
    )
    wanted = Mask(np.asarray(upright)[..., 0] > 0)
    assert tuple(found.region.bounds) == tuple(wanted.bounds)
    if isinstance(found.region, Mask):
        assert found.region == wanted


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>"),
        ("a.xml", "<a><b/></a>"),
        ("a.xml", "<a"),
        ("a.xml", CVAT.format('<box xtl="1" ytl="a" xbr="3" ybr="4"/>')),
        (
            "a.xml",
            CVAT.format('<mask rle="9999999999" left="0" top="0" width="9" height="9"/>'),
        ),
        ("a.xml", CVAT.format("<cuboid/>")),
        ("a.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n"),
        ("a.txt", "0 0.1 0.1 0.6 0.1\nzero\n"),
        ("a.json", '[{"ann_id": 1, "sentences": []}]'),
    ],
)
def test_what_is_wrong_in_them_is_an_error_of_the_file(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RegionFileError, match=name):
        read_regions(tmp_path / name, SIZE, "a.jpg")


def test_unknown_ways_and_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[{"whole": true}]')
    with pytest.raises(OptionError):
        RegionFile(tmp_path / "r.json", box_format="yxyx")  # type: ignore[arg-type]
    with pytest.raises(RegionFileError, match="path of the photo"):
        read_regions(tmp_path / "r.json", SIZE, "nowhere.jpg", exif="ignore")
    with pytest.raises(RegionFileError, match="called like the photo"):
        read_regions(tmp_path, SIZE, "b.jpg")
