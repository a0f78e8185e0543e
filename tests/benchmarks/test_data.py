import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.data import SAMPLE, TASK_NAMES, BenchmarkDataError, PhotoFolder, Reading, task_named
from patchioner.regions import Box, RegionSet, Trace, WholeImage
from tests.benchmarks.conftest import cases

PHOTO = "000000000001.jpg"
LEFT = [2, 2, 18, 18]


@pytest.fixture
def photos(tmp_path: Path) -> PhotoFolder:
    """Three photos of 40 x 20 pixels: COCO ids 1, 2, 3."""
    (tmp_path / "photos").mkdir()
    for key in (1, 2, 3):
        Image.new("RGB", (40, 20)).save(tmp_path / "photos" / f"{key:012d}.jpg")
    return PhotoFolder(tmp_path / "photos")


def read(task: str, content: Any, photos: PhotoFolder, **options: Any) -> Reading:
    path = photos.root.parent / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return task_named(task).read(path, photos, **options)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_sample_set_is_sound(task: str) -> None:
    path, folder = task_named(task).files(SAMPLE)
    found = task_named(task).read(path, PhotoFolder(folder))
    assert found.skipped == () and len({sample.photo for sample in found.samples}) >= 11
    names = {file.stem for file in folder.iterdir()}
    rows = (SAMPLE / "README.md").read_text().splitlines()
    listed = [name for row in rows if row.startswith("| ") for name in row.split("|")[1].split(",")]
    assert names < {name.strip() for name in listed} and len(names) == 20


def test_rows_of_every_form(photos: PhotoFolder) -> None:
    points = [{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0.6, "y": 0.7, "t": 1.0}, {"x": 1.5, "y": 0}]
    (trace,) = read("trace", {"1": {"captions": ["a dog"], "traces": [points]}}, photos).samples
    assert trace.region == Trace([(0.1, 0.2), (0.6, 0.7), (1.5, 0.0)], normalized=True)
    assert (trace.id, trace.photo, trace.row) == ("1/0", PHOTO, 0)
    assert trace.references == ("a dog",) and trace.area_share == pytest.approx(0.25)
    boxes = [[0, 0, 20, 20], [10, 0, 30, 20]]
    (several,) = read("region_set", {"2": {"a dog\nthe dog": boxes}}, photos).samples
    assert several.region == RegionSet([Box(0, 0, 20, 20), Box(10, 0, 30, 20)])
    assert several.references == ("a dog", "the dog")
    assert several.area_share == 0.75  # what two boxes share counts once
    rows = [{"image_id": 1, "bbox": LEFT, "caption": text} for text in ("red", "red half")]
    content = {"images": [{"id": 1, "file_name": PHOTO}], "annotations": rows}
    assert [sample.row for sample in read("dense", content, photos).samples] == [0, 1]
    named = [{"xyxy": [0, 0, 20, 20], "name": "dog"}, {"xyxy": [0, 0, 3, 3], "name": "cat"}]
    found = read("objects", [{"file_name": PHOTO, "boxes": named}], photos)
    assert [sample.references for sample in found.samples] == [("dog",)] and not found.skipped
    one = {"image_id": 1, "category_id": 3, "bbox": [5, 0, 10, 20]}
    content["categories"] = [{"id": 3, "name": "dog"}]
    content["annotations"] = [one, one | {"iscrowd": 1}]
    (dog,) = read("objects", content, photos).samples
    assert dog.region == Box(5, 0, 15, 20) and dog.references == ("dog",)


def test_images_may_have_their_captions_in_another_file(photos: PhotoFolder) -> None:
    content = {"images": [{"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}]}
    with pytest.raises(BenchmarkDataError, match="--references"):
        read("image", content, photos)
    other = photos.root.parent / "captions.json"
    rows = [{"image_id": n, "caption": text} for n, text in ((1, "a"), ("1", "b"), (555, "c"))]
    other.write_text(json.dumps({"images": [], "annotations": rows}))
    found = read("image", content, photos, references=other)
    (sample,) = found.samples
    assert (sample.region, sample.references, found.skipped) == (WholeImage(), ("a", "b"), ())


@pytest.mark.parametrize(("task", "content", "reasons"), cases("malformed"))
def test_malformed_rows(task: str, content: Any, reasons: list[str], photos: PhotoFolder) -> None:
    found = read(task, content, photos)
    assert found.samples[0].photo == PHOTO and len(found.skipped) == len(reasons)
    for row, reason in zip(found.skipped, reasons, strict=True):
        assert len(row.reason) <= 400 and str(row).encode()
        pytest.raises(BenchmarkDataError, Reading((), (row,)).refuse_skipped, "rows").match(reason)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_files_of_another_form_are_refused(task: str, photos: PhotoFolder, tmp_path: Path) -> None:
    for content in ("", "{", "[]", "3", '{"images": 3}', "null", "[" * 100_000):
        with pytest.raises(BenchmarkDataError, match=r"rows\.json"):
            read(task, content, photos)
    for path in (photos.root / "nowhere.json", tmp_path):
        with pytest.raises(BenchmarkDataError, match=path.name):
            task_named(task).read(path, photos)


def test_photos_that_cannot_be_opened_or_lie(photos: PhotoFolder) -> None:
    (photos.root / "000000000002.jpg").write_bytes(b"no jpeg")
    found = read("region_set", {"1": {"a": [LEFT]}, "2": {"b": [LEFT]}}, photos)
    assert [sample.id for sample in found.samples] == ["1/0"]
    assert "000000000002.jpg cannot be opened" in str(found.skipped[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(photos.root / "lying.jpg", exif=exif)
    assert photos.size("lying.jpg") == (20, 40)


@pytest.mark.parametrize(("stored", "keys"), cases("photo_names"))
def test_names(stored: str, keys: str, tmp_path: Path) -> None:
    path = tmp_path / stored
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 2)).save(path)
    photos = PhotoFolder(tmp_path)
    for key in keys.split():
        assert photos.find(int(key) if key.isdecimal() else key) == stored
        assert photos.find("COCO_val2014_000000000000.jpg", key) == stored
    for nowhere in ((), (None,), ("",), ([1],), ("x", 5)):
        with pytest.raises(BenchmarkDataError, match="is missing in"):
            photos.find(*nowhere)
    with pytest.raises(BenchmarkDataError, match="is no folder"):
        PhotoFolder(tmp_path / "none")
