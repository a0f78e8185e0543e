import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.answerers import Prediction, PredictionLog, read_predictions
from benchmarks.data import BenchmarkDataError
from benchmarks.metrics import bleu, cider
from benchmarks.metrics.regions import dense_map
from benchmarks.scoring import bootstrap_statistic, dense_matches, stem_f_measure
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.files import folder_lock
from tests.benchmarks.conftest import Finished, World, contents
from tests.support import MonkeyPatch
from tests.support.tiny import noise_photo

BASELINES = ("whole", "crop")
LINES = "predictions.jsonl"


def test_an_interrupted_run_goes_on(world: World, tmp_path: Path, encoded: list[str], monkeypatch: MonkeyPatch) -> None:
    """At most the group of three photos under way is asked again; then a finished run asks nothing."""
    world.run(tmp_path / "whole", baselines=BASELINES)
    assert sorted(encoded) == [f"photo_{index:02d}" for index in range(11)], "each photo once"
    write, calls = PredictionLog.append, itertools.count(1)

    def append(self: PredictionLog, predictions: Sequence[Prediction]) -> None:
        write(self, predictions)
        if next(calls) == 5:  # the second of three answerers, amid the second group of photos
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PredictionLog, "append", append)
        world.run(tmp_path / "cut", baselines=BASELINES)
    for left in (11 - 3, 0):
        encoded.clear()
        world.run(tmp_path / "cut", baselines=BASELINES, resume=True)
        assert len(encoded) == left
        assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_file_cut_at_any_byte_is_mended(world: World, tmp_path: Path) -> None:
    world.run(tmp_path, limit=6)
    path = tmp_path / LINES
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        world.run(tmp_path, limit=6, resume=True)
        assert path.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    for bad, message in (([lines[0], b"{nonsense\n", *lines[2:]], r"line 2 of"), ([lines[1], *lines], "other samples")):
        path.write_bytes(b"".join(bad))
        with pytest.raises(BenchmarkDataError, match=message):
            world.run(tmp_path, limit=6, resume=True)


def test_what_may_not_be_resumed(world: World, tmp_path: Path) -> None:
    world.run(tmp_path)
    before = contents(tmp_path)
    changes: Any = {"limit": 5, "seed": 1, "weighting": "uniform", "batch": 4, "beam": 2}
    for name, value in changes.items():
        with pytest.raises(OptionError, match=rf"settings\.{name}"):
            world.run(tmp_path, resume=True, **{name: value})
    with pytest.raises(OptionError, match="--resume"):
        world.run(tmp_path)
    assert contents(tmp_path) == before
    world.change("region_set", lambda content: content.popitem())
    with pytest.raises(OptionError, match=r"data\.data"):
        world.run(tmp_path, resume=True)


def test_what_is_refused_before_a_model_is_loaded(world: World, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    load = lambda *_: pytest.fail("loaded")  # noqa: E731
    with folder_lock(tmp_path), pytest.raises(OptionError, match="another process"):
        world.run(tmp_path, load=load)
    for option, name, due in (("baselines", "majorty", "majority"), ("metrics", "cidr", "cider")):
        changes: dict[str, Any] = {option: (name,)}
        with pytest.raises(UnknownNameError, match=f"'{due}'"):
            world.run(tmp_path, load=load, **changes)


def test_what_the_model_cannot_see_is_reported(world: World, tmp_path: Path) -> None:
    """A region off the view of a crop-mode backbone, and a photo cut short after it was measured."""

    def edit(content: Any) -> None:
        content["images"].append({"id": 99, "file_name": "bad.jpg"})
        for box in ([1, 1, 9, 9], [1, 1, 0, 0]):
            content["annotations"].append({"image_id": 99, "bbox": box, "caption": "a thing"})

    world.change("dense", edit)
    path = world.root / "photos" / "bad.jpg"
    noise_photo(400, 200).save(path)
    path.write_bytes(path.read_bytes()[:700])
    skipped = world.run(tmp_path, task="dense").results["skipped"]
    rows = {kind: [row["row"] for row in found] for kind, found in skipped.items()}
    assert rows == {"malformed": [28], "unanswered": [27]}
    predictions = {prediction.row: prediction for prediction in read_predictions(tmp_path / LINES)}
    assert predictions[27].caption is None and predictions[27].score is None
    assert predictions[5].caption is not None
    world.change("dense", lambda content: content["annotations"].pop())
    with pytest.raises(BenchmarkDataError, match="--strict"):
        world.run(tmp_path / "strict", task="dense", strict=True)


def test_results_hold_everything_and_scores_of_the_metrics(finished: Finished) -> None:
    folder = finished("region_set")
    results, below = (json.loads((folder / name / "results.json").read_text()) for name in (".", "baselines/whole"))
    assert results["settings"]["rounds"] == 20 and results["settings"]["task"] == "region_set"
    assert results["model"]["bank_rows"] == 30 and results["machine"]["device"] == "cpu"
    assert below["baseline"] == "whole"
    assert results["baselines"]["whole"]["metrics"] == below["metrics"]
    said = read_predictions(folder / LINES)
    captions, due = [p.caption or "" for p in said], [p.references for p in said]
    corpus, scores = cider(captions, due)
    assert results["samples"]["ids"] == [p.id for p in said]
    np.testing.assert_allclose(results["samples"]["scores"]["cider"], scores, atol=1e-6)
    assert results["metrics"]["cider"]["value"] == pytest.approx(corpus)

    def value(often: Any) -> float:
        rows = [p for p, times in zip(said, often, strict=True) for _ in range(times)]
        return float(bleu([p.caption or "" for p in rows], [p.references for p in rows])[0][0])

    slow = bootstrap_statistic(value, [p.photo for p in said], rounds=20, seed=0)
    found = results["metrics"]["bleu1"]["interval"]
    assert (found["low"], found["high"]) == pytest.approx((slow.low, slow.high))


def test_dense_captioning_has_the_map(finished: Finished) -> None:
    metrics = json.loads((finished("dense") / "results.json").read_text())["metrics"]
    matches = dense_matches(read_predictions(finished("dense") / LINES), stem_f_measure)[1]
    assert metrics["mAP (stem-F)"]["value"] == dense_map(matches)
    assert "mAP" not in metrics, "the published name is for METEOR"
