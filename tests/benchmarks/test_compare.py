"""Runs side by side: tables, verdicts, refusals, and the published rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dense, region_set
from benchmarks.compare import main
from benchmarks.published import MARK, SOURCES, published_rows
from benchmarks.tasks import TASKS

Start = Callable[..., str]


@pytest.fixture
def start(data: Path, tmp_path: Path, colour_model: Any) -> Start:
    """Runs a task into a folder and returns its path."""

    def run(name: str, *more: str, task: Any = region_set, file: str = "region_sets_dev") -> str:
        out = tmp_path / "runs" / name
        words = [f"--data={data / 'annotations' / file}.json", f"--images={data / 'photos'}"]
        words += ["--java=no", "--rounds=50", f"--out={out}", *more]
        assert task.main(words, load_model=lambda *_: colour_model) == 0
        return str(out)

    return run


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command prints."""

    def ask(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return ask


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What it says when it refuses."""

    def ask(*words: str) -> str:
        assert main(list(words)) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return ask


def rows(text: str) -> dict[str, list[str]]:
    """First cells -> the other cells of every line of a table; of equal ones the first."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(first, rest)
    return found


def test_scores_differences_and_published_rows(start: Start, said: Callable[..., str]) -> None:
    folder = start("sets", "--baseline=whole")
    text = said(folder, "--baselines")
    results = json.loads((Path(folder) / "results.json").read_text())
    below = results["baselines"]["whole"]["metrics"]
    scores, differences, published = text.split("\n\n|")[0:1], text, text
    assert scores[0].startswith("## region-set captioning")
    assert rows(text)["metric"] == ["patchioner-mini", "baseline: whole"]
    for cell, metrics in zip(rows(text)["CIDEr"], (results["metrics"], below), strict=True):
        assert cell.startswith(f"{metrics['cider']['value']:.1f} (")
    after = differences[differences.index("Differences") :]
    assert rows(after)["metric"] == ["baseline: whole minus patchioner-mini"]
    gain = below["cider"]["value"] - results["metrics"]["cider"]["value"]
    assert rows(after)["CIDEr"][0].startswith(f"{gain:+.1f} (")
    assert "▼ worse" in rows(after)["repeated pairs, % (lower is better)"][0]
    assert "one in twenty" in after
    assert f"{MARK[0].upper()}{MARK[1:]}:" in published
    assert rows(text)["Patch-ioner, best setting"][1] == "111.6"


def test_json_holds_the_same(start: Start, said: Callable[..., str]) -> None:
    one, other = start("a"), start("b", "--weighting=gaussian")
    found = json.loads(said(one, other, "--json"))["region_set"]
    assert list(found["runs"]) == ["patchioner-mini", "patchioner-mini (weighting gaussian)"]
    (difference,) = found["differences"]
    assert difference["against"] == "patchioner-mini" and difference["same_data"] is True
    cider = next(one for one in difference["changes"] if one["metric"] == "cider")
    assert cider["verdict"] == "within noise" and cider["method"] == "paired"
    assert found["published"]["mark"] == MARK


def test_different_data_is_refused(
    start: Start, said: Callable[..., str], refused: Callable[..., str], data: Path
) -> None:
    path = data / "annotations" / "region_sets_dev.json"
    content = json.loads(path.read_text())
    content.pop("3")
    (data / "annotations" / "fewer.json").write_text(json.dumps(content))
    one, other = start("a"), start("b", "--limit=3", file="fewer")
    message = refused(one, other)
    assert "are of different data" in message and "--allow-different-data" in message
    text = said(one, other, "--allow-different-data")
    assert "unpaired: different data" in text and "not like with like" in text
    assert "as if the samples were different" in text


def test_one_run_is_nothing_to_compare(start: Start, refused: Callable[..., str]) -> None:
    one = start("a")
    other = start("b", task=dense, file="dense_refcocos_dev")
    assert "nothing to compare" in refused(one)
    message = refused(one, other)
    assert "patchioner-mini (region_set), patchioner-mini (dense)" in message


def test_a_folder_of_runs(start: Start, said: Callable[..., str], tmp_path: Path) -> None:
    start("a")
    start("b", "--weighting=uniform")
    start("c", task=dense, file="dense_refcocos_dev")
    text = said(str(tmp_path / "runs"))
    assert "## region-set captioning" in text and "## dense captioning" in text


def test_a_folder_without_runs(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "holds no results.json" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "model", "data", "values"),
    [
        ("A", "T2D + memory", "COCO Entities", {"cider": 109.1, "P": 87.5}),
        ("A", "T2D + memory", "VG v1.2", {"mAP": 21.31, "cider": 31.9, "P": 78.8}),
        ("A", "T2D + noise", "COCO traces", {"cider": 29.3, "P": 78.1}),
        ("A", "ZeroCap", "COCO", {"cider": 14.6}),
        ("A", "MAGIC", "Flickr30k", {"cider": 17.5}),
        ("A", "DeCap (reproduced by them)", "Flickr30k", {"cider": 40.0, "P": 84.8, "clip_s": 76.3}),
        ("B", "Patch-ioner@518, 37 patches, DINOv2 B14, patches, gaussian", "not printed",
         {"mAP": 22.0, "meteor": 10.82, "bleu4": 1.43, "rouge_l": 18.82, "cider": 32.80, "spice": 15.48,
          "P": 79.14}),
        ("C", "DeCap@592, CLIP B16, CLS", "COCO traces",
         {"bleu4": 2.0, "meteor": 9.6, "rouge_l": 21.5, "cider": 20.5, "spice": 8.7, "P": 75.3}),
        ("D", "baseline, best setting", "not printed",
         {"mAP": 18.0, "bleu4": 1.4, "meteor": 10.3, "rouge_l": 18.5, "cider": 24.9, "spice": 11.3, "P": 77.7}),
    ],
)  # fmt: skip
def test_published_values(source: str, model: str, data: str, values: dict[str, float]) -> None:
    found = [
        row.values
        for row in published_rows()
        if (row.source, row.model, row.data) == (source, model, data)
    ]
    assert values in found


def test_published_rows_are_whole() -> None:
    everything = published_rows()
    counts = {key: sum(row.source == key for row in everything) for key in SOURCES}
    # Of A, the filled cells: 6 models with CIDEr alone have 10, three x 8, RegionCLIP 4, AlphaCLIP 8, four x 8.
    assert counts == {"A": 10 + 24 + 4 + 8 + 32, "B": 17, "C": 6, "D": 8}
    assert {row.task for row in everything} == set(TASKS) - {"objects"}
    assert sum(row.note == "attention-based weighting" for row in everything) == 6
    assert all(0 < value < 120 for row in everything for value in row.values.values())
