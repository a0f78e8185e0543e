"""Which arguments there are, what is refused, and which do not go together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from patchioner.cli import arguments
from patchioner.regions import Box, Point, WholeImage

Run = Callable[..., int]


def test_the_whole_image_takes_its_place_among_the_regions() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_caption_arguments(parser)
    options = parser.parse_args(["a.jpg", "--point", "3,4", "--whole", "--box", "0,0,9,9"])
    assert options.regions == [Point(3, 4), WholeImage(), Box(0, 0, 9, 9)]
    assert parser.parse_args(["a.jpg"]).regions == []


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
        (["--labels", " ; "], "holds no text"),
        (["--labels", "classes.txt"], "no file 'classes.txt'"),
        (["--labels", "a;b", "--beam", "3"], "--labels writes no caption"),
        (["--labels", "a;b", "--max-tokens", "3"], "--labels writes no caption"),
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
