"""Text and JSON; what is written can be read back."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from patchioner.cli import output
from patchioner.region_files import read_regions
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    RegionSet,
    Trace,
    WholeImage,
)


@dataclass(frozen=True)
class Said:
    """A caption."""

    text: str
    score: float
    region: Region


def _mask(corner: bool) -> Mask:
    array = np.random.default_rng(1).random((6, 8)) < 0.4
    array[0, 0] = corner
    return Mask(array)


REGIONS: list[Region] = [
    Box(1, 2, 3.5, 4),
    Point(1, 2.25),
    Patch(1, 2),
    Polygon([(0, 0), (7, 0), (0, 5)]),
    Polygon([[(0, 0), (7, 0), (0, 5)], [(5, 5), (7, 5), (6, 3)]]),
    Trace([(1, 2), (3, 4)]),
    Trace([(0.1, 0.2)], normalized=True),
    _mask(True),
    _mask(False),
    RegionSet([Box(0, 0, 3, 3), RegionSet([Point(1, 1), WholeImage()])]),
    WholeImage(),
]


def _result(regions: list[Region], label: str | None = None) -> output.PhotoResult:
    captions = [Said("a red bus", -0.25, region) for region in regions]
    return output.PhotoResult("p.jpg", (8, 6), (4, 4), captions, [label] * len(regions))


def test_json_regions_are_read_back_by_the_region_reader(tmp_path: Path) -> None:
    content = json.loads(output.as_json(_result(REGIONS)))
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"regions": [caption["region"] for caption in content["captions"]]}))
    assert [named.region for named in read_regions(path, (8, 6))] == REGIONS


def test_json_has_everything_on_one_line() -> None:
    line = output.as_json(_result([Box(1, 2, 3, 4)], label="bus"))
    assert "\n" not in line
    assert json.loads(line) == {
        "photo": "p.jpg",
        "size": [8, 6],
        "grid": [4, 4],
        "captions": [
            {"region": {"box": [1, 2, 3, 4]}, "label": "bus", "text": "a red bus", "score": -0.25}
        ],
    }


def test_text_numbers_the_regions() -> None:
    lines = output.as_text(_result([Box(1, 2, 3.5, 4), WholeImage()], label="bus")).splitlines()
    assert lines == [
        "p.jpg (8 x 6)",
        "  1. box 1,2,3.5,4 [bus]: a red bus  (-0.25)",
        "  2. whole image [bus]: a red bus  (-0.25)",
    ]


@pytest.mark.parametrize("region", REGIONS)
def test_every_region_has_a_short_description(region: Region) -> None:
    words = region.describe()
    assert words[0].islower() and len(words) < 40


def test_patch_text_is_the_legend() -> None:
    text = output.as_patch_text(_result([Patch(0, 0), Patch(0, 1)]))
    assert text.splitlines() == ["p.jpg (8 x 6), 4 x 4 patches", "  100.0 %  a red bus"]


def test_letters_that_the_terminal_lacks_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.write_line("café.jpg")
    assert raw.getvalue() == b"caf?.jpg\n"


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.report_error("two\n  lines")
    assert capsys.readouterr().err == "patchioner: error: two lines\n"
