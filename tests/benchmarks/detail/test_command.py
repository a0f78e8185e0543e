"""`python -m benchmarks.detail` on four photos of noise and a tiny model: reports, bars, exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bootstrap import Interval
from benchmarks.detail import command, did_tables, planted_part
from benchmarks.detail.command import PARTS, main
from benchmarks.detail.part import PartResult, Setup, figure, markdown_table
from benchmarks.detail.planted import KindResult
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from tests.support.tiny import tiny_parts


def _run(data: Path, out: Path, model: Patchioner, *more: str) -> int:
    arguments = ["--data", str(data), "--out", str(out), "--java", "no", "--words", "40", *more]
    return main(arguments, load_model=lambda name: model)


def test_all_parts_in_one_report(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    assert _run(detail_data, tmp_path, tiny_detail_model) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    assert text.count("\n## ") == len(PARTS)
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(values["parts"]) == list(PARTS)
    assert (tmp_path / "planted.svg").read_text(encoding="utf-8").startswith("<svg")
    for name in ("did", "end-to-end"):
        assert values["parts"][name]["photos"] == 4
    assert _table_widths(text)


def test_a_limited_part_as_json(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    status = _run(
        detail_data, tmp_path, tiny_detail_model, "--parts", "objects", "--limit", "2", "--json"
    )
    values = json.loads(capsys.readouterr().out)
    assert status == 0
    assert values["settings"]["limit"] == 2
    assert values["parts"]["objects"]["photos"] == 2
    assert list(values["parts"]) == ["objects"]


def test_the_same_run_gives_the_same_report(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner
) -> None:
    for name in ("a", "b"):
        _run(detail_data, tmp_path / name, tiny_detail_model, "--parts", "did", "objects")
    assert (tmp_path / "a/report.md").read_bytes() == (tmp_path / "b/report.md").read_bytes()


def test_a_missed_bar_is_told_and_with_check_is_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def missing(setup: Setup) -> PartResult:
        return PartResult("Title", "Text.", {}, ("CIDEr 1.00, extractive 2.00",))

    monkeypatch.setattr(command, "PARTS", {**PARTS, "did": missing})
    arguments = ["--out", str(tmp_path), "--parts", "did", "--java", "no"]
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 1
    told = capsys.readouterr()
    assert "missed: did: CIDEr 1.00, extractive 2.00" in told.err
    assert "**Missed**: CIDEr 1.00" in told.out


def test_one_photo_or_no_calibration_or_no_data_is_an_error_with_a_remedy(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    limited = "--parts", "objects", "--limit", "1"
    assert _run(detail_data, tmp_path, tiny_detail_model, *limited) == 1
    assert "give at least 2" in capsys.readouterr().err
    assert _run(tmp_path / "nothing", tmp_path, tiny_detail_model, "--parts", "did") == 1
    assert "give the folder" in capsys.readouterr().err
    raw = Patchioner(tiny_parts(), device="cpu")
    assert _run(detail_data, tmp_path, raw, "--parts", "planted") == 1
    assert "patchioner.detail.calibrate" in capsys.readouterr().err


def test_the_wrong_texts_of_all_shifts_are_one_row() -> None:
    photos = _did_photos()
    texts = [photo.references[0] for photo in photos]
    wrong = {
        f"{did_tables.WRONG} {shift}": did_tables.score_texts(
            photos, [*texts[shift:], *texts[:shift]], None
        )
        for shift in (1, 2)
    }
    block = {"ours": did_tables.score_texts(photos, texts, None), **wrong}
    rows = did_tables.did_table(block).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "ours",
        "another photo's text, mean of 2",
    ]
    assert len(did_tables.gains_table(block).splitlines()) == 3


def test_stopped_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(setup: Setup) -> PartResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "PARTS", {**PARTS, "did": stopped})
    assert main(["--out", str(tmp_path), "--parts", "did", "--java", "no"]) == 130
    assert "goes on" in capsys.readouterr().err


def test_planted_bars() -> None:
    def row(kind: str, dropped: float) -> KindResult:
        return KindResult(kind, 9, Interval(dropped, 0, 1), dropped, 0.9, (1.0,) * 11)

    rows = [row("colour", 0.1), row("object", 0.6)]
    assert planted_part.missed_bars(Interval(0.95, 0.9, 1.0), rows) == ()
    missed = planted_part.missed_bars(Interval(0.8, 0.7, 0.9), [row("object", 0.4)])
    assert len(missed) == 2


def test_tables_and_figures() -> None:
    assert "| a/b | 1 |" in markdown_table(["x", "y"], [["a|b", "1"]])
    assert figure(-0.001, -2, 2, digits=2) == "0.00 (-2.00 to 2.00)"


def test_setup_loads_its_model_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        if len(asked) > 1:
            raise OptionError("loaded twice")
        return object()

    setup = Setup(tmp_path, tmp_path, load, "mine")
    assert setup.model is setup.model
    assert asked == ["mine"]


def _did_photos() -> Any:
    from benchmarks.detail.did import DidPhoto

    words = ("dog sits on a red couch", "bus waits at a long street", "cat sleeps under the table")
    return [
        DidPhoto(f"{place}.jpg", (10, 10), (), (), (f"A {text} in the quiet afternoon.",))
        for place, text in enumerate(words)
    ]


def _table_widths(text: str) -> bool:
    """Every row of every table has as many cells as its head."""
    width = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = line.count("|")
        if width not in (None, cells):
            return False
        width = cells
    return True
