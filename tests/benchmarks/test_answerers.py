from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.answerers import Prediction, most_typical, read_predictions
from benchmarks.data import BenchmarkDataError
from benchmarks.settings import RunSettings, weighting_of
from patchioner import Box, Patchioner, RegionSet, Weighting, WholeImage
from patchioner.base.errors import OptionError
from patchioner.checkpoints.folder import KindSettings
from tests.benchmarks.conftest import World
from tests.support.tiny import TEXTS, tiny_parts


def said(folder: Path, baseline: str | None = None) -> list[Prediction]:
    below = folder if baseline is None else folder / "baselines" / baseline
    return read_predictions(below / "predictions.jsonl")


def regions_of(prediction: Prediction) -> RegionSet:
    return RegionSet([Box(*member["box"]) for member in prediction.region["set"]])


def test_the_model_and_its_baselines(world: World, tmp_path: Path, model: Patchioner) -> None:
    names = ("whole", "crop", "nearest", "majority", "random", "oracle")
    assert tuple(world.run(tmp_path, baselines=names).baselines) == names
    bank = model.parts.bank
    assert bank is not None
    by_name = {name: said(tmp_path, name) for name in names}
    for index, prediction in enumerate(said(tmp_path)):
        path, region = str(world.root / "photos" / prediction.photo), regions_of(prediction)
        features = model.encode(path, keep_image=True)
        mine, whole = model.caption(features, [region, WholeImage()])
        assert prediction.caption == mine.text
        assert prediction.score == pytest.approx(mine.score, abs=2e-5)
        (crop,) = model.caption(features, [region], crop=True)
        found = bank.nearest(model.embed_regions(features, [region]), 1)
        assert found.texts is not None
        due = {"whole": whole.text, "crop": crop.text, "nearest": found.texts[0][0]}
        due["majority"] = most_typical(TEXTS)
        assert {name: by_name[name][index].caption for name in due} == due
        assert by_name["random"][index].caption in TEXTS
        oracle = by_name["oracle"][index]
        assert sorted([oracle.caption or "", *oracle.references]) == sorted(prediction.references)
    assert len({prediction.caption for prediction in by_name["random"]}) > 5
    drawn = ("random", "oracle")
    world.run(tmp_path / "few", baselines=drawn, limit=5, batch=1)
    world.run(tmp_path / "other", baselines=drawn, limit=9, seed=1)
    for name in drawn:  # chosen by seed and sample, whatever is asked beside it
        every, few, other = (
            {p.id: p.caption for p in said(tmp_path / folder, name)}.items() for folder in (".", "few", "other")
        )
        assert few <= every and not other <= every
    assert len({prediction.caption for prediction in said(tmp_path)}) > 1


def test_clip_reads_the_cls_token_of_another_model(world: World, tmp_path: Path) -> None:
    parts = tiny_parts(3)
    clip = Patchioner(replace(parts, settings=replace(parts.settings, context=0.0)), device="cpu")
    load = lambda name, device: clip if name == "clip" else world.model  # noqa: E731
    for task in ("region_set", "dense"):
        more: Any = {"task": task, "load": load, "clip_model": "clip", "limit": 6}
        world.run(tmp_path / task, baselines=("clip",), **more)
        for prediction in said(tmp_path / task, "clip"):
            path, dense = str(world.root / "photos" / prediction.photo), task == "dense"
            region = Box(*prediction.region["box"]) if dense else WholeImage()
            (caption,) = clip.caption(path, [region], weighting=Weighting("cls"), crop=dense)
            assert prediction.caption == caption.text


def test_what_a_baseline_needs(world: World, tmp_path: Path) -> None:
    parts = tiny_parts()
    settings = replace(parts.settings, projection="none")
    bare = Patchioner(replace(parts, bank=None, settings=settings), device="cpu")
    for name in ("nearest", "majority", "random"):
        with pytest.raises(OptionError, match="bank with texts"):
            world.run(tmp_path / name, load=lambda *_: bare, baselines=(name,))
    with pytest.raises(OptionError, match="--clip-model"):
        world.run(tmp_path / "clip", baselines=("clip",))
    with pytest.raises(BenchmarkDataError, match="'oracle'"):
        world.run(tmp_path / "dense", task="dense", baselines=("oracle",))
    world.change("region_set", lambda content: content.update(photo_00={"alone": [[1, 1, 9, 9]]}))
    outcome = world.run(tmp_path / "oracle", baselines=("oracle",))
    samples = outcome.results["data"]["samples"]
    assert outcome.baselines["oracle"]["data"]["samples"] == samples - 1


def test_settings_reach_the_model(world: World, tmp_path: Path, model: Patchioner) -> None:
    world.run(tmp_path, limit=6, weighting="gaussian", variance=0.3, rounding="reference")
    weighting = Weighting("gaussian", 0.3, rounding="reference")
    for prediction in said(tmp_path):
        path, regions = str(world.root / "photos" / prediction.photo), [regions_of(prediction)]
        (caption,) = model.caption(path, regions, weighting=weighting)
        assert prediction.caption == caption.text


def test_the_most_typical_sentence_is_nearest_to_the_others() -> None:
    """By tf-idf: words that all have count nothing."""
    assert most_typical(["a red cat", "a red cat at night", "two dogs", "a moon"]) == "a red cat"
    assert most_typical(["a", "a blue bus", "a bus", "a bus stops"]) == "a bus"
    long = "cat bus bus red"  # in pairs, too
    assert most_typical([long, "a bus", "bus bus bus cat"]) == long


def test_a_rounding_alone_changes_the_tasks_own_kind(model: Patchioner) -> None:
    kinds = {"box": KindSettings(Weighting("gaussian", 2.0, foreground=3.0))}
    parts = replace(model.parts, settings=replace(model.settings, kinds=kinds))
    own = Patchioner(parts, device="cpu")
    for settings, due in (
        (RunSettings("dense", rounding="reference"), Weighting("gaussian", 2.0, "reference")),
        (RunSettings("trace", rounding="reference"), Weighting(rounding="reference")),
        (RunSettings("dense"), None),
    ):
        assert weighting_of(own, settings) == due
