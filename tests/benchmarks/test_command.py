import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dense, region_set
from benchmarks.all import main as run_all
from benchmarks.all import read_runs
from benchmarks.command import CIDER_WARNING
from benchmarks.data import SAMPLE, TASK_NAMES
from patchioner.base.errors import OptionError, UnknownNameError
from tests.benchmarks.conftest import World, cases
from tests.support import Capture, MonkeyPatch
from tests.support.pages import Page

ROOT = Path(__file__).parents[2]
FAST = ["--java=no", "--rounds=20"]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_command_starts_on_the_sample_set(task: str, tmp_path: Path, loads: list[str], capsys: Capture) -> None:
    main = importlib.import_module(f"benchmarks.{task}").main
    assert main([*FAST, "--limit=3", "--baseline=whole", f"--out={tmp_path}"]) == 0
    printed, text = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "| patchioner-mini |" in printed
    assert (CIDER_WARNING in printed) is (CIDER_WARNING in text) is (task != "objects")
    results = json.loads((tmp_path / "results.json").read_text())
    assert Path(results["settings"]["data"]).parent == SAMPLE / "annotations"
    page = Page(text)
    page.check_alone()
    assert len(page.all("caption")) == len(page.all("table")) >= 3
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_without_out_nothing_is_left_behind(
    world: World, loads: list[str], monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(world.root / "annotations")
    world.change("region_set", lambda content: content["photo_00"].update(none=[]))
    before = sorted(Path.cwd().iterdir())
    words = [f"--data={world.file('region_set')}", "--images=../photos", *FAST, "--limit=6"]
    assert region_set.main(words) == 0
    assert "row 2 (photo_00/2)" in capsys.readouterr().out
    assert region_set.main([*words, "--strict"]) == 1
    assert "--strict" in capsys.readouterr().err
    assert sorted(Path.cwd().iterdir()) == before


def test_errors_are_one_line(loads: list[str], capsys: Capture) -> None:
    for more, message in (
        ("--baseline=wole", "'whole'"), ("--data=nowhere.json", "--images"), ("--metric=bleu", "'bleu4'"),
        ("--data=nowhere.json --images=.", "nowhere.json is missing"), ("--images=nowhere", "nowhere is no folder"),
    ):  # fmt: skip
        assert dense.main([*FAST, *more.split()]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_all_shares_the_model_and_every_backbone_pass(
    world: World, tmp_path: Path, loads: list[str], encoded: list[str], capsys: Capture
) -> None:
    runs: dict[str, Any] = {
        "sets": {"task": "region_set", "baseline": ["whole"]}, "traces": {"task": "trace", "limit": 3},
        "gaussian": {"task": "region_set", "weighting": "gaussian"}, "photos": {"task": "image", "limit": 2},
    }  # fmt: skip
    defaults = {"data": str(world.root), "java": "no", "rounds": 20}
    config, out = tmp_path / "some.yaml", tmp_path / "out"
    config.write_text(json.dumps({"defaults": defaults, "runs": runs}))  # JSON is YAML
    assert run_all(["--config", str(config), "--out", str(out)]) == 0
    assert loads == ["patchioner-mini"]
    assert sorted(encoded) == [f"photo_{index:02d}" for index in range(11)]
    printed = capsys.readouterr().out
    assert "| sets, baseline: whole |" in printed and "| gaussian |" in printed
    assert (out / "tables.md").read_text() in printed and (out / "report.html").is_file()
    assert {path.parent.name for path in out.glob("some/*/results.json")} == set(runs)
    assert region_set.main([f"--data={world.root}", *FAST, f"--out={tmp_path / 'alone'}"]) == 0
    places = (out / "some/sets", tmp_path / "alone")
    assert len({(place / "predictions.jsonl").read_bytes() for place in places}) == 1


def test_configs_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    for text, message in cases("bad_configs"):
        path.write_text(text)
        with pytest.raises((OptionError, UnknownNameError), match=message):
            read_runs(path, tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/benchmarks").glob("*.yaml")), ids=str)
def test_shipped_configs_can_be_read(path: Path, tmp_path: Path) -> None:
    runs = read_runs(path, Path("out"))
    assert len({run.folder for run in runs}) == len(runs) >= 4
    assert {"trace", "dense", "region_set", "image"} <= {run.settings.task for run in runs}
    moved = read_runs(path, Path("out"), tmp_path) if path.stem != "published" else []
    assert all(run.settings.data.startswith(str(tmp_path)) for run in moved)
