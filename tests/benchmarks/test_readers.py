"""Readers: the tiny folder, files that are wrong, and the real folder where it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.readers import BenchmarkDataError, DevSets, file_name

REAL = Path(__file__).parents[2].parent / "shared" / "data"
FIRST = "000000000001.jpg"


def test_images(data: Path) -> None:
    """Captions are grouped by photo."""
    sample = DevSets(data).images()[0]
    assert sample.photo == FIRST
    assert sample.references == ("a red green thing here", "the red green thing here")


def test_region_sets(data: Path) -> None:
    """A newline in a key separates references of one set."""
    first, second, *_ = DevSets(data).region_sets()
    assert first.photo == FIRST
    assert first.references == ("a red thing here", "some red thing")
    assert first.boxes == ((2.0, 2.0, 18.0, 18.0),)
    assert len(second.boxes) == 2


def test_traces(data: Path) -> None:
    """Trace i belongs to caption i; the time is dropped."""
    first, second, *_ = DevSets(data).traces()
    assert first.points == ((0.1, 0.2), (0.3, 0.2))
    assert second.references == ("a green thing here",)


def test_class_boxes(data: Path) -> None:
    """Shares come from the photo's size; small boxes and skipped names go."""
    every = DevSets(data).class_boxes()
    assert len(every) == 12
    assert every[0].area_share == pytest.approx(16 * 16 / 800)
    kept = DevSets(data).class_boxes(min_area_share=0.02, without=["person"])
    assert len(kept) == 6
    assert {sample.name for sample in kept} == {"red", "green", "blue", "yellow", "cyan"}


def test_class_names_in_the_order_of_ids(data: Path) -> None:
    """The file lists them backwards."""
    assert DevSets(data).class_names()[:2] == ("red", "green")


def test_dense(data: Path) -> None:
    """Phrases of one box are its references together."""
    first, second = DevSets(data).dense()
    assert first.references == ("the red half", "red side")
    assert second.box == (22.0, 2.0, 38.0, 18.0)


def test_fingerprints_follow_the_content(data: Path) -> None:
    """A changed file has another fingerprint."""
    before = DevSets(data).fingerprints()
    (data / "annotations" / "traces_dev.json").write_text("{}")
    after = DevSets(data).fingerprints()
    assert before["traces"] != after["traces"]
    assert before["images"] == after["images"]


def test_file_names() -> None:
    """Numbers are padded, names kept."""
    assert file_name("7") == "000000000007.jpg"
    assert file_name("street_2") == "street_2.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "is not JSON"),
        ('{"images": []}', "KeyError: 'annotations'"),
        ("[]", "another set"),
        (json.dumps({"images": [{"id": 1, "file_name": "a"}],
                     "annotations": [{"image_id": 2, "caption": "x"}]}), "KeyError: 2"),
    ],
)  # fmt: skip
def test_wrong_file(data: Path, content: str, message: str) -> None:
    """The error names the file and what is the matter."""
    (data / "annotations" / "image_captions_dev.json").write_text(content)
    with pytest.raises(BenchmarkDataError, match=message) as caught:
        DevSets(data).images()
    assert "image_captions_dev.json" in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    """The remedy is in the message."""
    with pytest.raises(BenchmarkDataError, match="holds annotations/ and photos/"):
        DevSets(tmp_path).traces()


def test_box_with_three_numbers(data: Path) -> None:
    """Shown as it is."""
    (data / "annotations" / "region_sets_dev.json").write_text('{"1": {"a": [[1, 2, 3]]}}')
    with pytest.raises(BenchmarkDataError, match=r"\[1\.0, 2\.0, 3\.0\]"):
        DevSets(data).region_sets()


def test_missing_photo(data: Path) -> None:
    """A photo that is not there is named."""
    (data / "photos" / FIRST).unlink()
    with pytest.raises(BenchmarkDataError, match=FIRST):
        DevSets(data).class_boxes()


@pytest.mark.skipif(not REAL.is_dir(), reason="the development data is not beside the checkout")
def test_real_folder() -> None:
    """Counts of the sets as their description gives them."""
    sets = DevSets(REAL)
    images = sets.images()
    assert (len(images), sum(len(sample.references) for sample in images)) == (121, 605)
    assert len(sets.region_sets()) == 150
    assert len(sets.traces()) == 150
    assert len(sets.class_names()) == 80
    names = set(sets.class_names())
    assert {sample.name for sample in sets.class_boxes(min_area_share=0.02)} <= names
    assert sum(len(sample.references) for sample in sets.dense()) == 340


def test_instances_have_outlines_and_no_crowds(data: Path) -> None:
    """COCO boxes become XYXY; the share is that of the outline; a file of another form is refused."""
    entry = {"image_id": 1, "bbox": [2, 3, 10, 6], "area": 40, "category_id": 0, "iscrowd": 0}
    crowd = entry | {"iscrowd": 1, "segmentation": {"counts": [0], "size": [20, 40]}}
    ring = {"segmentation": [[2, 3, 12, 3, 12, 9]]}
    content = {
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "person"}],
        "images": [{"id": 1, "file_name": "000000000001.jpg", "width": 40, "height": 20}],
        "annotations": [entry | ring, crowd, entry | ring | {"category_id": 1}],
    }
    path = data / "annotations" / "instances_dev.json"
    path.write_text(json.dumps(content))
    (found,) = DevSets(data).instances(without=["person"])
    assert (found.box, found.size, found.area_share) == ((2.0, 3.0, 12.0, 9.0), (40, 20), 0.05)
    assert found.polygons == ((2.0, 3.0, 12.0, 3.0, 12.0, 9.0),)
    assert len(DevSets(data).instances()) == 2
    path.write_text(json.dumps({"categories": []}))
    with pytest.raises(BenchmarkDataError, match="instances_dev"):
        DevSets(data).instances()
