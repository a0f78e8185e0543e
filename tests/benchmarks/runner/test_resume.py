"""A run that was interrupted ends as one that was not, and asks nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readers import BenchmarkDataError
from patchioner.base.errors import OptionError
from tests.support.tiny import noise_photo, tiny_parts

BASELINES = ("whole", "crop")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the one that holds times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_each_photo_passes_the_backbone_once(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path / "out", baselines=BASELINES)
    assert sorted(world.talker.encoded) == [f"photo_{index:02d}" for index in range(11)]


def test_two_runs_give_identical_files(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path / "one", baselines=BASELINES)
    world.run(tmp_path / "two", baselines=BASELINES)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_predictions_lie_in_the_order_of_photos(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    text = (tmp_path / "predictions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["photo"] for line in lines] == sorted(line["photo"] for line in lines)
    assert set(lines[0]) == {
        "id", "photo", "row", "region", "caption", "score", "references", "box_count", "area_share",
    }  # fmt: skip
    assert len({line["id"] for line in lines}) == 27


@pytest.mark.parametrize("done", [0, 1, 3, 4, 8, 10])
def test_an_interrupted_run_goes_on(world: Any, tmp_path: Path, done: int) -> None:
    """At most the group of three photos under way is asked again."""
    world.run(tmp_path / "whole", baselines=BASELINES)
    world.talker.encoded.clear()
    world.talker.fail_after = done
    with pytest.raises(KeyboardInterrupt):
        world.run(tmp_path / "broken", baselines=BASELINES)
    world.talker.fail_after = None
    world.talker.encoded.clear()
    world.run(tmp_path / "broken", baselines=BASELINES, resume=True)
    assert len(world.talker.encoded) == 11 - done // 3 * 3
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_finished_run_asks_nothing(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path, baselines=BASELINES)
    before = contents(tmp_path)
    asked = world.talker.captioned
    world.talker.encoded.clear()
    world.run(tmp_path, baselines=BASELINES, resume=True)
    assert (world.talker.encoded, world.talker.captioned) == ([], asked)
    assert contents(tmp_path) == before


def test_a_file_cut_at_any_byte_is_mended(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    for size in range(0, len(whole), 331):
        path.write_bytes(whole[:size])
        world.run(tmp_path, resume=True)
        assert path.read_bytes() == whole


def test_further_baselines_and_metrics_can_come_later(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    asked = world.talker.captioned
    outcome = world.run(tmp_path, baselines=("whole",), metrics=("stem_f",), rounds=30, resume=True)
    assert world.talker.captioned == asked + 11  # the whole photos, once each
    assert set(outcome.results["baselines"]) == {"whole"}


@pytest.mark.parametrize(
    "change",
    [{"limit": 5}, {"seed": 1}, {"weighting": "uniform"}, {"batch": 4}, {"beam": 2}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_refused(world: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    world.run(tmp_path)
    with pytest.raises(OptionError, match=rf"other settings \(settings\.{next(iter(change))}: "):
        world.run(tmp_path, resume=True, **change)


def test_other_data_is_refused(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    path = world.root / "region_set.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(OptionError, match=r"other settings \(data\.data: "):
        world.run(tmp_path, resume=True)


def test_without_resume_predictions_are_not_overwritten(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="--resume goes on with them"):
        world.run(tmp_path)
    assert contents(tmp_path) == before


def test_a_damaged_line_is_named(world: Any, tmp_path: Path) -> None:
    world.run(tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{nonsense\n", *lines[2:]]))
    with pytest.raises(BenchmarkDataError, match=r"line 2 of .* is damaged"):
        world.run(tmp_path, resume=True)
    path.write_bytes(b"".join([lines[1], *lines]))
    with pytest.raises(BenchmarkDataError, match="other samples"):
        world.run(tmp_path, resume=True)


def test_a_killed_process_leaves_nothing_undone(tmp_path: Path) -> None:
    """The real command with a real (tiny, random) model, killed while it writes."""
    from patchioner import Patchioner

    Patchioner(tiny_parts(), device="cpu").save_pretrained(tmp_path / "model", storage="fp32")
    (tmp_path / "photos").mkdir()
    rows = {}
    for index in range(60):
        noise_photo(seed=index).save(tmp_path / "photos" / f"p{index:02d}.jpg")
        rows[f"p{index:02d}"] = {"a red cat": [[1, 1, 40, 40]], "a dog": [[30, 20, 90, 60]]}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [
        sys.executable, "-m", "benchmarks.region_set", "--model", str(tmp_path / "model"), "--data",
        str(tmp_path / "rows.json"), "--images", str(tmp_path / "photos"), "--batch", "2",
        "--java", "no", "--rounds", "20", "--baseline", "whole", "--baseline", "nearest", "--resume",
    ]  # fmt: skip
    here = {"cwd": Path(__file__).parents[3], "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = subprocess.Popen([*command, "--out", str(broken)], **here)  # type: ignore[call-overload]
    lines = broken / "predictions.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if lines.is_file() and lines.read_bytes().count(b"\n") >= 8:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait(timeout=60)
    assert 8 <= lines.read_bytes().count(b"\n") < 120, "killed too late to show anything"
    for folder in (broken, whole):
        done = subprocess.run([*command, "--out", str(folder)], capture_output=True, **here)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr.decode()
    assert lines.read_bytes().count(b"\n") == 120
    again = json.loads((broken / "run.json").read_text())["photos_through_the_backbone"]
    assert again < json.loads((whole / "run.json").read_text())["photos_through_the_backbone"] == 60
    assert contents(broken) == contents(whole)
