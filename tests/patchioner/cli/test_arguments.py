"""Spellings of regions, and what is refused."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.cli import arguments
from patchioner.regions import Box, Mask, Point, Polygon, RegionSet, Trace, WholeImage
from patchioner_base.errors import RegionFileError

Run = Callable[..., int]


def test_regions_of_every_kind() -> None:
    assert arguments.parse_box("1,2.5,30,40") == Box(1, 2.5, 30, 40)
    assert arguments.parse_point("3,4") == Point(3, 4)
    assert arguments.parse_polygon("0,0 9,0 0,9") == Polygon([(0, 0), (9, 0), (0, 9)])
    two = [[(0, 0), (9, 0), (0, 9)], [(20, 20), (29, 20), (20, 29)]]
    assert arguments.parse_polygon("0,0 9,0 0,9; 20,20 29,20 20,29") == Polygon(two)
    assert arguments.parse_trace("1,2 3,4") == Trace([(1, 2), (3, 4)])
    assert arguments.parse_trace("1,2 3.5,4.5") == Trace([(1, 2), (3.5, 4.5)])
    assert arguments.parse_region_set("0,0,9,9;10,10,19,19") == RegionSet(
        [Box(0, 0, 9, 9), Box(10, 10, 19, 19)]
    )


def test_the_whole_image_takes_its_place_among_the_regions() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_caption_arguments(parser)
    options = parser.parse_args(["a.jpg", "--point", "3,4", "--whole", "--box", "0,0,9,9"])
    assert options.regions == [Point(3, 4), WholeImage(), Box(0, 0, 9, 9)]
    assert parser.parse_args(["a.jpg"]).regions == []


def test_masks_are_read_from_pictures(tmp_path: Path) -> None:
    array = np.eye(7, dtype=bool)
    Image.fromarray(array.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert arguments.parse_mask(str(tmp_path / "mask.png")) == Mask(array)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([[1, 2], [3, 4]], Trace([(1, 2), (3, 4)])),
        ([{"x": 0.1, "y": 0.2, "t": 0}], Trace([(0.1, 0.2)], normalized=True)),
        ({"trace": [[0.1, 0.2]], "normalized": True}, Trace([(0.1, 0.2)], normalized=True)),
        ({"trace": [{"x": 5, "y": 6}], "normalized": False}, Trace([(5, 6)])),
    ],
)
def test_traces_are_read_from_files(tmp_path: Path, content: object, expected: Trace) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(content))
    assert arguments.parse_trace(str(path)) == expected


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"trace": 3}'])
def test_files_without_a_trace(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(RegionFileError, match=r"trace\.json"):
        arguments.read_trace(path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--box", "1,2,3"], "X1,Y1,X2,Y2"),
        (["--box", "a,b,c,d"], "X1,Y1,X2,Y2"),
        (["--box", "30,0,10,10"], "inverted"),
        (["--box", "5,5,5,9"], "empty"),
        (["--box", "nan,0,10,10"], "nan"),
        (["--box", "0,0,inf,10"], "inf"),
        (["--point", "7"], "X,Y"),
        (["--polygon", "0,0 9,9"], "at least 3"),
        (["--polygon", ""], "polygon"),
        (["--trace", ""], "trace"),
        (["--trace", "1,2 3"], "X,Y X,Y"),
        (["--trace", "nowhere.json"], "nowhere.json"),
        (["--mask", "nowhere.png"], "nowhere.png"),
        (["--region-set", "0,0,9"], "X1,Y1,X2,Y2"),
        (["--region-set", ";"], "RegionSet is empty"),
        (["--beam", "0"], "whole number"),
        (["--max-tokens", "-3"], "whole number"),
        (["--variance", "-1"], "from 0 on"),
        (["--variance", "1"], "--weighting gaussian"),
        (["--temperature", "0"], "above 0"),
        (["--temperature", "1", "--beam", "3"], "exclude each other"),
        (["--patches", "--point", "1,1"], "--patches"),
        (["--out", "picture.xyz"], ".png"),
        (["--weighting", "gausian"], "gaussian"),
        (["--boks", "1,2,3,4"], "--boks"),
    ],
)
def test_wrong_usage_exits_2_and_says_why(
    run: Run, photo: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert run("caption", photo, *words) == 2
    written = capsys.readouterr()
    assert says in written.err
    assert "Traceback" not in written.err
    assert written.out == ""


def test_an_empty_mask_is_refused(
    run: Run, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (80, 60)).save(tmp_path / "mask.png")
    assert run("caption", photo, "--mask", tmp_path / "mask.png") == 2
    assert "is empty" in capsys.readouterr().err


def test_negative_coordinates_need_no_equals_sign() -> None:
    words = ["caption", "p.png", "--box", "-5,0,9,9", "--json", "-1"]
    assert arguments.attach_negative_values(words) == [
        "caption",
        "p.png",
        "--box=-5,0,9,9",
        "--json=-1",
    ]
    assert arguments.attach_negative_values(["--box=1,2,3,4", "-x"]) == ["--box=1,2,3,4", "-x"]
