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
from patchioner.batch.rows import Row, read_rows
from patchioner.cli import main
from patchioner.regions import Box, Polygon
from tests.support import Capture

CASES = Path(__file__).with_name("cases")
ROWS = list(read_rows(CASES / "rows.jsonl"))
LEFT = {one: 2 for one in EXPORTS if one != "json"} | {"coco-captions": 4}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("to", "left"), LEFT.items())
def test_files_are_as_other_tools_have_them(to: str, left: int, tmp_path: Path) -> None:
    name = f"{to}.xml" if to == "cvat" else f"{to}.json"
    where = tmp_path if to in BESIDE else tmp_path / name
    prefix = "/data/local-files/?d=photos/" if to == "label-studio" else "/photos/"
    assert export(ROWS, to, where, prefix=prefix) == left
    for path in (file for file in tmp_path.rglob("*") if file.is_file()):
        due = CASES / path.relative_to(tmp_path)
        assert path.read_text(encoding="utf-8") == due.read_text(encoding="utf-8"), path.name


def test_our_own_readers_and_pycocotools_read_them() -> None:
    found = read_regions(CASES / "coco.json", (100, 80), "a.jpg")
    assert isinstance(found[0].region, Polygon) and found[1].region == Box(0, 0, 25, 20)
    assert [(named.id, named.label) for named in found] == [(7, "cat"), (1, "region")]
    drawn = read_regions(CASES / "label-studio.json", (100, 80), "a.jpg")
    found_drawn = [(named.region, named.label) for named in drawn]
    assert found_drawn == [(Box(10, 10, 60, 40), "cat"), (Box(0, 0, 25, 20), None)]
    assert read_captions(CASES / "coco-captions.json") == ["a street"]
    coco = pytest.importorskip("pycocotools.coco").COCO(str(CASES / "coco.json"))
    assert coco.loadAnns(coco.getAnnIds(imgIds=[42], catIds=[17]))[0]["caption"] == ROWS[0].text


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


def test_files_beside_photos_of_one_stem_and_of_none(tmp_path: Path) -> None:
    assert export(ROWS, "json", tmp_path) == 0
    assert [Row.from_dict(one) for one in load(tmp_path / "a.json")] == ROWS[:3]
    export([ROWS[3], replace(ROWS[3], photo="sub/b.jpg", text="a lane")], "txt", tmp_path)
    assert (tmp_path / "sub" / "b.jpg.txt").read_text(encoding="utf-8") == "a lane\n"
    for to, name in itertools.product(BESIDE, ("../a.jpg", "/..", "a/../../b.jpg", "")):
        with pytest.raises(OptionError, match="leads out"):
            export([replace(ROWS[0], photo=name)], to, tmp_path / "in")


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
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    coco, page = tmp_path / "captioned.json", tmp_path / "page.html"
    words = ["batch", str(photos), "--out", str(tmp_path / "out.csv"), "--model", str(checkpoint)]
    words += ["--regions", str(tmp_path / "coco.json"), "--device", "cpu"]
    more = ["--export", f"coco={coco}", "--gallery", str(page), "--export", f"txt={tmp_path}"]
    assert main([*words, *more]) == 0
    own = {one["id"]: one for one in load(coco)["annotations"]}
    for one in load(tmp_path / "coco.json")["annotations"]:
        assert own[one["id"]].items() >= one.items() and own[one["id"]]["caption"]
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 5
    assert (tmp_path / "sub" / "a.txt").read_text(encoding="utf-8").count("\n") == 3
    assert main([*words, "--export", "cocoo=x.json"]) == 2
    assert "did you mean 'coco'" in capsys.readouterr().err
