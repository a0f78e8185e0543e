"""The quality command: table, report, exit status, usage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bootstrap import Interval
from benchmarks.measures import Measure, Target
from benchmarks.quality import main, table


def _arguments(data: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--rounds", "20", "--official", "no", *more]


def test_prints_the_table_and_writes_the_report(
    data: Path, tmp_path: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of both agree, and the report holds every caption."""
    out = tmp_path / "quality.json"
    asked = []

    def load(name: str, device: str) -> Any:
        asked.append((name, device))
        return colour_model

    assert main(_arguments(data, "--out", str(out)), load_model=load) == 0
    assert asked == [("patchioner-mini", "cpu")]
    printed = capsys.readouterr().out
    assert "| box naming, % of boxes | 45 | 55 | 100.0 | 100.0 to 100.0 | yes | 6 (3) |" in printed
    report = json.loads(out.read_text())
    measures = {row["key"]: row for row in report["measures"]}
    assert measures["box_naming"]["interval"]["value"] == 100.0
    assert measures["box_naming"]["passed"] is True
    assert report["settings"]["seed"] == 0
    assert len(report["data_sha256"]["traces"]) == 64
    assert [len(report["predictions"][k]) for k in ("images", "region_sets", "traces")] == [3, 6, 6]
    assert report["predictions"]["traces"][0]["caption"] == "a red thing here"
    assert set(report["other_metrics"]["images"]) == {"bleu4", "rouge_l"}


def test_same_command_same_figures(
    data: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bounds included."""
    outputs = []
    for _ in range(2):
        main(_arguments(data, "--seed", "4"), load_model=lambda *_: colour_model)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_check_turns_a_missed_must_into_a_status(
    data: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One photo scores CIDEr 0 (nothing is rare in a set of one), so the must is missed."""
    arguments = _arguments(data, "--limit", "1")
    assert main(arguments, load_model=lambda *_: colour_model) == 0
    assert main([*arguments, "--check"], load_model=lambda *_: colour_model) == 1
    assert "image_cider" in capsys.readouterr().err


def test_undefined_ratio_is_null_in_the_report(
    data: Path, tmp_path: Path, colour_model: Any
) -> None:
    """JSON has no NaN."""
    folder = data / "annotations"
    (folder / "traces_dev.json").write_text(
        json.dumps({"1": {"captions": ["zebra"], "traces": [[{"x": 0.1, "y": 0.1}]]}})
    )
    out = tmp_path / "q.json"
    assert main(_arguments(data, "--out", str(out)), load_model=lambda *_: colour_model) == 0
    rows = {row["key"]: row for row in json.loads(out.read_text())["measures"]}
    assert rows["traces_ratio"]["interval"]["value"] is None
    assert rows["traces_ratio"]["passed"] is False


def test_weighting_and_beam_become_values(data: Path, colour_model: Any) -> None:
    """Flags arrive at the model as the public value classes."""
    arguments = _arguments(data, "--weighting", "gaussian", "--variance", "0.5", "--beam", "3")
    main(arguments, load_model=lambda *_: colour_model)
    weighting, options = colour_model.settings[0]
    assert (weighting.kind, weighting.variance) == ("gaussian", 0.5)
    assert (options.strategy, options.beam_width) == ("beam", 3)


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, no traceback, and the model is not even loaded."""
    assert main(_arguments(tmp_path), load_model=lambda *_: pytest.fail("loaded")) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("prompt", ["a photo", "{}", "{name", "{other}"])
def test_prompt_without_a_name_is_refused(prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage error, status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["--prompt", prompt])
    assert stopped.value.code == 2
    assert "{name}" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-3", "x"])
def test_limit_must_be_positive(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage error, status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["--limit", limit])
    assert stopped.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_table_marks_misses_and_strict_musts() -> None:
    """A ratio has three digits, a strict must its sign, a miss is loud."""
    rows = [
        Measure("x_ratio", "ratio", Interval(1.02, 0.9, 1.1), 5, 2, Target(1.03, 1.15, True)),
        Measure("y", "beside", Interval(math.pi, 3, 4), 1, 1),
    ]
    assert table(rows).splitlines()[2:] == [
        "| ratio | > 1.03 | 1.15 | 1.020 | 0.900 to 1.100 | NO | 5 (2) |",
        "| beside |  |  | 3.1 | 3.0 to 4.0 |  | 1 (1) |",
    ]
