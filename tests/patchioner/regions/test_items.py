from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchioner.base.errors import RegionFileError
from patchioner.regions import formats, items, read_regions

CONTENT = {
    "info": {"year": 2026, "images": [1, 2]},
    "images": [
        {"id": 1, "file_name": "d/\u00fc.jpg", "width": 90, "height": 60},
        {"id": "2", "file_name": "b\u2028.jpg", "width": "90", "height": 60},
        {"id": 3, "file_name": "none.jpg"},
    ],
    "licenses": [],
    "annotations": [
        {"id": n, "image_id": n % 2 + 1, "category_id": 1, "bbox": [n, 0, 9, 9], "by": "J\u00e9 ]}"}
        for n in range(9)
    ],
    "categories": [{"id": 1, "name": "caf\u00e9"}],
}


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("window", [1, 100, 2**22])
def test_a_large_file_is_read_as_a_small_one_is(
    window: int,
    indent: int | None,
    ascii_only: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    small = read_regions(path)
    monkeypatch.setattr(formats, "LARGE", 0)
    monkeypatch.setattr(items, "_WINDOW", window)
    monkeypatch.setattr(items, "_AHEAD", 40)
    found = read_regions(path)
    assert [one.name for one in found.photos] == [one.name for one in small.photos]
    for name in ("d/\u00fc.jpg", "b\u2028.jpg", "none.jpg"):
        assert found.for_photo((90, 60), name) == small.for_photo((90, 60), name)
        sources = [[one.source for one in file.items(name)] for file in (found, small)]
        assert sources[0] == sources[1]


@pytest.mark.parametrize("size", [1, 30, 300, 900])
def test_a_large_file_that_is_cut_short_is_refused(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LARGE", 0)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(CONTENT)[:size])
    with pytest.raises(RegionFileError):
        read_regions(path)


def test_other_large_files_are_read_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LARGE", 0)
    (tmp_path / "ours.json").write_text('{"images": {"a.jpg": [{"box": [0, 0, 9, 9]}]}}')
    assert len(read_regions(tmp_path / "ours.json", (90, 60), "a.jpg")) == 1
