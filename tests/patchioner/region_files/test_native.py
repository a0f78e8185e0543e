"""This project's JSON: every kind, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import RegionFileError
from patchioner.region_files import NamedRegion, read_regions
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    RegionSet,
    Trace,
    WholeImage,
)

SIZE = (6, 4)
TRIANGLE = [[0, 0], [3, 0], [0, 3]]


def written(folder: Path, content: object) -> Path:
    path = folder / "regions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_kind_is_read_in_order_with_its_label(tmp_path: Path) -> None:
    array = np.eye(4, 6, dtype=bool)
    Image.fromarray(array).save(tmp_path / "mask.png")
    entries = [
        {"box": [1, 2, 3, 4], "label": "cup"},
        {"point": [1.5, 2]},
        {"patch": [0, 3]},
        {"polygon": TRIANGLE},
        {"polygon": [TRIANGLE, TRIANGLE]},
        {"trace": [[0.1, 0.2], [0.5, 1]], "normalized": True, "label": "path"},
        {"trace": [[1, 2]]},
        {"mask": "mask.png"},
        {"mask": {"size": [4, 6], "counts": [0, 24]}},
        {"set": [{"box": [1, 2, 3, 4]}, {"set": [{"whole": True}]}], "label": "all"},
        {"whole": True},
    ]
    triangle = [(0, 0), (3, 0), (0, 3)]
    assert read_regions(written(tmp_path, {"regions": entries}), SIZE) == [
        NamedRegion(Box(1, 2, 3, 4), "cup"),
        NamedRegion(Point(1.5, 2)),
        NamedRegion(Patch(0, 3)),
        NamedRegion(Polygon(triangle)),
        NamedRegion(Polygon([triangle, triangle])),
        NamedRegion(Trace([(0.1, 0.2), (0.5, 1)], normalized=True), "path"),
        NamedRegion(Trace([(1, 2)])),
        NamedRegion(Mask(array)),
        NamedRegion(Mask(np.ones((4, 6)))),
        NamedRegion(RegionSet([Box(1, 2, 3, 4), RegionSet([WholeImage()])]), "all"),
        NamedRegion(WholeImage()),
    ]
    assert len(read_regions(str(written(tmp_path, entries)), SIZE)) == len(entries)


def test_one_file_for_several_images(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"images": {"in/a.jpg": [{"point": [1, 1]}], "b.jpg": [{"whole": True}]}}
    )
    assert read_regions(path, SIZE, "photos/a.jpg") == [NamedRegion(Point(1, 1))]
    assert read_regions(path, SIZE, "b.jpg") == [NamedRegion(WholeImage())]
    with pytest.raises(RegionFileError, match=r"none of its 2 images is called 'c.jpg'.*a.jpg"):
        read_regions(path, SIZE, "c.jpg")
    with pytest.raises(RegionFileError, match="2 images; say which one"):
        read_regions(path, SIZE)
    only = written(tmp_path, {"images": {"a.jpg": [{"point": [1, 1]}]}})
    assert read_regions(only, SIZE) == [NamedRegion(Point(1, 1))]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"bbox": [1, 2, 3, 4]}, "'bbox' does not belong here; did you mean 'box'.*use one of box"),
        ({"point": [1, 2], "normalised": True}, "did you mean 'normalized'"),
        ({"point": [1, 2], "normalized": True}, "'normalized' does not belong"),
        ({"point": [1, 2], "box": [1, 2, 3, 4]}, "exactly one kind, this one 2"),
        ({"label": "cup"}, "exactly one kind, this one 0"),
        ({"point": [1, 2], "label": 5}, "label is 5"),
        ({"set": [{"point": [1, 2], "label": "x"}]}, "'label' does not belong"),
        ({"set": []}, "empty"),
        ({"set": 5}, "give a list"),
        ({"whole": False}, "give true"),
        ({"box": [1, 2, 3]}, "3 numbers"),
        ({"box": [3, 2, 1, 4]}, "inverted"),
        ({"box": "1,2,3,4"}, "give a list"),
        ({"patch": [0.5, 1]}, "0.5"),
        ({"polygon": [[1, 2], [3, 4]]}, "at least 3"),
        ({"trace": []}, "no point"),
        ({"trace": [[1, 2]], "normalized": "yes"}, "true or false"),
        ({"mask": "missing.png"}, "missing.png"),
        ({"mask": 5}, "file name or an RLE"),
        ({"mask": {"size": [6, 4], "counts": [0, 24]}}, "4x6 but the image is 6x4"),
        ([1, 2, 3, 4], "dictionary"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(entry: object, text: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"regions": [{"whole": True}, entry]})
    with pytest.raises(RegionFileError, match=f"regions.json.*region 1: .*{text}"):
        read_regions(path, SIZE)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"regions": []}, "no region; add"),
        ({"regions": 5}, "give a list"),
        ({"images": {"a.jpg": []}}, "no region"),
        ({"images": 5}, "'images' is not"),
        ({"boxes": []}, "no known form"),
        ({}, "no known form"),
        (5, "no known form"),
        ([5], "no known form"),
        ("", "not JSON"),
        ('{"regions": [', "not JSON"),
        ('{"regions": [{"point": [NaN, 1]}]}', "nan"),
        ('{"regions": [{"point": [1e999, 1]}]}', "inf"),
        ('{"regions": [{"point": [1' + "0" * 400 + ", 1]}]}", "finite"),
        ("[" * 100_000, "nested too deeply"),
        (
            '{"regions": [' + '{"set": [' * 900 + '{"whole": true}' + "]}" * 900 + "]}",
            "nested too deeply",
        ),
    ],
)
def test_a_wrong_file_is_refused(content: object, text: str, tmp_path: Path) -> None:
    with pytest.raises(RegionFileError, match=text):
        read_regions(written(tmp_path, content), SIZE)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegionFileError, match=r"nowhere.json.*No such file"):
        read_regions(tmp_path / "nowhere.json", SIZE)
    with pytest.raises(RegionFileError, match="cannot be read"):
        read_regions(tmp_path, SIZE)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"regions": [{"whole": true}]}')
    assert read_regions(path, SIZE) == [NamedRegion(WholeImage())]
