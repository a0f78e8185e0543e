"""The sample set, the five readers on good and bad rows, photos under the names of the data sets, areas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.data import (
    SAMPLE,
    TASK_NAMES,
    BenchmarkDataError,
    PhotoFolder,
    Reading,
    covered_share,
    load_json,
    printable,
    read_folder,
    task_named,
)
from patchioner.regions import Box, RegionSet, Trace, WholeImage

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PHOTO = "000000000001.jpg"
LEFT = [2, 2, 18, 18]
POINT = '{"x": 0.5, "y": 0.5}'


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


def reasons(reading: Reading) -> list[str]:
    return [str(row) for row in reading.skipped]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_sample_set_is_sound(task: str) -> None:
    """Twenty pictures, no malformed row, and every task has at least eleven photos of them."""
    path, folder = task_named(task).files(SAMPLE)
    found = task_named(task).read(path, PhotoFolder(folder))
    assert found.skipped == () and len({sample.photo for sample in found.samples}) >= 11
    assert len(read_folder(SAMPLE, "image")) == len(list(folder.iterdir())) == 20


def test_traces(photos: PhotoFolder) -> None:
    points = [{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0.6, "y": 0.7, "t": 1.0}, {"x": 1.5, "y": 0}]
    found = read("trace", {"1": {"captions": ["a dog"], "traces": [points]}}, photos)
    (sample,) = found.samples
    assert sample.region == Trace([(0.1, 0.2), (0.6, 0.7), (1.5, 0.0)], normalized=True)
    assert (sample.id, sample.photo, sample.row, sample.box_count) == ("1/0", PHOTO, 0, 0)
    assert sample.references == ("a dog",)
    assert sample.area_share == pytest.approx(0.25)  # the box around the points on the photo


def test_malformed_traces_are_reported_by_index(photos: PhotoFolder) -> None:
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
    found = read("trace", content, photos)
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


def test_region_sets(photos: PhotoFolder) -> None:
    boxes = [[0, 0, 20, 20], [10, 0, 30, 20]]
    found = read("region_set", {"2": {"a dog\nthe dog": boxes}}, photos)
    (sample,) = found.samples
    assert sample.region == RegionSet([Box(0, 0, 20, 20), Box(10, 0, 30, 20)])
    assert sample.references == ("a dog", "the dog")
    assert (sample.box_count, sample.area_share) == (2, 0.75)  # what two boxes share counts once


def test_malformed_region_sets_are_reported_by_index(photos: PhotoFolder) -> None:
    content = {
        "1": {
            "good": [LEFT], "no boxes": [], "three": [[1, 2, 3]], "text": [[1, 2, 3, "4"]], "\n": [LEFT],
            "inverted": [[9, 9, 1, 1]], "outside": [LEFT, [100, 100, 120, 120]], "none": None,
            "nan": [[math.nan, 0, 1, 1]], "sticks out": [[30, 10, 400, 400]],
        },
    }  # fmt: skip
    found = read("region_set", content, photos)
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


def test_dense_captions_of_one_box_can_be_references_of_one_sample(photos: PhotoFolder) -> None:
    content = dense_content()
    for text, box in (("red half", LEFT), ("other", [1, 1, 5, 5]), ("red side", LEFT)):
        content["annotations"].append({"image_id": 1, "bbox": box, "caption": text})
    apart = read("dense", content, photos)
    assert [sample.row for sample in apart.samples] == [0, 1, 2, 3]
    merged = read("dense", content, photos, merge_references=True)
    assert [s.references for s in merged.samples] == [("red", "red half", "red side"), ("other",)]


def test_malformed_dense_rows_are_reported_by_index(photos: PhotoFolder) -> None:
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
    found = read("dense", content, photos)
    assert [sample.references[0] for sample in found.samples] == ["red", "fine"]
    assert [row.row for row in found.skipped] == [1, 2, 3, 4, 5, 6, 7]
    said = reasons(found)
    assert "image_id 7 is not among the images" in said[0]
    assert "640 x 480" in said[2] and "40 x 20" in said[2]
    assert "missing.jpg" in said[3]


def test_images(photos: PhotoFolder) -> None:
    content = {
        "images": [{"id": 1, "file_name": PHOTO}, {"id": 2, "file_name": "000000000002.jpg"}],
        "annotations": [
            {"image_id": 2, "caption": "b"}, {"image_id": 1, "caption": "a"},
            {"image_id": 2, "caption": "c"},
        ],
    }  # fmt: skip
    first, second = read("image", content, photos).samples
    assert (first.id, first.references, first.region) == ("1", ("a",), WholeImage())
    assert (second.references, second.area_share) == (("b", "c"), 1.0)


def test_images_with_references_in_another_file(photos: PhotoFolder) -> None:
    content = {"images": [{"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}]}
    with pytest.raises(BenchmarkDataError, match="--references"):
        read("image", content, photos)
    other = photos.root.parent / "captions.json"
    rows = [{"image_id": 1, "caption": "a"}, {"image_id": 555, "caption": "not asked about"}]
    other.write_text(json.dumps({"images": [], "annotations": rows}))
    found = read("image", content, photos, references=other)
    assert [sample.references for sample in found.samples] == [("a",)]
    assert found.skipped == ()


def test_malformed_images_are_reported_by_index(photos: PhotoFolder) -> None:
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
    found = read("image", content, photos)
    assert [sample.id for sample in found.samples] == ["1"]
    assert [(row.row, row.where.split(": ")[-1]) for row in found.skipped] == [
        (0, "annotations[0]"), (2, "annotations[2]"), (4, "annotations[4]"),
        (1, "images[1]"), (2, "images[2]"), (3, "images[3]"), (4, "images[4]"), (5, "images[5]"),
    ]  # fmt: skip


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"images": 3}', "null"])
def test_a_file_of_another_form_is_refused(task: str, content: str, photos: PhotoFolder) -> None:
    with pytest.raises(BenchmarkDataError, match=r"rows\.json"):
        read(task, content, photos)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_missing_file_is_named(task: str, photos: PhotoFolder) -> None:
    with pytest.raises(BenchmarkDataError, match=r"nowhere\.json is missing"):
        task_named(task).read(photos.root / "nowhere.json", photos)


def test_a_photo_that_cannot_be_opened_is_reported(photos: PhotoFolder) -> None:
    (photos.root / "000000000002.jpg").write_bytes(b"no jpeg")
    found = read("region_set", {"1": {"a": [LEFT]}, "2": {"b": [LEFT]}}, photos)
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
    path = SHARED / "annotations" / task_named(task).file
    found = task_named(task).read(path, photos)
    assert (len(found.samples), found.skipped) == (count, ())
    assert len({sample.id for sample in found.samples}) == count
    assert all(0 < sample.area_share <= 1 for sample in found.samples)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_real_traces() -> None:
    photos = PhotoFolder(SHARED / "real_traces/frames")
    found = task_named("trace").read(SHARED / "real_traces/traces.json", photos)
    assert (len(found.samples), found.skipped) == (11, ())


def test_repeated_keys_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": 1, "b": {"c": 0, "c": 1, "c": 2}}, {"b": 3}], "d": 1, "d": 2}')
    found = load_json(path)
    assert found[0] == {"a": [{"b": {"c": 2}}, {"b": 3}], "d": 2}
    assert found[1] == [("d", 2), ("a/0/b", 2), ("a/0/b/c", 3)]
    path.write_text('{"a": {"a": 1}, "b": {"a": 1}}')
    assert load_json(path)[1] == []


@pytest.mark.parametrize(
    ("task", "text", "where"),
    [
        ("region_set", '{"1": {"a": [[0, 0, 9, 9]], "a": [[0, 0, 5, 5]]}}', "1/a"),
        ("region_set", '{"1": {"b": [[0, 0, 9, 9]]}, "1": {"a": [[0, 0, 5, 5]]}}', "1"),
        ("trace", f'{{"1": {{"captions": [], "captions": ["a"], "traces": [[{POINT}]]}}}}', "1/captions"),
        (
            "dense",
            '{"images": [{"id": 1, "file_name": "1"}],'
            ' "annotations": [{"image_id": 1, "caption": "b", "caption": "a", "bbox": [0, 0, 5, 5]}]}',
            "annotations/0/caption",
        ),
        (
            "image",
            '{"images": [{"id": 1, "file_name": "2", "file_name": "1"}],'
            ' "annotations": [{"image_id": 1, "caption": "a"}]}',
            "images/0/file_name",
        ),
        (
            "objects",
            '[{"file_name": "2", "file_name": "1", "boxes": [{"xyxy": [0, 0, 15, 15], "name": "dog"}]}]',
            "0/file_name",
        ),
    ],
)  # fmt: skip
def test_each_reader_reports_them(task: str, text: str, where: str, photos: PhotoFolder) -> None:
    found = read(task, text, photos)
    assert len(found.samples) == 1 and found.samples[0].photo == "000000000001.jpg"
    (row,) = found.skipped
    assert row.where == where and "stands 2 times" in row.reason
    with pytest.raises(BenchmarkDataError, match="stands 2 times"):
        found.refuse_skipped("rows.json")


def test_half_a_character_is_reported_and_can_be_written(photos: PhotoFolder) -> None:
    text = (
        r'{"1": {"a \ud800": [[0, 0, 5, 5]], "b": [[0, 0, 5, 5]]}, "\udfff": {"c": [[0, 0, 5, 5]]}}'
    )
    found = read("region_set", text, photos)
    assert [sample.id for sample in found.samples] == ["1/1"]
    assert "half a character" in found.skipped[0].reason
    for row in found.skipped:
        assert str(row).encode()
    assert printable("a \U0001f600 b") == "a \U0001f600 b"


@pytest.mark.parametrize("number", ["9" * 400, "1e999", "-Infinity", "NaN"])
def test_numbers_beyond_any_photo(number: str, photos: PhotoFolder) -> None:
    boxes = f'{{"1": {{"a": [[0, 0, {number}, 9]], "b": [[0, 0, 5, 5]]}}}}'
    (row,) = read("region_set", boxes, photos).skipped
    assert row.where == "1/0" and len(row.reason) <= 400
    traces = (
        f'{{"1": {{"captions": ["a", "b"], "traces": [[{{"x": {number}, "y": 0}}], [{POINT}]]}}}}'
    )
    (row,) = read("trace", traces, photos).skipped
    assert row.where == "1/0"


@pytest.mark.parametrize("key", ["9" * 5000, "x" * 5000, "../../etc/passwd", "\\u0000", ""])
def test_names_that_no_file_has(key: str, photos: PhotoFolder) -> None:
    found = read(
        "region_set", f'{{"{key}": {{"a": [[0, 0, 5, 5]]}}, "1": {{"b": [[0, 0, 5, 5]]}}}}', photos
    )
    assert [sample.photo for sample in found.samples] == ["000000000001.jpg"]
    assert "missing" in found.skipped[0].reason


def test_an_image_has_one_id_however_it_is_written(photos: PhotoFolder) -> None:
    text = (
        '{"images": [{"id": 1, "file_name": "1"}, {"id": "1", "file_name": "1"}],'
        ' "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]}'
    )
    found = read("image", text, photos)
    assert [(sample.id, sample.references) for sample in found.samples] == [("1", ("a", "b"))]
    assert "listed already" in found.skipped[0].reason


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="cannot be read"):
        load_json(tmp_path)
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(BenchmarkDataError, match="is not JSON"):
        load_json(tmp_path / "a.json")


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


@pytest.mark.parametrize("keys", [(), (None,), ("",), ([1],), ("x", 5)])
def test_what_leads_nowhere(keys: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="is missing in"):
        PhotoFolder(tmp_path).find(*keys)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="is no folder"):
        PhotoFolder(tmp_path / "none")


corner = st.integers(-3, 12)


@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=6))
def test_the_area_is_that_of_counted_pixels(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = [Box(x, y, x + abs(w) + 1, y + abs(h) + 1) for x, y, w, h in corners]
    pixels = np.zeros((8, 10), dtype=bool)
    for box in boxes:
        left, top, right, bottom = (max(0, int(v)) for v in (box.x1, box.y1, box.x2, box.y2))
        pixels[top:bottom, left:right] = True
    assert covered_share(boxes, (10, 8)) == pytest.approx(pixels.mean())


def entry(*boxes: Any, photo: str = "000000000001.jpg") -> dict[str, Any]:
    return {"file_name": photo, "image_id": 1, "boxes": list(boxes)}


def box(name: Any, *xyxy: float) -> dict[str, Any]:
    return {"xyxy": list(xyxy), "name": name}


def test_the_class_is_the_reference(photos: PhotoFolder) -> None:
    (sample,) = read("objects", [entry(box("dog", 0, 0, 20, 10))], photos).samples
    assert sample.region == Box(0, 0, 20, 10)
    assert (sample.id, sample.references, sample.row) == ("000000000001/0", ("dog",), 0)
    assert (sample.box_count, sample.area_share) == (1, 0.25)


def test_small_boxes_are_not_asked_about_and_not_malformed(photos: PhotoFolder) -> None:
    """The photos have 800 pixels: 16 of them are 2 %, and that is not more than 2 %."""
    content = [entry(box("dog", 0, 0, 4, 4), box("cat", 0, 0, 4.1, 4))]
    found = read("objects", content, photos)
    assert [(sample.references, sample.row) for sample in found.samples] == [(("cat",), 1)]
    assert found.skipped == ()
    assert len(read("objects", content, photos, min_area_share=0.0).samples) == 2


def test_malformed_boxes_are_reported_by_index(photos: PhotoFolder) -> None:
    content = [
        entry(box("dogg", 0, 0, 9, 9), box("dog", 9, 9, 1, 1), box("dog", 0, 0, 9, 9), None),
        entry(box("dog", 0, 0, 9, 9), photo="gone.jpg") | {"image_id": 99},
        7,
        {"file_name": "000000000002.jpg"},
        entry(box("dog", 100, 100, 120, 120)),
    ]
    found = read("objects", content, photos)
    assert [sample.row for sample in found.samples] == [2]
    assert [(row.row, row.where) for row in found.skipped] == [
        (0, "[0]/boxes[0]"), (1, "[0]/boxes[1]"), (3, "[0]/boxes[3]"), (4, "[1]/boxes[0]"), (5, "[2]"),
        (6, "[3]"), (7, "[4]/boxes[0]"),
    ]  # fmt: skip
    assert "'dogg' is none of COCO's 80" in found.skipped[0].reason
    assert "gone.jpg" in found.skipped[3].reason


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_the_class_boxes_of_the_development_set() -> None:
    """One of its boxes has no height; all of its classes are known."""
    path = SHARED / "annotations/class_boxes_dev.json"
    found = task_named("objects").read(path, PhotoFolder(SHARED / "photos"))
    assert (len(found.samples), len(found.skipped)) == (459, 1)
    assert "empty or inverted" in found.skipped[0].reason
