"""Every baseline says what it should, whatever is asked beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.readers import BenchmarkDataError
from benchmarks.runner import Prediction, read_predictions
from benchmarks.runner.typical import most_typical
from patchioner import Box, Patchioner, RegionSet, WholeImage
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.regions import Weighting
from tests.support.tiny import TEXTS, noise_photo, tiny_parts


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture
def noisy(world: Any) -> Any:
    """The world with photos that show something."""
    for index, path in enumerate(sorted((world.root / "photos").iterdir())):
        noise_photo(40, 20, seed=index).save(path)
    return world


def said(folder: Path, baseline: str | None = None) -> list[Prediction]:
    below = folder if baseline is None else folder / "baselines" / baseline
    return read_predictions(below / "predictions.jsonl")


def regions_of(prediction: Prediction) -> RegionSet:
    return RegionSet([Box(*member["box"]) for member in prediction.region["set"]])


def test_the_model_and_its_baselines(noisy: Any, tmp_path: Path, model: Patchioner) -> None:
    names = ("whole", "crop", "nearest", "majority", "random", "oracle")
    outcome = noisy.run(tmp_path, load=lambda *_: model, baselines=names)
    assert tuple(outcome.baselines) == names
    bank = model.parts.bank
    assert bank is not None
    by_name = {name: said(tmp_path, name) for name in names}
    for index, prediction in enumerate(said(tmp_path)):
        path, region = str(noisy.root / "photos" / prediction.photo), regions_of(prediction)
        features = model.encode(path, keep_image=True)
        (mine,) = model.caption(features, [region])
        assert (prediction.caption, prediction.score) == (mine.text, round(mine.score, 5))
        (whole,) = model.caption(features, [WholeImage()])
        (crop,) = model.caption(features, [region], crop=True)
        found = bank.nearest(model.embed_regions(features, [region]), 1)
        assert found.texts is not None
        assert by_name["whole"][index].caption == whole.text
        assert by_name["crop"][index].caption == crop.text
        assert by_name["nearest"][index].caption == found.texts[0][0]
        assert by_name["majority"][index].caption == most_typical(TEXTS)
        assert by_name["random"][index].caption in TEXTS
        oracle = by_name["oracle"][index]
        assert sorted([oracle.caption or "", *oracle.references]) == sorted(prediction.references)
    assert len({prediction.caption for prediction in by_name["random"]}) > 5
    assert len({prediction.caption for prediction in said(tmp_path)}) > 1


def test_random_choices_depend_on_the_seed_and_the_sample_only(
    noisy: Any, tmp_path: Path, model: Patchioner
) -> None:
    def choices(folder: str, **changes: Any) -> dict[str, dict[str, str | None]]:
        baselines = ("random", "oracle")
        noisy.run(tmp_path / folder, load=lambda *_: model, baselines=baselines, **changes)
        return {
            name: {p.id: p.caption for p in said(tmp_path / folder, name)} for name in baselines
        }

    everything, few, other = choices("a"), choices("b", limit=5, batch=1), choices("c", seed=1)
    for name in everything:
        assert few[name].items() <= everything[name].items()
        assert other[name] != everything[name]


def test_the_oracle_takes_samples_with_two_references_only(
    world: Any, tmp_path: Path, model: Patchioner
) -> None:
    content = json.loads((world.root / "region_set.json").read_text())
    content["photo_00"] = {"alone": [[1, 1, 9, 9]]}
    (world.root / "region_set.json").write_text(json.dumps(content))
    outcome = world.run(tmp_path, baselines=("oracle",))
    samples = outcome.results["data"]["samples"]
    assert outcome.baselines["oracle"]["data"]["samples"] == samples - 1
    with pytest.raises(BenchmarkDataError, match=r"no sample for the baseline 'oracle'"):
        world.run(tmp_path / "dense", task="dense", baselines=("oracle",))


def test_clip_reads_the_cls_token_of_another_model(noisy: Any, tmp_path: Path) -> None:
    """Of the whole photo for sets, of crops for dense captioning; it is loaded by its own name."""
    parts = tiny_parts(3)
    clip = Patchioner(replace(parts, settings=replace(parts.settings, context=0.0)), device="cpu")
    models: dict[str, Any] = {"patchioner-mini": noisy.talker, "clip": clip}

    def load(name: str, device: str) -> Any:
        return models[name]

    for task in ("region_set", "dense"):
        folder = tmp_path / task
        noisy.run(folder, load=load, task=task, baselines=("clip",), clip_model="clip")
        for prediction in said(folder, "clip")[:6]:
            path = str(noisy.root / "photos" / prediction.photo)
            region = WholeImage() if task == "region_set" else Box(*prediction.region["box"])
            (caption,) = clip.caption(
                path, [region], weighting=Weighting("cls"), crop=task == "dense"
            )
            assert prediction.caption == caption.text
    with pytest.raises(OptionError, match="--clip-model"):
        noisy.run(tmp_path / "without", load=load, baselines=("clip",))


def test_names_are_checked_before_a_model_is_loaded(world: Any, tmp_path: Path) -> None:
    def load(*_: str) -> Any:
        raise AssertionError("loaded")

    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"baselines": ("majorty",)}, UnknownNameError, "did you mean 'majority'"),
        ({"metrics": ("cidr",)}, OptionError, "module:function"),
        ({"references": "a.json"}, OptionError, "image captioning"),
        ({"merge_references": True}, OptionError, "dense captioning"),
    ]
    for changes, error, message in refused:
        with pytest.raises(error, match=message):
            world.run(tmp_path, load=load, **changes)
    assert not list(tmp_path.glob("*.json"))


def test_memory_sentences_need_a_memory(world: Any, tmp_path: Path) -> None:
    for name in ("nearest", "majority", "random"):
        with pytest.raises(OptionError, match="no memory bank with texts"):
            world.run(tmp_path / name, baselines=(name,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weighting": "gaussian", "variance": 0.3}, {"weighting": Weighting("gaussian", 0.3)}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"context": 0.0}, {"context": 0.0}),
    ],
    ids=lambda value: "-".join(value),
)
def test_settings_reach_the_model(
    noisy: Any, tmp_path: Path, model: Patchioner, changes: Any, expected: dict[str, Any]
) -> None:
    settings = replace(model.settings, **expected)
    plain = Patchioner(replace(model.parts, settings=settings), device="cpu")
    noisy.run(tmp_path, load=lambda *_: model, limit=6, **changes)
    for prediction in said(tmp_path):
        path = str(noisy.root / "photos" / prediction.photo)
        (caption,) = plain.caption(path, [regions_of(prediction)])
        assert (prediction.caption, prediction.score) == (caption.text, round(caption.score, 5))


def test_what_the_model_cannot_see_is_reported(world: Any, tmp_path: Path) -> None:
    path = world.root / "dense.json"
    content = json.loads(path.read_text())
    content["annotations"][4]["bbox"] = [13, 1, 20, 9]  # the stand-in sees nothing there
    content["images"].append({"id": 99, "file_name": "bad.jpg"})
    content["annotations"].append({"image_id": 99, "bbox": [1, 1, 9, 9], "caption": "a thing"})
    content["annotations"].append({"image_id": 99, "bbox": [1, 1, 0, 0], "caption": "a thing"})
    path.write_text(json.dumps(content))
    Image.new("RGB", (40, 20)).save(world.root / "photos" / "bad.jpg")
    skipped = world.run(tmp_path, task="dense").results["skipped"]
    assert [row["row"] for row in skipped["malformed"]] == [28]
    assert {row["row"]: row["reason"].split()[-1] for row in skipped["unanswered"]} == {
        4: "view", 27: "truncated",
    }  # fmt: skip
    predictions = {prediction.row: prediction for prediction in said(tmp_path)}
    assert predictions[4].caption is None and predictions[27].score is None
    assert predictions[5].caption is not None
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(BenchmarkDataError, match="run without --strict"):
        world.run(tmp_path / "strict", task="dense", strict=True)


def test_strict_refuses_malformed_rows(world: Any, tmp_path: Path) -> None:
    path = world.root / "region_set.json"
    content: dict[str, Any] = json.loads(path.read_text())
    content["nowhere"] = {"a": [[1, 1, 2, 2]]}
    path.write_text(json.dumps(content))
    assert world.run(tmp_path / "skip").results["skipped"]["malformed"][0]["where"] == "nowhere/0"
    with pytest.raises(BenchmarkDataError, match=r"row 27 \(nowhere/0\)"):
        world.run(tmp_path / "strict", strict=True)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a dog on grass", "a dog on a bed", "two red kites"], "a dog on grass"),
        (["x y", "a b", "a b c", "a b d"], "a b"),
        (["only one"], "only one"),
        (["same", "same"], "same"),
    ],
)
def test_the_most_typical_sentence(texts: list[str], expected: str) -> None:
    assert most_typical(texts) == expected


def test_the_most_typical_sentence_is_the_one_of_plain_loops() -> None:
    """Mean over orders and others of the tf-idf cosine, written as it reads."""
    import math
    from collections import Counter

    texts = list(TEXTS[:12]) + ["a red cat at night", "two dogs"]

    def grams(text: str, order: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    def cosine(left: str, right: str, order: int) -> float:
        def weigh(text: str) -> dict[tuple[str, ...], float]:
            return {
                gram: count * math.log(len(texts) / sum(gram in grams(t, order) for t in texts))
                for gram, count in grams(text, order).items()
            }

        a, b = weigh(left), weigh(right)
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        return (
            sum(weight * b.get(gram, 0.0) for gram, weight in a.items()) / norms if norms else 0.0
        )

    scores = [
        sum(cosine(mine, other, n) for n in (1, 2, 3, 4) for k, other in enumerate(texts) if k != i)
        for i, mine in enumerate(texts)
    ]
    assert most_typical(texts) == texts[max(range(len(texts)), key=lambda i: scores[i])]


def test_of_many_sentences_a_seeded_sample_is_looked_at() -> None:
    texts = [f"{a} {b}" for a in "abcdefgh" for b in "abcdefgh"]
    assert most_typical(texts, most=10, seed=1) == most_typical(texts, most=10, seed=1)
    assert len({most_typical(texts, most=5, seed=seed) for seed in range(8)}) > 1


def test_no_sentence() -> None:
    with pytest.raises(OptionError, match="no sentence"):
        most_typical([])
