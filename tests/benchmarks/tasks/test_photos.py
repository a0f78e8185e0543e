"""Photos are found under the names that the data sets give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks import PhotoFolder


@pytest.mark.parametrize(
    ("stored", "keys"),
    [
        ("000000000359.jpg", ("359",)),
        ("000000000359.jpg", (359,)),
        ("COCO_val2014_000000000359.jpg", ("359",)),
        ("000000000359.jpg", ("COCO_val2014_000000000359.jpg", 359)),
        ("1000092795.jpg", ("1000092795",)),
        ("frame_07.jpg", ("frame_07",)),
        ("frame_07.png", ("frame_07",)),
        ("v1.2_frame.jpg", ("v1.2_frame",)),
        ("VG_100K/2317429.jpg", ("2317429.jpg", 2317429)),
        ("2317429.jpg", ("VG_100K_2/2317429.jpg",)),
        ("val2014/COCO_val2014_000000000359.jpg", ("359",)),
        ("a.jpg", ("../elsewhere/a.jpg",)),
    ],
)
def test_names(stored: str, keys: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / stored
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 2)).save(path)
    photos = PhotoFolder(tmp_path)
    assert photos.find(*keys) == stored
    assert photos.size(stored) == (4, 2)


def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"")
    (tmp_path / "photos").mkdir()
    with pytest.raises(BenchmarkDataError, match="is missing"):
        PhotoFolder(tmp_path / "photos").find("../secret.jpg")


@pytest.mark.parametrize("keys", [(), (None,), ("",), ([1],), ("x", 5)])
def test_what_leads_nowhere(keys: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="is missing in"):
        PhotoFolder(tmp_path).find(*keys)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="is no folder"):
        PhotoFolder(tmp_path / "none")
