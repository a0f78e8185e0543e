"""The four readers: what they give of good rows, and what they say of bad ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.readers import BenchmarkDataError, DevSets
from benchmarks.tasks import TASKS, PhotoFolder, Reading, ReadOptions
from patchioner.regions import Box, RegionSet, Trace, WholeImage

SHARED = Path(__file__).parents[4] / "shared/data"
PHOTO = "000000000001.jpg"
LEFT = [2, 2, 18, 18]


@pytest.fixture
def photos(data: Path) -> PhotoFolder:
    """Three photos of 40 x 20 pixels: COCO ids 1, 2, 3."""
    return PhotoFolder(data / "photos")


def read(task: str, content: Any, photos: PhotoFolder, tmp_path: Path, **options: Any) -> Reading:
    path = tmp_path / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return TASKS[task].read(path, photos, ReadOptions(**options))


def reasons(reading: Reading) -> list[str]:
    return [str(row) for row in reading.skipped]


def test_traces(photos: PhotoFolder, tmp_path: Path) -> None:
    points = [{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0.6, "y": 0.7, "t": 1.0}, {"x": 1.5, "y": 0}]
    found = read("trace", {"1": {"captions": ["a dog"], "traces": [points]}}, photos, tmp_path)
    (sample,) = found.samples
    assert sample.region == Trace([(0.1, 0.2), (0.6, 0.7), (1.5, 0.0)], normalized=True)
    assert (sample.id, sample.photo, sample.row, sample.box_count) == ("1/0", PHOTO, 0, 0)
    assert sample.references == ("a dog",)
    assert sample.area_share == pytest.approx(0.25)  # the box around the points on the photo


def test_malformed_traces_are_reported_by_index(photos: PhotoFolder, tmp_path: Path) -> None:
    good = [{"x": 0.5, "y": 0.5, "t": 0.0}]
    content = {
        "1": {
            "captions": ["a", 7, math.nan, "b", "c", "  ", "d", "e"],
            "traces": [good, good, good, [], [{"x": math.nan, "y": 0}], good, [{"x": 2, "y": 2}]],
        },
        "99": {"captions": ["f"], "traces": [good]},
        "2": "nonsense",
        "3": {"captions": ["g"], "traces": [good]},
    }
    found = read("trace", content, photos, tmp_path)
    assert [(sample.id, sample.row) for sample in found.samples] == [("1/0", 0), ("3/0", 10)]
    assert [(row.row, row.where) for row in found.skipped] == [
        (1, "1/1"), (2, "1/2"), (3, "1/3"), (4, "1/4"), (5, "1/5"), (6, "1/6"), (7, "1/7"),
        (8, "99/0"), (9, "2"),
    ]  # fmt: skip
    said = reasons(found)
    assert "the caption is 7, not a string" in said[0]
    assert "the caption is nan, not a string" in said[1]
    assert "no point" in said[2]
    assert "not finite" in said[3] or "nan" in said[3]
    assert "blank" in said[4]
    assert "no point of the trace lies within 0..1" in said[5]
    assert "the trace is None, not a list" in said[6]
    assert "image 99 is missing" in said[7] and "000000000099.jpg" in said[7]
    assert "not an object" in said[8]


def test_region_sets(photos: PhotoFolder, tmp_path: Path) -> None:
    boxes = [[0, 0, 20, 20], [10, 0, 30, 20]]
    found = read("region_set", {"2": {"a dog\nthe dog": boxes}}, photos, tmp_path)
    (sample,) = found.samples
    assert sample.region == RegionSet([Box(0, 0, 20, 20), Box(10, 0, 30, 20)])
    assert sample.references == ("a dog", "the dog")
    assert (sample.box_count, sample.area_share) == (2, 0.75)  # what two boxes share counts once


def test_malformed_region_sets_are_reported_by_index(photos: PhotoFolder, tmp_path: Path) -> None:
    content = {
        "1": {
            "good": [LEFT], "no boxes": [], "three": [[1, 2, 3]], "text": [[1, 2, 3, "4"]], "\n": [LEFT],
            "inverted": [[9, 9, 1, 1]], "outside": [LEFT, [100, 100, 120, 120]], "none": None,
            "nan": [[math.nan, 0, 1, 1]], "sticks out": [[30, 10, 400, 400]],
        },
    }  # fmt: skip
    found = read("region_set", content, photos, tmp_path)
    assert [sample.references[0] for sample in found.samples] == ["good", "sticks out"]
    assert [row.row for row in found.skipped] == [1, 2, 3, 4, 5, 6, 7, 8]
    said = reasons(found)
    assert "the list of boxes is empty" in said[0]
    assert "a box needs 4 numbers" in said[1] and "a box needs 4 numbers" in said[2]
    assert "blank" in said[3]
    assert "inverted" in said[4]
    assert "lies outside of" in said[5] and "40 x 20" in said[5]
    assert "not a list" in said[6]


def dense_content() -> dict[str, Any]:
    images = [{"id": 1, "file_name": PHOTO, "width": 40, "height": 20}, {"id": 2, "file_name": "2"}]
    annotation = {"image_id": 1, "bbox": LEFT, "caption": "red"}
    return {"images": images, "annotations": [annotation]}


def test_dense_boxes_are_corners(photos: PhotoFolder, tmp_path: Path) -> None:
    (sample,) = read("dense", dense_content(), photos, tmp_path).samples
    assert sample.region == Box(2, 2, 18, 18)
    assert (sample.id, sample.references, sample.area_share) == ("1/0", ("red",), 256 / 800)


def test_dense_captions_of_one_box_can_be_references_of_one_sample(
    photos: PhotoFolder, tmp_path: Path
) -> None:
    content = dense_content()
    for text, box in (("red half", LEFT), ("other", [1, 1, 5, 5]), ("red side", LEFT)):
        content["annotations"].append({"image_id": 1, "bbox": box, "caption": text})
    apart = read("dense", content, photos, tmp_path)
    assert [sample.row for sample in apart.samples] == [0, 1, 2, 3]
    merged = read("dense", content, photos, tmp_path, merge_references=True)
    assert [s.references for s in merged.samples] == [("red", "red half", "red side"), ("other",)]


def test_malformed_dense_rows_are_reported_by_index(photos: PhotoFolder, tmp_path: Path) -> None:
    content = dense_content()
    content["images"].append({"id": 3, "file_name": "3", "width": 640, "height": 480})
    content["images"].append({"id": 4, "file_name": "missing.jpg"})
    content["annotations"] += [
        {"image_id": 7, "bbox": LEFT, "caption": "a"},
        {"image_id": [1], "bbox": LEFT, "caption": "a"},
        {"image_id": 3, "bbox": LEFT, "caption": "a"},
        {"image_id": 4, "bbox": LEFT, "caption": "a"},
        {"image_id": 1, "caption": "a"},
        {"image_id": 1, "bbox": LEFT, "caption": ["a"]},
        None,
        {"image_id": 2, "bbox": LEFT, "caption": "fine"},
    ]
    found = read("dense", content, photos, tmp_path)
    assert [sample.references[0] for sample in found.samples] == ["red", "fine"]
    assert [row.row for row in found.skipped] == [1, 2, 3, 4, 5, 6, 7]
    said = reasons(found)
    assert "image_id 7 is not among the images" in said[0]
    assert "640 x 480" in said[2] and "40 x 20" in said[2]
    assert "missing.jpg" in said[3]


def test_images(photos: PhotoFolder, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": PHOTO}, {"id": 2, "file_name": "000000000002.jpg"}],
        "annotations": [
            {"image_id": 2, "caption": "b"}, {"image_id": 1, "caption": "a"},
            {"image_id": 2, "caption": "c"},
        ],
    }  # fmt: skip
    first, second = read("image", content, photos, tmp_path).samples
    assert (first.id, first.references, first.region) == ("1", ("a",), WholeImage())
    assert (second.references, second.area_share) == (("b", "c"), 1.0)


def test_images_with_references_in_another_file(photos: PhotoFolder, tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}]}
    with pytest.raises(BenchmarkDataError, match="--references"):
        read("image", content, photos, tmp_path)
    other = tmp_path / "captions.json"
    rows = [{"image_id": 1, "caption": "a"}, {"image_id": 555, "caption": "not asked about"}]
    other.write_text(json.dumps({"images": [], "annotations": rows}))
    found = read("image", content, photos, tmp_path, references=other)
    assert [sample.references for sample in found.samples] == [("a",)]
    assert found.skipped == ()


def test_malformed_images_are_reported_by_index(photos: PhotoFolder, tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 1, "file_name": PHOTO}, {"id": 2, "file_name": "000000000002.jpg"}, "x",
            {"id": [3]}, {"id": 77, "file_name": "gone.jpg"}, {"id": 1, "file_name": PHOTO},
        ],
        "annotations": [
            {"image_id": 1, "caption": 5}, {"image_id": 1, "caption": "a"},
            {"image_id": 9, "caption": "b"}, {"image_id": 77, "caption": "c"}, [],
        ],
    }  # fmt: skip
    found = read("image", content, photos, tmp_path)
    assert [sample.id for sample in found.samples] == ["1"]
    assert [(row.row, row.where.split(": ")[-1]) for row in found.skipped] == [
        (0, "annotations[0]"), (2, "annotations[2]"), (4, "annotations[4]"),
        (1, "images[1]"), (2, "images[2]"), (3, "images[3]"), (4, "images[4]"), (5, "images[5]"),
    ]  # fmt: skip


def test_strict_names_the_rows(photos: PhotoFolder, tmp_path: Path) -> None:
    content = {"1": {"a": [LEFT], **{f"b{index}": [] for index in range(7)}}}
    found = read("region_set", content, photos, tmp_path)
    with pytest.raises(BenchmarkDataError, match=r"7 unusable rows: row 1 \(1/1\).*and 2 more"):
        found.refuse_skipped("rows.json")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"images": 3}', "null"])
def test_a_file_of_another_form_is_refused(
    task: str, content: str, photos: PhotoFolder, tmp_path: Path
) -> None:
    with pytest.raises(BenchmarkDataError, match=r"rows\.json"):
        read(task, content, photos, tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_file_is_named(task: str, photos: PhotoFolder, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match=r"nowhere\.json is missing"):
        TASKS[task].read(tmp_path / "nowhere.json", photos, ReadOptions())


def test_a_photo_that_cannot_be_opened_is_reported(data: Path, tmp_path: Path) -> None:
    (data / "photos" / "000000000002.jpg").write_bytes(b"no jpeg")
    photos = PhotoFolder(data / "photos")
    content = {"1": {"a": [LEFT]}, "2": {"b": [LEFT]}}
    found = read("region_set", content, photos, tmp_path)
    assert [sample.id for sample in found.samples] == ["1/0"]
    assert "000000000002.jpg cannot be opened" in reasons(found)[0]


def test_a_lying_photo_is_measured_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "1.jpg", exif=exif)
    assert PhotoFolder(tmp_path).size("1.jpg") == (20, 40)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
@pytest.mark.parametrize(("task", "count"), [("trace", 150), ("region_set", 150), ("dense", 340)])
def test_development_sets_hold_no_bad_row(task: str, count: int) -> None:
    photos = PhotoFolder(SHARED / "photos")
    path = SHARED / "annotations" / Path(TASKS[task].data).name
    found = TASKS[task].read(path, photos, ReadOptions())
    assert (len(found.samples), found.skipped) == (count, ())
    assert len({sample.id for sample in found.samples}) == count
    assert all(0 < sample.area_share <= 1 for sample in found.samples)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_the_older_reader_of_the_development_sets_agrees() -> None:
    sets, photos = DevSets(SHARED), PhotoFolder(SHARED / "photos")
    new = TASKS["region_set"].read(
        SHARED / "annotations/region_sets_dev.json", photos, ReadOptions()
    )
    assert [(s.photo, s.references) for s in new.samples] == [
        (s.photo, s.references) for s in sets.region_sets()
    ]
    merged = TASKS["dense"].read(
        SHARED / "annotations/dense_refcocos_dev.json", photos, ReadOptions(merge_references=True)
    )
    assert [s.references for s in merged.samples] == [s.references for s in sets.dense()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_real_traces() -> None:
    photos = PhotoFolder(SHARED / "real_traces/frames")
    found = TASKS["trace"].read(SHARED / "real_traces/traces.json", photos, ReadOptions())
    assert (len(found.samples), found.skipped) == (11, ())
