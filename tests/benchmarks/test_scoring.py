import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import scoring
from benchmarks.answerers import Prediction, read_predictions
from benchmarks.metrics import cider, rouge_l
from benchmarks.metrics.cosine import ClipSpace, unit_rows
from benchmarks.scoring import bootstrap_mean, bootstrap_ratio, draw_region, object_scores
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import Finished, World
from tests.support import MonkeyPatch

HOW = {"rounds": 30, "seed": 0}


def said(photo: str, row: int, caption: str, *references: str) -> Prediction:
    region = {"box": [row, 0, row + 5, 5]}
    return Prediction(f"{photo}/{row}", photo, row, region, caption, 0.0, references, 0.1)


OBJECTS = [
    said("x", 0, "a puppy on grass", "dog"), said("x", 1, "a puppy on grass", "cat"),
    said("x", 2, "a kitten", "cat"), said("y", 0, "a man with a dog", "person"),
    said("z", 0, "two buses", "bus"), said("z", 1, "a tree", "car"),
]  # fmt: skip


def test_objects_by_hand() -> None:
    """Right: x0, x2, y0, z0. Against the photo's other classes: x0 1-0, x1 0-1, x2 1-0, z0 1-0, z1 0-0."""
    scores = object_scores(OBJECTS, HOW)
    assert {name: score.value for name, score in scores.items()} == pytest.approx({
        "object_hits": 100 * 4 / 6, "object_hits_but_person": 100 * 3 / 5,
        "repeated_pairs": 100 / 4,  # of 3 pairs in x and 1 in z
        "object_margin": 100 * (1 - 1 + 1 + 1 + 0) / 5, "object_wins": 100 * (1 + 0 + 1 + 1 + 0.5) / 5,
    })  # fmt: skip
    assert scores["object_hits"].samples == (100, 0, 100, 100, 100, 0)
    same = object_scores([said("x", row, "a dog", "dog") for row in (0, 1)], HOW)
    assert "object_margin" not in same and same["repeated_pairs"].value == 100.0
    assert set(object_scores(OBJECTS[3:4], HOW)) == {"object_hits"}


def test_one_reference_each_is_a_sample_of_its_own() -> None:
    rows = [
        said("x", 0, "a dog on grass", "a dog on the grass", "a puppy"),
        said("y", 0, "two red buses", "a red bus stops"),
    ]
    captions = ["a dog on grass", "a dog on grass", "two red buses"]
    due = [["a dog on the grass"], ["a puppy"], ["a red bus stops"]]
    scores = scoring.one_reference_scores(rows, HOW, None)
    for name, metric in (("cider", cider), ("rouge_l", rouge_l)):
        found = scores[f"{name}_one_reference"]
        mean, samples = metric(captions, due)
        assert found.value == pytest.approx(mean)
        assert found.samples == pytest.approx([np.mean(samples[:2]), samples[2]])
    assert scores["bleu4_one_reference"].interval is not None
    assert scoring.one_reference_scores(OBJECTS, HOW, None) == {}


def test_objects_and_sets_of_a_run(finished: Finished, world: World, tmp_path: Path) -> None:
    results = json.loads((finished("objects") / "results.json").read_text())
    assert "cider" not in results["metrics"], "the name of a class is no caption"
    outcome = world.run(tmp_path / "sets", baselines=("oracle",))
    assert len(outcome.results["samples"]["scores"]["cider_one_reference"]) == 27
    # Of two references the oracle speaks one and is scored on the other.
    assert "cider_one_reference" not in outcome.baselines["oracle"]["metrics"]


class Space:
    """Images by how red they are, texts by how long."""

    images: Sequence[Image.Image] = ()

    def embed_images(self, images: Sequence[Image.Image]) -> Any:
        self.images = self.images or images
        return np.array([[1.0, np.asarray(image)[..., 0].mean() / 255] for image in images])

    def embed_text(self, texts: Sequence[str]) -> Any:
        assert all(text.startswith("A photo depicts ") for text in texts)
        return np.array([[1.0, len(text) / 50] for text in texts])


def test_scores_by_clip(world: World, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    space = Space()
    monkeypatch.setattr(ClipSpace, "load", lambda *_, **__: space)
    results = world.run(tmp_path, clip_score="B32=w.pt", pac_score="B32=p.pt").results
    scores = {key: values[0] for key, values in results["samples"]["scores"].items()}
    first = read_predictions(tmp_path / "predictions.jsonl")[0]
    texts = [f"A photo depicts {text}" for text in (first.caption, *first.references)]
    image, mine, *others = unit_rows([*space.embed_images(space.images[:1]), *space.embed_text(texts)], "row")
    fit, near = image @ mine, max(mine @ other for other in others)
    due = {"clip_s": 250 * fit, "pac_s": 200 * fit, "clip_text_cosine": 100 * near}
    due["ref_pac_s"] = 2 / (1 / (200 * fit) + 1 / (100 * near))
    assert {name: scores[name] for name in due} == pytest.approx(due, abs=1e-5)
    assert "B32=w.pt" in results["metrics"]["clip_s"]["made"]
    for given in ("ViT-B-32", "=file.pt", "ViT-B-32="):
        with pytest.raises(OptionError, match="ARCHITECTURE=FILE"):
            world.run(tmp_path / "wrong", clip_score=given)


def test_regions_are_drawn_in_red() -> None:
    photo = Image.new("RGB", (200, 100))
    red, black = (255, 0, 0), (0, 0, 0)
    boxes = draw_region(photo, {"set": [{"box": [10, 10, 50, 50]}, {"box": [60, 10, 90, 50]}]})
    assert [boxes.getpixel(at) for at in ((10, 30), (60, 30), (30, 30))] == [red, red, black]
    trace = draw_region(photo, {"trace": [[0.1, 0.5], [0.9, 0.5]], "normalized": True})
    assert [trace.getpixel(at) for at in ((100, 50), (100, 20))] == [red, black]
    assert draw_region(photo, {"trace": [[5, 5]]}).getpixel((5, 5)) == red
    assert draw_region(photo, {"whole": True}).tobytes() == photo.tobytes()
    assert photo.getpixel((10, 30)) == black, "the photo itself is not drawn on"


DRAWS: dict[str, Any] = {"rounds": 100, "seed": 5}


def test_intervals_are_those_of_photos_drawn_whole(monkeypatch: MonkeyPatch) -> None:
    """The ratio of pooled samples, and the difference of two runs; a statistic alone, or many in pieces of any size."""
    first, second, photos = np.array([1.0, 2, 6, 3]), np.array([1.0, 1, 2, 5]), list("aabc")
    draws = np.random.default_rng(5).multinomial(3, np.full(3, 1 / 3), size=100)
    often = draws[:, [0, 0, 1, 2]]
    ratios = (often @ first) / (often @ second)
    gains = often @ (second - first) / often.sum(axis=1)

    def pooled(often: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(often @ first / (often @ second), dtype=np.float64)

    alone = lambda often: float(pooled(often[None])[0])  # noqa: E731
    found = [bootstrap_ratio(first, second, photos, **DRAWS)]
    found.append(scoring.bootstrap_statistic(alone, photos, **DRAWS))
    for piece in (1, 100, 10_000):
        monkeypatch.setattr("benchmarks.scoring._PIECE", piece)
        found.append(scoring.bootstrap_pooled(pooled, photos, **DRAWS))
    gain = bootstrap_mean(second - first, photos, **DRAWS)
    for interval, plain in ((gain, gains), *((ratio, ratios) for ratio in found)):
        expected = np.quantile(plain, [0.025, 0.975])
        np.testing.assert_allclose([interval.low, interval.high], expected)
    assert [ratio.value for ratio in found] == pytest.approx([12 / 9] * 5)
    assert math.isnan(bootstrap_ratio([1.0], [0.0], ["a"]).value)
