"""Going through JSON: repeated keys, texts that no file can hold, numbers beyond any float."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readers import BenchmarkDataError
from benchmarks.tasks import TASKS, PhotoFolder, Reading, ReadOptions
from benchmarks.tasks.rows import load_json, printable

POINT = '{"x": 0.5, "y": 0.5}'


def read(task: str, text: str, data: Path) -> Reading:
    path = data / "rows.json"
    path.write_text(text)
    return TASKS[task].read(path, PhotoFolder(data / "photos"), ReadOptions())


def test_repeated_keys_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": 1, "b": {"c": 0, "c": 1, "c": 2}}, {"b": 3}], "d": 1, "d": 2}')
    found = load_json(path)
    assert found.value == {"a": [{"b": {"c": 2}}, {"b": 3}], "d": 2}
    assert found.repeated == (("d", 2), ("a/0/b", 2), ("a/0/b/c", 3))
    path.write_text('{"a": {"a": 1}, "b": {"a": 1}}')
    assert load_json(path).repeated == ()


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
def test_each_reader_reports_them(task: str, text: str, where: str, data: Path) -> None:
    found = read(task, text, data)
    assert len(found.samples) == 1 and found.samples[0].photo == "000000000001.jpg"
    (row,) = found.skipped
    assert row.where == where and "stands 2 times" in row.reason
    with pytest.raises(BenchmarkDataError, match="stands 2 times"):
        found.refuse_skipped("rows.json")


def test_indices_of_rows_stay_what_they_are(data: Path) -> None:
    text = '{"1": {"a": [], "a": [], "b": [[0, 0, 5, 5]]}, "2": {"c": [[0, 0, 5, 5]]}}'
    found = read("region_set", text, data)
    assert [sample.row for sample in found.samples] == [1, 2]
    assert [row.row for row in found.skipped] == [0, 3]


def test_half_a_character_is_reported_and_can_be_written(data: Path) -> None:
    text = (
        r'{"1": {"a \ud800": [[0, 0, 5, 5]], "b": [[0, 0, 5, 5]]}, "\udfff": {"c": [[0, 0, 5, 5]]}}'
    )
    found = read("region_set", text, data)
    assert [sample.id for sample in found.samples] == ["1/1"]
    assert "half a character" in found.skipped[0].reason
    for row in found.skipped:
        assert str(row).encode()
    assert printable("a \U0001f600 b") == "a \U0001f600 b"


@pytest.mark.parametrize("number", ["9" * 400, "1e999", "-Infinity", "NaN"])
def test_numbers_beyond_any_photo(number: str, data: Path) -> None:
    boxes = f'{{"1": {{"a": [[0, 0, {number}, 9]], "b": [[0, 0, 5, 5]]}}}}'
    (row,) = read("region_set", boxes, data).skipped
    assert row.where == "1/0" and len(row.reason) <= 400
    traces = (
        f'{{"1": {{"captions": ["a", "b"], "traces": [[{{"x": {number}, "y": 0}}], [{POINT}]]}}}}'
    )
    (row,) = read("trace", traces, data).skipped
    assert row.where == "1/0"


@pytest.mark.parametrize("key", ["9" * 5000, "x" * 5000, "../../etc/passwd", "\\u0000", ""])
def test_names_that_no_file_has(key: str, data: Path) -> None:
    found = read(
        "region_set", f'{{"{key}": {{"a": [[0, 0, 5, 5]]}}, "1": {{"b": [[0, 0, 5, 5]]}}}}', data
    )
    assert [sample.photo for sample in found.samples] == ["000000000001.jpg"]
    assert "missing" in found.skipped[0].reason


def test_an_image_has_one_id_however_it_is_written(data: Path) -> None:
    text = (
        '{"images": [{"id": 1, "file_name": "1"}, {"id": "1", "file_name": "1"}],'
        ' "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]}'
    )
    found = read("image", text, data)
    assert [(sample.id, sample.references) for sample in found.samples] == [("1", ("a", "b"))]
    assert "listed already" in found.skipped[0].reason


def test_an_image_that_is_listed_with_two_files_is_reported(data: Path) -> None:
    text = (
        '{"images": [{"id": 1, "file_name": "1"}, {"id": 1, "file_name": "2"}, 5],'
        ' "annotations": [{"image_id": 1, "caption": "a", "bbox": [0, 0, 5, 5]}]}'
    )
    found = read("dense", text, data)
    assert [sample.photo for sample in found.samples] == ["000000000001.jpg"]
    assert [row.where for row in found.skipped] == ["images[1]", "images[2]"]
    assert "the first one counts" in found.skipped[0].reason


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="cannot be read"):
        load_json(tmp_path)
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(BenchmarkDataError, match="is not JSON"):
        load_json(tmp_path / "a.json")
