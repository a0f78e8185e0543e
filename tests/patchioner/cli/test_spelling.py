"""Spellings of regions, texts and numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import RegionFileError
from patchioner.cli import spelling
from patchioner.regions import Box, Mask, Point, Polygon, RegionSet, Trace


def test_regions_of_every_kind() -> None:
    assert spelling.parse_box("1,2.5,30,40") == Box(1, 2.5, 30, 40)
    assert spelling.parse_point("3,4") == Point(3, 4)
    assert spelling.parse_polygon("0,0 9,0 0,9") == Polygon([(0, 0), (9, 0), (0, 9)])
    two = [[(0, 0), (9, 0), (0, 9)], [(20, 20), (29, 20), (20, 29)]]
    assert spelling.parse_polygon("0,0 9,0 0,9; 20,20 29,20 20,29") == Polygon(two)
    assert spelling.parse_trace("1,2 3,4") == Trace([(1, 2), (3, 4)])
    assert spelling.parse_trace("1,2 3.5,4.5") == Trace([(1, 2), (3.5, 4.5)])
    assert spelling.parse_region_set("0,0,9,9;10,10,19,19") == RegionSet(
        [Box(0, 0, 9, 9), Box(10, 10, 19, 19)]
    )


def test_masks_are_read_from_pictures(tmp_path: Path) -> None:
    array = np.eye(7, dtype=bool)
    Image.fromarray(array.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert spelling.parse_mask(str(tmp_path / "mask.png")) == Mask(array)


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
    assert spelling.parse_trace(str(path)) == expected


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"trace": 3}'])
def test_files_without_a_trace(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(RegionFileError, match=r"trace\.json"):
        spelling.read_trace(path)


def test_texts_from_the_command_line_and_from_files(tmp_path: Path) -> None:
    assert spelling.parse_texts("a cat; a dog ;;a cat") == ("a cat", "a dog")
    assert spelling.parse_texts("only one") == ("only one",)
    (tmp_path / "classes.txt").write_text("a cat\n\na dog; or two\n")
    assert spelling.parse_texts(str(tmp_path / "classes.txt")) == ("a cat", "a dog; or two")
    (tmp_path / "classes.json").write_text('["a cat", "a dog"]')
    assert spelling.parse_texts(str(tmp_path / "classes.json")) == ("a cat", "a dog")


@pytest.mark.parametrize("text", ["", " ; ;", "nowhere.txt"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        spelling.parse_texts(text)


def test_numbers() -> None:
    assert (spelling.positive_int("12"), spelling.positive("0.5"), spelling.not_negative("0")) == (
        12,
        0.5,
        0,
    )
    for parse, text in (
        (spelling.positive_int, "0"),
        (spelling.positive_int, "1.5"),
        (spelling.positive, "0"),
        (spelling.positive, "inf"),
        (spelling.not_negative, "-1"),
        (spelling.not_negative, "nan"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            parse(text)
