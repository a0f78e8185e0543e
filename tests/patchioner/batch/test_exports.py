"""Rows in the forms of other tools, read back by our own readers, pycocotools and XML."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from memory_bank import read_captions
from patchioner import read_regions
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.batch.exports import BESIDE, EXPORTS, export
from patchioner.batch.rows import Row
from patchioner.cli.main import main
from patchioner.regions import Box, Polygon

RING = [10.0, 10.0, 60.0, 10.0, 60.0, 40.0]
GIVEN = {"id": 7, "image_id": 42, "category_id": 17, "segmentation": [RING]}
GIVEN |= {"bbox": [10, 10, 50, 30], "rater": "née"}
SIZE: dict[str, Any] = {"width": 100, "height": 80, "model": "m"}
ROWS = [
    Row("a.jpg", 0, "7", "cat", "polygon", (10, 10, 60, 40), text='a "cat" & <b>', score=-0.5, confidence=0.9,
        source=json.dumps({"caption_id": 3, "annotation": GIVEN}), **SIZE),
    Row("a.jpg", 1, None, None, "box", (0, 0, 25, 20), text="a dog\n\x07", confidence=0.25, **SIZE),
    Row("a.jpg", 2, "9", "cat", None, None, error="RegionError", message="empty", **SIZE),
    Row("sub/b.png", 0, None, None, "whole_image", (0, 0, 100, 80), text="a street", **SIZE),
    Row("c.jpg", 0, None, None, model="m", error="ImageError", message="no picture"),
]  # fmt: skip


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_coco_brings_back_what_came(tmp_path: Path) -> None:
    out = tmp_path / "coco.json"
    assert export(ROWS, "coco", out) == 2
    content = load(out)
    images = {image["file_name"]: image for image in content["images"]}
    assert images["a.jpg"] == {"id": 42, "file_name": "a.jpg", "width": 100, "height": 80}
    first, second, third = content["annotations"]
    said = {"caption": ROWS[0].text, "caption_score": -0.5, "caption_confidence": 0.9}
    assert first == GIVEN | {"area": 1500, "iscrowd": 0, **said}
    assert second["bbox"] == [0, 0, 25, 20] and second["category_id"] != 17 and second["id"] != 7
    assert third["image_id"] == images["sub/b.png"]["id"]
    found = read_regions(out, (100, 80), "a.jpg")
    polygon, box = (named.region for named in found)
    assert isinstance(polygon, Polygon) and box == Box(0, 0, 25, 20)
    assert [(named.id, named.label) for named in found] == [(7, "cat"), (second["id"], "region")]
    coco = pytest.importorskip("pycocotools.coco").COCO(str(out))
    assert coco.loadAnns(coco.getAnnIds(imgIds=[42], catIds=[17]))[0]["caption"] == ROWS[0].text
    assert export(ROWS, "coco-captions", tmp_path / "captions.json") == 4
    assert read_captions(tmp_path / "captions.json") == ["a street"]


@pytest.mark.parametrize("given", [
    {"bbox": [10, 10, 60, 40], "bbox_mode": 0, "id": "x"},
    {"bbox": [10, 10, 60, 40], "score": [0.9]},  # Grounded SAM 2
    {"bbox": [0.1, 0.1, 0.5, 0.4], "caption": "of a person's"},
    {"bbox": "10,10"},
])  # fmt: skip
def test_boxes_of_other_conventions_become_cocos(tmp_path: Path, given: Any) -> None:
    row = replace(ROWS[0], annotation_id="x", source=json.dumps(given))
    export([row], "coco", tmp_path / "coco.json")
    (named,) = read_regions(tmp_path / "coco.json", (100, 80), "a.jpg")
    assert named.region == Box(10, 10, 60, 40) and named.id == 1
    (found,) = load(tmp_path / "coco.json")["annotations"]
    assert found["caption"] == ROWS[0].text and found.get("source_caption") == given.get("caption")


def test_label_studio_reads_back(tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    assert export(ROWS, "label-studio", out, prefix="/data/local-files/?d=photos/") == 2
    first, second, third = load(out)
    assert first["data"] == {"image": "/data/local-files/?d=photos/a.jpg"}
    prediction = first["predictions"][0]
    assert (prediction["model_version"], prediction["score"]) == ("m", 0.25)
    texts = [one["value"]["text"] for one in prediction["result"] if one["type"] == "textarea"]
    assert texts == [[ROWS[0].text], [ROWS[1].text]]
    assert len({one["id"] for one in prediction["result"]}) == 2
    found = [(named.region, named.label) for named in read_regions(out, (100, 80), "a.jpg")]
    assert found == [(Box(10, 10, 60, 40), "cat"), (Box(0, 0, 25, 20), None)]
    assert second["predictions"][0]["result"][0]["value"] == {"text": ["a street"]}
    assert third["predictions"][0]["result"] == []


def test_fiftyone_samples(tmp_path: Path) -> None:
    assert export(ROWS, "fiftyone", tmp_path / "set.json", prefix="/photos/") == 2
    first, second, _ = load(tmp_path / "set.json")["samples"]
    assert first["filepath"] == "/photos/a.jpg" and first["metadata"]["width"] == 100
    cat, dog = first["regions"]["detections"]
    assert cat["bounding_box"] == pytest.approx([0.1, 0.125, 0.5, 0.375])
    assert (cat["label"], cat["caption"], cat["confidence"]) == ("cat", ROWS[0].text, 0.9)
    assert dog["bounding_box"] == [0, 0, 0.25, 0.25]
    assert second["caption"] == {"_cls": "Classification", "label": "a street"}


def test_cvat_has_captions_as_attributes(tmp_path: Path) -> None:
    assert export(ROWS, "cvat", tmp_path / "cvat.xml") == 2
    images = ElementTree.parse(tmp_path / "cvat.xml").findall("image")
    assert [image.get("name") for image in images] == ["a.jpg", "sub/b.png", "c.jpg"]
    box, other = images[0].findall("box")
    edges = {"label": "cat", "xtl": "10", "ytl": "10", "xbr": "60", "ybr": "40"}
    assert box.attrib.items() >= edges.items()
    told = {one.get("name"): one.text for one in box.findall("attribute")}
    assert told == {"caption": ROWS[0].text, "confidence": "0.9", "annotation_id": "7"}
    assert other.findtext("attribute") == "a dog\n\ufffd"
    assert images[1].findtext("tag/attribute") == "a street"


def test_files_beside_the_photos(tmp_path: Path) -> None:
    assert export(ROWS, "txt", tmp_path) == 2
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == 'a "cat" & <b>\na dog \ufffd\n'
    assert (tmp_path / "sub" / "b.txt").read_text(encoding="utf-8") == "a street\n"
    assert export(ROWS, "json", tmp_path) == 0
    assert [Row.from_dict(one) for one in load(tmp_path / "a.json")] == ROWS[:3]
    twice = [ROWS[3], replace(ROWS[3], photo="sub/b.jpg", text="a lane")]
    export(twice, "txt", tmp_path, prefix="/not/here/")
    assert (tmp_path / "sub" / "b.jpg.txt").read_text(encoding="utf-8") == "a lane\n"
    for to, name in itertools.product(BESIDE, ("../a.jpg", "/..", "a/../../b.jpg", "")):
        with pytest.raises(OptionError, match="leads out"):
            export([replace(ROWS[0], photo=name)], to, tmp_path / "in")


def test_xmp_has_description_and_regions(tmp_path: Path) -> None:
    assert export(ROWS, "xmp", tmp_path) == 2
    whole = ElementTree.parse(tmp_path / "sub" / "b.xmp")
    assert whole.findtext(".//{*}description/{*}Alt/{*}li") == "a street"
    regions = ".//{*}RegionList/{*}Bag/{*}li/{*}Description"
    first = ElementTree.parse(tmp_path / "a.xmp").find(regions)
    assert first is not None and ROWS[0].text in first.attrib.values()
    area = first.find("{*}Area")
    assert area is not None and str(25 / 80) in area.attrib.values()


@pytest.mark.parametrize("to", sorted(EXPORTS))
def test_files_are_whole_or_absent_and_hostile_names_harmless(tmp_path: Path, to: str) -> None:
    def broken() -> Iterator[Row]:
        yield ROWS[3]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        export(broken(), to, tmp_path / "out")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    name = "/etc/a.jpg" if to in BESIDE else '"><script>\x1b\udcff.jpg'
    row = replace(ROWS[0], photo=name, category="\x00", text="\ud800 ]]>")
    export([row], to, tmp_path / "hostile")
    (found,) = (path for path in tmp_path.rglob("*") if path.is_file())
    text = found.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text) is not None if to in ("cvat", "xmp") else text


def test_rows_of_a_photo_may_stand_apart_and_ids_twice(tmp_path: Path) -> None:
    out = tmp_path / "coco.json"
    export([ROWS[0], ROWS[3], replace(ROWS[1], annotation_id="7")], "coco", out)
    content = load(out)
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "sub/b.png"]
    assert len({one["id"] for one in content["annotations"]}) == 3
    texts = [one["caption"] for one in content["annotations"]]
    assert texts == [ROWS[0].text, ROWS[1].text, "a street"]
    export([], "coco", out)
    assert load(out) == {"annotations": [], "images": [], "categories": []}
    with pytest.raises(UnknownNameError, match="coco"):
        export(ROWS, "cocoo", tmp_path / "x")


def test_the_command_writes_them_when_all_rows_are_there(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COCO in, COCO out: the same annotations, each with a caption; a page beside; misspelt forms are refused."""
    coco, page = tmp_path / "captioned.json", tmp_path / "page.html"
    words = ["batch", str(photos), "--out", str(tmp_path / "out.csv"), "--model", str(checkpoint)]
    words += ["--regions", str(tmp_path / "coco.json"), "--device", "cpu"]
    assert main([*words, "--export", f"coco={coco}", "--gallery", str(page)]) == 0
    own = {one["id"]: one for one in load(coco)["annotations"]}
    for one in load(tmp_path / "coco.json")["annotations"]:
        assert own[one["id"]].items() >= one.items() and own[one["id"]]["caption"]
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 5
    assert main([*words, "--export", f"txt={tmp_path / 'txt'}"]) == 0
    assert (tmp_path / "txt" / "sub" / "a.txt").read_text(encoding="utf-8").count("\n") == 3
    assert main([*words, "--export", "cocoo=x.json"]) == 2
    assert "did you mean 'coco'" in capsys.readouterr().err
