"""Formats of annotation tools, and what numbers mean where they cannot say it: one table of files and regions."""

from __future__ import annotations

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from patchioner import Box, Point, Polygon
from patchioner.base.errors import OptionError, RegionError, RegionFileError
from patchioner.images import load_image
from patchioner.regions import Mask, RegionFile, read_regions
from patchioner.regions.annotators import from_label_studio

SIZE = (200, 100)
BOX = (20.0, 10.0, 120.0, 60.0)
PATCH = np.zeros((100, 200), dtype=bool)
PATCH[10:60, 20:120] = True


CORNERS = [[20, 10], [120, 10], [120, 60], [20, 60]]
CVAT = '<annotations><image name="d/a.jpg" width="200" height="100">{}</image></annotations>'
DRAWN = {"id": "x", "original_width": 200, "original_height": 100}
AT = {"x": 10, "y": 10, "width": 50, "height": 50}
APART = [{"type": "rectangle", "value": AT}, {"type": "labels", "value": AT | {"labels": ["cup"]}}]
LABELS = {
    "data": {"image": "a.jpg"},
    "annotations": [{"result": [DRAWN | one for one in APART]}],
}
LABELME = {"shapes": [{"label": "cup", "shape_type": "rectangle", "points": [[20, 10], [120, 60]]}]}
JOINED = {"images": [{"id": 1, "file_name": f"{name}.jpg"} for name in "ab"], "annotations": []}
NAMED = {"x1": 20, "y1": 10, "x2": 120, "y2": 60}
PAIRS = [{"x": x, "y": y} for x, y in CORNERS]
SIDES = {"width": 200, "height": 100}
PART = io.BytesIO()
Image.new("L", (100, 50), 255).save(PART, "PNG")
BITMAP = {"label": "cup", "shape_type": "mask", "points": [[20, 10], [119, 59]]}
COCO = {"bbox": [20, 10, 100, 50], "category_id": 1, "image_id": 1}
RECORDS: dict[str, Any] = {
    "labelme mask": {"shapes": [BITMAP | {"mask": base64.b64encode(PART.getvalue()).decode()}]},
    "ultralytics": [{"name": "cup", "class": 0, "confidence": 0.9, "box": NAMED}],
    "ultralytics outline": [
        {"name": "cup", "box": NAMED, "segments": {"x": [20, 120, 120], "y": [10, 10, 60]}}
    ],
    "ultralytics, turned": [
        {
            "name": "cup",
            "box": {
                f"{'xy'[axis]}{n}": xy[axis] for n, xy in enumerate(CORNERS, 1) for axis in (0, 1)
            },
        }
    ],
    "bdd100k": [
        {"name": "photos/a.jpg", "labels": [{"category": "cup", "box2d": NAMED}]},
        {"name": "b.jpg", "labels": None},
    ],
    "cityscapes": {
        "imgWidth": 200,
        "imgHeight": 100,
        "objects": [{"label": "cup", "polygon": CORNERS}],
    },
    "visual genome": {
        "id": 1,
        "objects": [{"name": "cup", "x": 20, "y": 10, "w": 100, "h": 50}],
    },
    "refcoco with boxes": [COCO | {"label": "cup", "ann_id": 1, "sentences": []}],
    "darwin 1": {
        "image": {"filename": "a.jpg", **SIDES},
        "annotations": [{"name": "cup", "bounding_box": {"x": 20, "y": 10, "w": 100, "h": 50}}],
    },
    "darwin 1 outline": {
        "image": {"filename": "a.jpg", **SIDES},
        "annotations": [{"name": "cup", "polygon": {"path": PAIRS}}],
    },
    "darwin 2": {
        "item": {"name": "a.jpg"},
        "annotations": [{"name": "cup", "polygon": {"paths": [PAIRS]}}],
    },
    **{
        f"coco {name}": {
            "images": [{"id": 1, "file_name": "photos/a.JPG"} | image],
            "categories": [{"id": 1, "name": "cup"}],
            "annotations": [COCO | annotation],
        }
        for name, image, annotation in (
            ("of the stored ending", {}, {}),
            ("path", {"file_name": None, "path": "photos/a.jpg"}, {}),
            ("float sides", {"width": 200.0, "height": "100.0"}, {}),
            ("mode", {}, {"bbox": list(BOX), "bbox_mode": "BoxMode.XYXY_ABS"}),
            ("no mode", {}, {"bbox_mode": None}),
            ("empty ring", {}, {"segmentation": [[]]}),
            ("ring of pairs", {}, {"segmentation": [CORNERS]}),
            ("ring of OpenCV", {}, {"segmentation": [[[pair] for pair in CORNERS]]}),
            ("ring in no list", {}, {"segmentation": [20, 10, 120, 10, 120, 60]}),
            ("ring and a dash", {}, {"segmentation": [[20, 10, 120, 10, 120, 60], [1, 1, 9, 9]]}),
        )
    },
}
FILES: dict[str, tuple[str, str]] = {
    **{
        f"cvat {shape.split()[0]}": ("a.xml", CVAT.format(f"<{shape}/>"))
        for shape in (
            'box label="cup" xtl="20" ytl="10" xbr="120" ybr="60"',
            'polygon label="cup" points="20,10;120,10;120,60;20,60"',
            'mask label="cup" rle="0, 5000" left="20" top="10" width="100" height="50"',
        )
    },
    "voc": (
        "a.xml",
        "<annotation><filename>a.jpg</filename><object><name>cup</name><bndbox><xmin>21</xmin>"
        "<ymin>11</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object></annotation>",
    ),
    "yolo": ("a.txt", "0 0.35 0.35 0.5 0.5\n"),
    "yolo with confidence": ("a.txt", "\ufeff0.000 0.35 0.35 0.5 0.5 0.9\n"),
    "yolo polygon": ("a.txt", "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"),
    "yolo pose": ("a.txt", "0 0.35 0.35 0.5 0.5 0.2 0.2 0.3 0.4 0.5 0.5\n"),
    "yolo pose, seen": ("a.txt", "0 0.35 0.35 0.5 0.5 0.2 0.2 2 0.3 0.4 1 0.5 0.5 2 0 0 0\n"),
    "cvat turned box": (
        "a.xml",
        CVAT.format('<box label="cup" xtl="45" ytl="-15" xbr="95" ybr="85" rotation="90"/>'),
    ),
    "label studio's rectangle, named apart": ("a.json", json.dumps(LABELS)),
    "label studio's, of no stated size": (
        "a.json",
        json.dumps(LABELS).replace('"original_width": 200, "original_height": 100, ', ""),
    ),
    "labelme": ("a.json", json.dumps(LABELME | {"imagePath": "..\\photos\\a.jpg"})),
    **{name: ("a.json", json.dumps(content)) for name, content in RECORDS.items()},
}


@pytest.mark.parametrize("name", FILES)
def test_a_tool_s_file_gives_its_region_and_label(name: str, tmp_path: Path) -> None:
    file, content = FILES[name]
    (tmp_path / "classes.txt").write_text("cup\ndog\n")
    for encoding in ("utf-8", "utf-16") if file != "a.txt" else ("utf-8",):
        (tmp_path / file).write_text(content, encoding=encoding)
        for path in (tmp_path / file, tmp_path):
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
    [("xyxy", [20, 10, 120, 60]), ("xywh", [20, 10, 100, 50]), ("cxcywh", [70, 35, 100, 50])],
)
def test_boxes_are_read_as_the_caller_says(form: Any, numbers: list[float], tmp_path: Path) -> None:
    path = tmp_path / "b.npz"
    for shares, key in itertools.product((False, True), ("boxes", "bbox", "box")):
        row = list(np.divide(numbers, SIZE * 2)) if shares else numbers
        if key == "boxes":
            np.savez(path, boxes=[row])
        else:
            path.write_text(json.dumps([{key: row}]))
        (found,) = read_regions(path, SIZE, box_format=form, normalized=shares)
        np.testing.assert_allclose(found.region.bounds, BOX)


def test_shares_of_pascal_voc_are_not_counted_from_1(tmp_path: Path) -> None:
    shares = "<xmin>0.1</xmin><ymin>0.1</ymin><xmax>0.6</xmax><ymax>0.6</ymax>"
    voc = f"<annotation><object><bndbox>{shares}</bndbox></object></annotation>"
    (tmp_path / "a.xml").write_text(voc)
    (found,) = read_regions(tmp_path / "a.xml", SIZE, normalized=True)
    np.testing.assert_allclose(found.region.bounds, BOX)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["box", "mask", "polygon"])
def test_stored_pixels_turn_with_the_photo(orientation: int, kind: str, tmp_path: Path) -> None:
    picture = Image.fromarray(PATCH.astype(np.uint8) * 255)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    region: dict[str, Any] = {"box": list(BOX), "mask": "a.png", "polygon": CORNERS}
    (tmp_path / "r.json").write_text(json.dumps([{kind: region[kind]}]))
    upright = load_image(tmp_path / "a.png")
    photo = str(tmp_path / "a.png")
    (found,) = read_regions(tmp_path / "r.json", upright.size, photo, exif="ignore")
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
        ("a.xml", CVAT.format('<mask rle="9999999" left="0" top="0" width="9" height="9"/>')),
        ("a.xml", CVAT.format("<cuboid/>")),
        ("a.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n"),
        ("a.txt", "0 0.1 0.1 0.6 0.1\nzero\n"),
        ("a.txt", "0 0.35 0.35 0.5 0.5 0.9 1\n"),  # with the number of a track
        ("a.json", json.dumps({"shapes": [BITMAP | {"mask": "no picture"}]})),
        ("a.json", json.dumps({"shapes": [BITMAP | {"points": [[150, 0], [249, 49]]}]})),
        ("a.json", json.dumps({"shapes": [BITMAP | {"points": [[20, 10], [-1e308, 49]]}]})),
        ("a.json", json.dumps(LABELS).replace('"width": 50', '"width": 1e308')),
        (
            "a.xml",
            CVAT.format(
                f'<mask rle="{10**14}" left="0" top="0" width="{10**7}" height="{10**7}"/>'
            ),
        ),
        (
            "a.json",
            json.dumps([{"segmentation": [[20, 10, 120, 10, 120, 60], {"size": 5, "counts": 5}]}]),
        ),
        ("a.gif", "GIF89a"),
        ("a.csv", "ImageID,XMin\na,0.1\n"),
        ("a.json", json.dumps({"_via_img_metadata": {}})),
        ("a.txt", "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5 1\n"),
        ("a.json", '[{"ann_id": 1, "sentences": []}]'),
        ("a.json", json.dumps(LABELME | {"imagePath": "b.jpg"})),
        ("a.json", json.dumps([LABELME, LABELME])),  # of which photos, nobody knows
        ("a.json", json.dumps(JOINED)),
        ("a.json", json.dumps(LABELS).replace('"original_width": 200', '"original_width": 50')),
        ("a.json", json.dumps(LABELS).replace('"id"', '"image_rotation": 90, "id"')),
    ],
)
def test_what_is_wrong_is_an_error_of_the_file(name: str, content: str, tmp_path: Path) -> None:
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


def test_of_a_folder_the_file_in_the_photo_s_own_folders_is_taken(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, edge in (("a.json", 10), ("sub/a.json", 20)):
        (tmp_path / name).write_text(json.dumps([{"box": [0, 0, edge, 5]}]))
    file = read_regions(tmp_path)
    for photo, edge in (("a.jpg", 10), ("x/a.jpg", 10), ("x/sub/a.jpg", 20), ("../sub/a.jpg", 20)):
        (named,) = file.for_photo(SIZE, photo)
        assert named.region == Box(0, 0, edge, 5) and len(file.items(photo)) == 1
    names = ("a.jpg", "x/a.jpg", "x/sub/a.jpg")
    assert set(file.ambiguous(names)) == {"a.jpg", "x/a.jpg"}


SMALL = (40, 20)
RECTANGLE = {"x": 25, "y": 50, "width": 50, "height": 25}


def brush(inside: npt.NDArray[np.bool_]) -> list[int]:
    """A mask as Label Studio writes it: runs of equal RGBA pixels, and a first pair of single ones."""
    values = np.repeat(np.where(inside.ravel(), 255, 0), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    bits += f"0{0:02b}{1:03b}{values[0]:08b}{values[1]:08b}"
    starts = [2, *(place for place in range(3, len(values)) if values[place] != values[place - 1])]
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        for first in range(start, stop, 2**16):
            length = min(2**16, stop - first)
            bits += f"1{3:02b}{length - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def test_a_brush_is_a_mask() -> None:
    inside = np.random.default_rng(0).random((20, 40)) > 0.7
    found = from_label_studio({"type": "brushlabels", "value": {"rle": brush(inside)}}, SMALL)
    assert found == Mask(inside)
    # What label_studio_sdk.converter.brush.mask2rle writes of a mask.
    rle = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 252, 96, 17, 255, 225, 48, 0]
    inside = np.zeros((4, 6), dtype=bool)
    inside[1:3, 2:5] = inside[3, 0] = True
    value = {"format": "rle", "rle": rle, "brushlabels": ["Thing"]}
    assert from_label_studio({"type": "brushlabels", "value": value}, (6, 4)) == Mask(inside)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("rectanglelabels", RECTANGLE, Box(10, 10, 30, 15)),
        ("rectangle", RECTANGLE | {"rotation": 0}, Box(10, 10, 30, 15)),
        ("keypointlabels", {"x": 50, "y": 50, "width": 1}, Point(20, 10)),
        ("polygon", {"points": [[0, 0], [100, 0], [0, 100]]}, Polygon([(0, 0), (40, 0), (0, 20)])),
        # a quarter turn clockwise around the left top corner (10, 10), on a photo that has room for it
        ("rectangle", RECTANGLE | {"rotation": 90}, (5, 10, 10, 30)),
        ("ellipse", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}, (16, 6, 24, 14)),
    ],
)
def test_shapes_in_per_cent_turned_ones_as_polygons(kind: str, value: Any, wanted: object) -> None:
    found = from_label_studio({"type": kind, "value": value}, SMALL)
    if isinstance(wanted, tuple):
        assert isinstance(found, Polygon)
        np.testing.assert_allclose(found.bounds, wanted, atol=0.1)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("brush", {"rle": [1, 2]}),
        ("brush", {"rle": [0, 0, 0, 9] * 9}),
        ("brush", {"rle": "abc"}),
        ("brush", {"rle": [999]}),
        ("brush", {"rle": brush(np.ones((3, 3), dtype=bool))}),
        ("brush", {"rle": brush(np.eye(20, 40, dtype=bool))[:-4]}),
        ("rectangle", {"x": "a"}),
        ("polygon", {"points": 5}),
        ("video", {}),
        ("rectangle", None),
    ],
)
def test_damaged_ones_are_named(kind: str, value: Any) -> None:
    with pytest.raises(RegionError):
        from_label_studio({"type": kind, "value": value}, SMALL)
