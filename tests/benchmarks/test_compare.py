import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.command import CIDER_WARNING
from benchmarks.compare import Change, changes, main, published_rows, read_runs
from benchmarks.scoring import bootstrap_mean
from tests.benchmarks.conftest import Finished, World
from tests.support import Capture

Start = Callable[..., Path]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Start:
    return lambda name, **changes: world.run(tmp_path / "runs" / name, **changes).run.folder


def by_metric(first: Path, second: Path) -> dict[str, Change]:
    return {change.metric: change for change in changes(*read_runs([first, second]))}


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


WHOLE = {
    "region_set": {"grounding_margin", "grounding_wins", "repeated_pairs"},
    "objects": {"object_margin", "object_wins", "object_hits_but_person", "repeated_pairs"},
    "dense": {"mAP (stem-F)"},
}


@pytest.mark.parametrize(("task", "whole"), WHOLE.items())
def test_whole_scores_differ_as_the_results(task: str, whole: set[str], finished: Finished) -> None:
    """Measured anew from the predictions, with an interval around exactly the difference that the tables show."""
    folder = finished(task)
    found = by_metric(folder / "baselines/whole", folder)
    one, other = read_runs([folder / "baselines/whole", folder])
    assert whole <= found.keys()
    for name in whole:
        change, values = found[name], [run.metrics[name]["value"] for run in (one, other)]
        assert change.value == pytest.approx(values[1] - values[0], abs=1e-9)
        assert change.low is not None and change.high is not None
        assert change.low <= change.value <= change.high
    if task == "region_set":
        assert found["repeated_pairs"].verdict == "better", "the less there is"
        photos = [prediction.photo for prediction in other.by_id.values()]
        before, after = (np.array(list(run.scores("stem_f").values())) for run in (one, other))
        due, paired = bootstrap_mean(after - before, photos, rounds=20, seed=0), found["stem_f"]
        assert (paired.value, paired.low, paired.high) == (due.value, due.low, due.high)


def test_what_is_said_of_a_difference(start: Start, finished: Finished) -> None:
    one, other = start("a"), start("b", limit=4)
    found = by_metric(one, other)
    assert "over the 4 samples" in found["cider"].note
    assert found["grounding_margin"].verdict == "not judged", "it depends on the other regions"
    folder = finished("image")
    assert "other references" in by_metric(folder / "baselines/oracle", folder)["cider"].note
    plain = finished("region_set")
    edit(one, lambda results: results["metrics"]["cider"].update(made="pycocoevalcap; java 17"))
    found = by_metric(one, plain)
    assert found["cider"].verdict == "not judged" != found["rouge_l"].verdict
    assert "made differently" in found["cider"].note
    edit(other, lambda results: results["metrics"]["bleu1"].update(value=77.0))
    assert "samples' means" in by_metric(plain, other)["bleu1"].note


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in reversed(lines)}


def test_the_command(start: Start, finished: Finished, capsys: Capture) -> None:
    folder = finished("region_set")
    assert main([str(folder), "--baselines"]) == 0
    text = capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    below = results["baselines"]["whole"]["metrics"]
    assert text.startswith("## region-set captioning") and CIDER_WARNING in text
    assert rows(text)["metric"] == ["tiny", "baseline: whole"]
    for cell, metrics in zip(rows(text)["stem-F"], (results["metrics"], below), strict=True):
        assert cell.startswith(f"{metrics['stem_f']['value']:.1f} (")
    after = rows(text[text.index("Differences") :])
    assert after["metric"] == ["baseline: whole minus tiny"]
    gain = below["stem_f"]["value"] - results["metrics"]["stem_f"]["value"]
    assert after["stem-F"][0].startswith(f"{gain:+z.1f} (")
    assert "▼ worse" in after["repeated pairs, % (lower is better)"][0]
    assert rows(text)["Patch-ioner, best setting"][1] == "111.6"
    assert main([str(folder), str(start("b"))]) == 0
    names = [name.rpartition("/")[2] for name in rows(capsys.readouterr().out)["metric"]]
    assert names == ["region_set)", "b)"], "told apart by folder"


def test_what_is_refused(start: Start, world: World, tmp_path: Path, capsys: Capture) -> None:
    one, dense = start("a"), start("dense", task="dense")
    world.change("region_set", lambda content: content.popitem())
    other = start("b")

    def refused(message: str, *folders: Path) -> None:
        assert main(list(map(str, folders))) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error

    refused("nothing to compare", one)
    refused("tiny (region_set), tiny (dense)", one, dense)
    refused("different data", one, other)
    refused("holds no results.json", tmp_path / "world")
    results = one / "results.json"
    good = json.loads(results.read_text())
    samples = {"samples": {"ids": ["x"], "scores": {}}}
    bad = [json.dumps(good | wrong) for wrong in ({"format": "other"}, {"version": 1}, samples)]
    for text in (*bad, "{"):
        results.write_text(text)
        refused("results.json", one)


def test_published_figures() -> None:
    found = {(row.source, row.model, row.data): row.values for row in published_rows()}
    assert len(found) > 50
    assert found["A", "T2D + memory", "VG v1.2"] == {"mAP": 21.31, "cider": 31.9, "P": 78.8}
    traces = found["C", "Patch-ioner@518, DINOv2 B14, patches, uniform", "COCO traces"]
    due = {"bleu4": 2.5, "meteor": 10.7, "rouge_l": 23.2, "cider": 27.9, "spice": 12.6, "P": 78.7}
    assert traces == due
