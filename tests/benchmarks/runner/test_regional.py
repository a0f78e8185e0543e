"""Scores of regions: one reference at a time, and objects named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.metrics import cider, rouge_l
from benchmarks.runner import Prediction, RunSettings
from benchmarks.runner.regional import object_scores, one_reference_scores, regional_scores

SETTINGS = RunSettings("objects", rounds=30)


def said(photo: str, row: int, caption: str, *references: str) -> Prediction:
    region = {"box": [row, 0, row + 5, 5]}
    return Prediction(f"{photo}/{row}", photo, row, region, caption, 0.0, references, 1, 0.1)


OBJECTS = [
    said("x", 0, "a puppy on grass", "dog"), said("x", 1, "a puppy on grass", "cat"),
    said("x", 2, "a kitten", "cat"), said("y", 0, "a man with a dog", "person"),
    said("z", 0, "two buses", "bus"), said("z", 1, "a tree", "car"),
]  # fmt: skip


def test_objects_by_hand() -> None:
    """Right: x0, x2, y0, z0. Against the photo's other classes: x0 1-0, x1 0-1, x2 1-0, z0 1-0, z1 0-0."""
    scores = object_scores(OBJECTS, SETTINGS)
    assert scores["object_hits"].value == pytest.approx(100 * 4 / 6)
    assert scores["object_hits"].samples == (100, 0, 100, 100, 100, 0)
    assert scores["object_hits_but_person"].value == pytest.approx(100 * 3 / 5)
    assert scores["object_margin"].value == pytest.approx(100 * (1 - 1 + 1 + 1 + 0) / 5)
    assert scores["object_wins"].value == pytest.approx(100 * (1 + 0 + 1 + 1 + 0.5) / 5)
    assert scores["repeated_pairs"].value == pytest.approx(100 / 4)  # of 3 pairs in x and 1 in z


def test_boxes_of_one_class_are_not_set_against_one_another() -> None:
    same = [said("x", 0, "a dog", "dog"), said("x", 1, "a dog", "dog")]
    scores = object_scores(same, SETTINGS)
    assert "object_margin" not in scores and scores["repeated_pairs"].value == 100.0
    assert set(object_scores(OBJECTS[3:4], SETTINGS)) == {"object_hits"}


def test_one_reference_each_is_a_sample_of_its_own() -> None:
    rows = [
        said("x", 0, "a dog on grass", "a dog on the grass", "a puppy"),
        said("y", 0, "two red buses", "a red bus stops"),
    ]
    captions = ["a dog on grass", "a dog on grass", "two red buses"]
    due = [["a dog on the grass"], ["a puppy"], ["a red bus stops"]]
    scores = one_reference_scores(rows, RunSettings("region_set", rounds=30), java=False)
    for name, metric in (("cider", cider), ("rouge_l", rouge_l)):
        found = scores[f"{name}_one_reference"]
        mean, samples = metric(captions, due)
        assert found.value == pytest.approx(mean)
        assert found.samples == pytest.approx([np.mean(samples[:2]), samples[2]])
    assert scores["bleu4_one_reference"].interval is not None


def test_without_several_references_there_is_nothing_to_take_apart() -> None:
    assert one_reference_scores(OBJECTS, SETTINGS, java=False) == {}


def test_region_sets_are_counted_both_ways(world: Any, tmp_path: Path) -> None:
    outcome = world.run(tmp_path, baselines=("oracle",))
    assert "cider_one_reference" in outcome.results["metrics"]
    assert len(outcome.results["samples"]["scores"]["cider_one_reference"]) == 27
    # Of two references the oracle speaks one and is scored on the other.
    assert "cider_one_reference" not in outcome.baselines["oracle"]["metrics"]


def test_objects_from_the_command(world: Any, tmp_path: Path) -> None:
    content = [
        {
            "file_name": f"{photo.name}",
            "boxes": [
                {"xyxy": [0, 0, 20, 10], "name": "dog"},
                {"xyxy": [20, 0, 40, 10], "name": "cat"},
            ],
        }
        for photo in sorted((world.root / "photos").iterdir())
    ]
    (world.root / "objects.json").write_text(json.dumps(content))
    outcome = world.run(tmp_path, task="objects", baselines=("whole",))
    metrics = outcome.results["metrics"]
    assert metrics["object_hits"]["value"] == 0.0  # it talks of things
    assert "cider" not in metrics, "the name of a class is no caption"
    assert outcome.baselines["whole"]["metrics"]["object_margin"]["value"] == 0.0
    assert outcome.baselines["whole"]["metrics"]["repeated_pairs"]["value"] == 100.0


def test_one_photo_with_two_regions_has_no_interval() -> None:
    rows = [said("x", 0, "a dog", "a dog"), said("x", 1, "a cat", "a cat"), said("y", 0, "a", "b")]
    for score in regional_scores(rows, RunSettings("dense", rounds=30)).values():
        assert score.interval is None
    rows.append(said("y", 1, "a bus", "a bus"))
    assert regional_scores(rows, RunSettings("dense", rounds=30))["grounding_margin"].interval
