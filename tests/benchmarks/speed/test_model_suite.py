"""The default suite with a tiny model: what is timed, what is printed; never how long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.speed import Row, main, make_photo, random_boxes, table, time_model
from benchmarks.timing import Timing
from patchioner import Patchioner
from tests.benchmarks.conftest import Encoded


def test_boxes_are_inside_different_and_seeded() -> None:
    """So that no two regions share their embedding and any run has the same ones."""
    boxes = random_boxes(50, (640, 480), seed=1)
    assert len({(box.x1, box.y1, box.x2, box.y2) for box in boxes}) == 50
    assert all(0 <= box.x1 < box.x2 <= 640 and 0 <= box.y1 < box.y2 <= 480 for box in boxes)
    assert boxes == random_boxes(50, (640, 480), seed=1)


def test_photo_is_the_same_each_time(tmp_path: Path) -> None:
    """Generated, 640 x 480."""
    first, second = make_photo(tmp_path / "a.jpg"), make_photo(tmp_path / "b.jpg")
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert image.size == (640, 480)


def test_rows(tmp_path: Path, model: Patchioner, encoded: Encoded) -> None:
    """One for the backbone, one per count, and captions never encode the photo again."""
    rows = time_model(model, make_photo(tmp_path / "a.jpg"), [1, 20], rounds=2)
    assert [row.timing.label for row in rows] == [
        "encode one photo", "caption 1 box", "caption 20 boxes",
    ]  # fmt: skip
    assert rows[0].ratio == 1.0
    assert all(len(row.timing.seconds) == 2 for row in rows)
    assert len(encoded) == 1 + 2 + 1  # warm-up, rounds, features for the captions


def test_command(tmp_path: Path, model: Patchioner, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the table and writes every round."""
    out = tmp_path / "speed.json"
    arguments = ["--no-starts", "--rounds", "2", "--regions", "1", "3", "--json", str(out)]
    assert main(arguments, load_model=lambda *_: model) == 0
    assert "| caption 3 boxes |" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [len(row["timing"]["seconds"]) for row in report["rows"]] == [2, 2, 2]
    assert report["machine"]["threads"]
    assert report["torch_at_import"] is None


def test_unreadable_photo_is_one_line(
    tmp_path: Path, model: Patchioner, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 and no traceback."""
    arguments = ["--no-starts", "--photo", str(tmp_path / "none.jpg")]
    assert main(arguments, load_model=lambda *_: model) == 1
    assert "none.jpg" in capsys.readouterr().err


def test_table_units() -> None:
    """Milliseconds below a second, seconds above."""
    rows = [Row(Timing("a", (0.0123, 0.2, 0.5)), 2.0, 100.4), Row(Timing("b", (1.5,)))]
    assert table(rows).splitlines()[2:] == [
        "| a | 200 ms | 12.3 ms to 500 ms | 2.00 | 100 |",
        "| b | 1.50 s | 1.50 s to 1.50 s |  |  |",
    ]
