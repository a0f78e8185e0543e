"""The four commands and `benchmarks.all`: arguments, exit status, what is printed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dense, image, region_set, trace
from benchmarks.all import main as run_all
from benchmarks.all import read_runs
from benchmarks.tasks import TASKS
from patchioner.base.errors import OptionError, UnknownNameError

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
COMMANDS = {
    "trace": (trace.main, "traces_dev.json"),
    "dense": (dense.main, "dense_refcocos_dev.json"),
    "region_set": (region_set.main, "region_sets_dev.json"),
    "image": (image.main, "image_captions_dev.json"),
}


def words(data: Path, task: str, *more: str) -> list[str]:
    path = data / "annotations" / COMMANDS[task][1]
    images = data / "photos"
    return [f"--data={path}", f"--images={images}", "--java=no", "--rounds=20", *more]


def test_every_task_has_its_command() -> None:
    for task in TASKS:
        assert callable(importlib.import_module(f"benchmarks.{task}").main)


@pytest.mark.parametrize("task", COMMANDS)
def test_a_run_prints_a_table_and_writes_its_files(
    task: str, data: Path, tmp_path: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = words(data, task, f"--out={out}", "--baseline=whole", "--device=cpu")
    assert COMMANDS[task][0](arguments, load_model=lambda *_: colour_model) == 0
    printed = capsys.readouterr().out
    assert "| patchioner-mini |" in printed and "| baseline: whole |" in printed
    assert (out / "results.json").is_file() and (out / "predictions.jsonl").is_file()
    assert len(colour_model.encoded) == len(set(colour_model.encoded)), "one pass a photo"
    cider = json.loads((out / "results.json").read_text())["metrics"]["cider"]["value"]
    assert cider > 0


def test_without_out_nothing_is_left_behind(
    data: Path,
    colour_model: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert region_set.main(words(data, "region_set"), load_model=lambda *_: colour_model) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert "cider" in capsys.readouterr().out


def test_left_out_rows_are_printed(
    data: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "annotations" / "region_sets_dev.json"
    content = json.loads(path.read_text())
    content["1"]["no boxes here"] = []
    path.write_text(json.dumps(content))
    assert region_set.main(words(data, "region_set"), load_model=lambda *_: colour_model) == 0
    assert "row 2 (1/2): the list of boxes is empty" in capsys.readouterr().out
    strict = words(data, "region_set", "--strict")
    assert region_set.main(strict, load_model=lambda *_: colour_model) == 1
    assert "without --strict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline=wole"], "did you mean 'whole'"),
        (["--data=nowhere.json"], "nowhere.json is missing"),
        (["--images=nowhere"], "nowhere is no folder"),
        (["--metric=bleu"], "module:function"),
        (["--temperature=0.5"], "cannot be set on a ColourModel"),
    ],
)
def test_errors_are_one_line(
    more: list[str], message: str, data: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dense.main(words(data, "dense", *more), load_model=lambda *_: colour_model) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "bad",
    [
        "--limit=0",
        "--seed=-1",
        "--variance=-1",
        "--variance=nan",
        "--temperature=0",
        "--weighting=x",
    ],
)
def test_values_outside_of_what_is_allowed(bad: str) -> None:
    with pytest.raises(SystemExit):
        dense.main([bad])


def write_config(path: Path, data: Path, **runs: dict[str, Any]) -> Path:
    defaults = {"images": str(data / "photos"), "java": "no", "rounds": 20}
    filled = {
        name: {"data": str(data / "annotations" / COMMANDS[run["task"]][1]), **run}
        for name, run in runs.items()
    }
    path.write_text(json.dumps({"defaults": defaults, "runs": filled}))  # JSON is YAML
    return path


def test_all_shares_the_model_and_every_backbone_pass(
    data: Path, tmp_path: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = []

    def load(name: str, device: str) -> Any:
        loaded.append(name)
        return colour_model

    config = write_config(
        tmp_path / "some.yaml", data, sets={"task": "region_set", "baseline": ["whole"]},
        gaussian={"task": "region_set", "weighting": "gaussian"}, traces={"task": "trace"},
        photos={"task": "image", "limit": 2},
    )  # fmt: skip
    out = tmp_path / "out"
    assert run_all(["--config", str(config), "--out", str(out)], load_model=load) == 0
    assert loaded == ["patchioner-mini"]
    assert sorted(colour_model.encoded) == [f"{key:012d}.jpg" for key in (1, 2, 3)]
    printed = capsys.readouterr().out
    assert "| sets, baseline: whole |" in printed and "| gaussian |" in printed
    assert (out / "tables.md").read_text() in printed
    assert {path.parent.name for path in out.glob("some/*/results.json")} == {
        "sets", "gaussian", "traces", "photos",
    }  # fmt: skip


def test_a_run_of_all_is_the_run_of_its_command(
    data: Path, tmp_path: Path, colour_model: Any
) -> None:
    """Other tasks beside it change nothing: predictions are the same bytes."""
    config = write_config(
        tmp_path / "some.yaml", data, sets={"task": "region_set"}, traces={"task": "trace"}
    )
    together, alone = tmp_path / "together", tmp_path / "alone"
    run_all(["--config", str(config), "--out", str(together)], load_model=lambda *_: colour_model)
    arguments = words(data, "region_set", f"--out={alone}")
    region_set.main(arguments, load_model=lambda *_: colour_model)
    name = "predictions.jsonl"
    assert (together / "some/sets" / name).read_bytes() == (alone / name).read_bytes()


def test_only_some_runs(data: Path, tmp_path: Path, colour_model: Any, capsys: Any) -> None:
    config = write_config(tmp_path / "c.yaml", data, one={"task": "dense"}, two={"task": "trace"})
    arguments = ["--config", str(config), "--out", str(tmp_path / "out"), "--only"]
    assert run_all([*arguments, "two"], load_model=lambda *_: colour_model) == 0
    assert [path.name for path in (tmp_path / "out/c").iterdir()] == ["two"]
    assert run_all([*arguments, "tow"], load_model=lambda *_: colour_model) == 1
    assert "did you mean two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "is not YAML"),
        ("defaults: {}", "has no runs"),
        ("runs: {a: {task: dense}}\nrun: {}", "did you mean runs"),
        ("runs: {a: {weighting: uniform}}", "must name its task"),
        ("runs: {a: 3}", "must hold options"),
        ("runs: {a: {task: dense, weigthing: uniform}}", "unrecognized arguments: --weigthing"),
        ("runs: {a: {task: dense, limit: none}}", "limit"),
        ("runs: {a: {task: dense, out: here}}", "command line"),
        ("runs: {../a: {task: dense}}", "becomes a folder"),
    ],
)
def test_configs_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_runs(path, tmp_path)


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("runs: {a: {task: tracing}}")
    with pytest.raises(UnknownNameError, match="'trace'"):
        read_runs(path, tmp_path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/benchmarks").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_configs_can_be_read(path: Path) -> None:
    runs = read_runs(path, Path("out"))
    assert len({run.folder for run in runs}) == len(runs) >= 4
    assert set(COMMANDS) <= {run.settings.task for run in runs} <= set(TASKS)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development sets are not here")
def test_the_shipped_model_on_the_development_sets(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The documented command, with its defaults: no row is left out and the region beats nothing at all."""
    monkeypatch.chdir(ROOT)
    assert region_set.main(["--limit=12", "--java=no", "--baseline=random"]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "(" in line]
    mine, chance = (float(line[3].split()[0]) for line in lines)
    assert mine > 3 * chance
