"""Scores, intervals, results.json and the table of the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bootstrap import bootstrap_mean, bootstrap_statistic
from benchmarks.metrics import bleu, cider, java_available, stem_f
from benchmarks.metrics.dense_map import DensePhoto, dense_map
from benchmarks.runner import RunSettings, read_predictions
from benchmarks.runner.provenance import weights_sha256
from benchmarks.runner.results import table
from benchmarks.runner.scoring import Scorer
from patchioner.base.errors import OptionError
from tests.support.tiny import tiny_decoder


def lengths(predictions: Any, references: Any, samples: Any) -> list[float]:
    """A metric of one's own: words of the caption, and a look at the sample."""
    assert all(sample.photo for sample in samples)
    return [float(len(text.split())) for text in predictions]


def test_results_hold_everything(world: Any, tmp_path: Path) -> None:
    outcome = world.run(tmp_path, baselines=("whole",), seed=3)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == json.loads(json.dumps(outcome.results))
    assert results["settings"]["seed"] == 3 and results["settings"]["task"] == "region_set"
    assert len(results["data"]["sha256"]["data"]) == 64
    assert results["model"]["class"] == "Talker"
    assert {"python", "torch"} <= results["versions"].keys()
    assert results["machine"]["device"] == "cpu"
    assert results["baselines"]["whole"]["folder"] == "baselines/whole"
    below = json.loads((tmp_path / "baselines/whole/results.json").read_text())
    assert below["baseline"] == "whole"
    assert results["baselines"]["whole"]["metrics"] == below["metrics"]
    assert not [key for key in results if "time" in key or "second" in key]


def test_scores_are_those_of_the_metrics(world: Any, tmp_path: Path) -> None:
    """Per sample, in the order of the predictions, with an interval over photos."""
    results = world.run(tmp_path).results
    said = read_predictions(tmp_path / "predictions.jsonl")
    corpus, scores = cider([p.caption or "" for p in said], [p.references for p in said])
    assert results["samples"]["ids"] == [p.id for p in said]
    np.testing.assert_allclose(results["samples"]["scores"]["cider"], scores, atol=1e-6)
    measured = results["metrics"]["cider"]
    assert measured["value"] == pytest.approx(corpus)
    interval = bootstrap_mean(scores, [p.photo for p in said], rounds=20, seed=0)
    assert measured["interval"]["low"] == pytest.approx(interval.low)
    assert measured["interval"]["high"] == pytest.approx(interval.high)
    assert "patchioner" in measured["made"]


def test_bleu_is_pooled_anew_in_every_resample(world: Any, tmp_path: Path) -> None:
    """Against the slow way: BLEU of the repeated samples themselves."""
    measured = world.run(tmp_path).results["metrics"]["bleu2"]
    said = read_predictions(tmp_path / "predictions.jsonl")

    def value(often: Any) -> float:
        rows = [p for p, times in zip(said, often, strict=True) for _ in range(times)]
        corpus, _ = bleu([p.caption or "" for p in rows], [p.references for p in rows])
        return float(corpus[1])

    due = bootstrap_statistic(value, [p.photo for p in said], rounds=20, seed=0)
    interval = measured["interval"]
    assert measured["value"] == pytest.approx(due.value)
    assert (interval["low"], interval["high"]) == pytest.approx((due.low, due.high))
    # The mean of the samples is something else, and so is its interval.
    assert measured["mean_of_samples"]["value"] != pytest.approx(due.value)


def test_dense_captioning_has_the_map(world: Any, tmp_path: Path) -> None:
    results = world.run(tmp_path, task="dense").results
    said = read_predictions(tmp_path / "predictions.jsonl")
    photos = [
        DensePhoto(
            [p.region["box"] for p in group], [p.score for p in group],
            [p.caption for p in group], [p.region["box"] for p in group],
            [p.references for p in group],
        )
        for photo in dict.fromkeys(p.photo for p in said)
        if (group := [p for p in said if p.photo == photo])
    ]  # fmt: skip
    due = dense_map(photos, lambda a, b: stem_f(a, b)[1] / 100, name="stem-F")
    assert results["metrics"]["mAP (stem-F)"]["value"] == pytest.approx(due.value)
    assert results["metrics"]["detmap"]["value"] == pytest.approx(due.detection)
    interval = results["metrics"]["mAP (stem-F)"]["interval"]
    assert interval["low"] <= due.value <= interval["high"]
    assert "mAP" not in results["metrics"], "the published name is for METEOR"


def test_the_whole_photos_caption_is_neither_distinct_nor_grounded(
    world: Any, tmp_path: Path
) -> None:
    outcome = world.run(tmp_path, task="dense", baselines=("whole",))
    whole = outcome.baselines["whole"]["metrics"]
    assert whole["repeated_pairs"]["value"] == 100.0
    assert whole["repeated_pairs"]["higher_is_better"] is False
    assert whole["grounding_margin"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert whole["grounding_wins"]["value"] == 50.0
    assert outcome.results["metrics"]["repeated_pairs"]["value"] < 50.0


def test_whole_images_have_no_regional_scores(world: Any, tmp_path: Path) -> None:
    assert "repeated_pairs" not in world.run(tmp_path, task="image").results["metrics"]


def test_a_metric_of_ones_own(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    results = world.run(tmp_path, metrics=("test_results:lengths",)).results
    assert results["metrics"]["lengths"]["value"] == pytest.approx(5.0)
    assert results["metrics"]["lengths"]["interval"] is not None


def test_nothing_to_score() -> None:
    with Scorer("no") as scorer, pytest.raises(OptionError, match="nothing to score"):
        scorer.score([], RunSettings("dense"))


@pytest.mark.slow  # starting the METEOR program takes seconds
@pytest.mark.skipif(not java_available(), reason="no Java here")
def test_with_java_the_published_map_and_meteor_are_there(world: Any, tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    results = world.run(tmp_path, task="dense", java="yes").results
    assert {"mAP", "mAP (stem-F)", "meteor"} <= results["metrics"].keys()
    assert "java" in results["metrics"]["cider"]["made"]
    meteor = results["metrics"]["meteor"]
    assert meteor["interval"]["low"] <= meteor["value"] <= meteor["interval"]["high"]
    assert meteor["interval"]["value"] == pytest.approx(meteor["value"])


def test_two_metrics_of_one_name(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "others.py").write_text(
        "def lengths(said, due, rows):\n    return [1.0] * len(said)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("test_results:lengths", "others:lengths")
    metrics = world.run(tmp_path / "out", metrics=names).results["metrics"]
    assert metrics["test_results:lengths"]["value"] == pytest.approx(5.0)
    assert metrics["others:lengths"]["value"] == 1.0


def test_the_table() -> None:
    def row(label: str, value: float, **interval: float | None) -> dict[str, Any]:
        scores = {"cider": {"value": value, "interval": interval or None}}
        return {"label": label, "data": {"samples": 2}, "metrics": scores}

    text = table(
        [row("a", 50.04, low=40.0, high=60.06), row("b", -0.01), row("c", 1, low=None, high=None)]
    )
    assert text.splitlines()[2:] == [
        "| a | 2 | 50.0 (40.0 to 60.1) |",
        "| b | 2 | 0.0 |",
        "| c | 2 | 1.0 |",
    ]


def test_a_fingerprint_of_weights_sees_every_change() -> None:
    one, other = tiny_decoder(0).module, tiny_decoder(1).module
    assert weights_sha256(one) == weights_sha256(tiny_decoder(0).module) != weights_sha256(other)
