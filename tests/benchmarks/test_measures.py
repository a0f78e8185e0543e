"""Measures: ranks and targets by hand, and a whole table from the colour model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.answers import QualitySets, ask, embed_names
from benchmarks.captioner import unit_rows
from benchmarks.measures import Bootstrap, Target, measure, retrieval_ranks
from benchmarks.readers import DevSets
from patchioner.base.errors import PatchionerError

torch = pytest.importorskip("torch")


def test_ranks() -> None:
    """First, third, and a tie that counts against the query."""
    similarities = np.array([[3, 2, 1], [3, 2, 1], [1, 1, 0]], dtype=np.float32)
    assert retrieval_ranks(similarities, np.array([0, 2, 0])).tolist() == [1, 3, 2]


def test_constant_embeddings_retrieve_nothing() -> None:
    """A model that tells no photo apart gets no credit for the first index."""
    ranks = retrieval_ranks(np.ones((4, 5), dtype=np.float32), np.zeros(4, dtype=np.intp))
    assert (ranks == 5).all()


@pytest.mark.parametrize(
    ("target", "value", "passed"),
    [
        (Target(50, 65), 50.0, True),
        (Target(50, 65), 49.9, False),
        (Target(1.0, 1.15, strict=True), 1.0, False),
        (Target(1.0, 1.15, strict=True), 1.01, True),
        (Target(50, 65), math.nan, False),
    ],
)
def test_targets(target: Target, value: float, passed: bool) -> None:
    """`must` is reached by equality unless it is strict."""
    assert target.passed(value) is passed


def test_table_of_the_colour_model(data: Path, colour_model: Any) -> None:
    """It names every half and finds every photo; the whole image mixes the halves."""
    sets = DevSets(data)
    samples = QualitySets.read(sets)
    answers = ask(colour_model, samples, sets)
    rows = {row.key: row for row in measure(samples, answers, bootstrap=Bootstrap(rounds=50))}
    assert rows["box_naming"].interval.value == 100.0
    assert rows["box_naming_whole"].interval.value < 60.0
    assert rows["retrieval_r1"].interval.value == 100.0
    assert rows["region_sets_ratio"].passed
    assert rows["traces_ratio"].interval.value > 1.5
    sizes = {(row.samples, row.photos) for row in rows.values()}
    assert sizes == {(3, 3), (6, 3)}
    assert answers.set_captions[:2] == ("a red thing here", "a green thing here")
    assert answers.trace_captions[2:4] == ("a blue thing here", "a yellow thing here")


def test_ratio_is_the_ratio_of_the_two_scores(data: Path, colour_model: Any) -> None:
    """The printed ratio follows from the two printed means."""
    sets = DevSets(data)
    samples = QualitySets.read(sets)
    rows = {r.key: r.interval.value for r in measure(samples, ask(colour_model, samples, sets))}
    assert rows["traces_ratio"] == pytest.approx(rows["traces_cider"] / rows["traces_whole_cider"])


def test_one_backbone_pass_a_photo(
    data: Path, colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked about it, and however the photos fall into batches."""
    sets = DevSets(data)
    samples = QualitySets.read(sets)
    whole = ask(colour_model, samples, sets)
    assert sorted(colour_model.encoded) == [f"{key:012d}.jpg" for key in (1, 2, 3)]
    monkeypatch.setattr("benchmarks.answers.PHOTOS_A_BATCH", 2)
    again = ask(colour_model, samples, sets)
    assert again.set_captions == whole.set_captions
    assert again.trace_captions == whole.trace_captions
    assert (again.box_embeddings == whole.box_embeddings).all()


def test_limit_cuts_every_set(data: Path) -> None:
    """Only the first photo is left anywhere."""
    samples = QualitySets.read(DevSets(data), limit=1)
    assert samples.photos() == ("000000000001.jpg",)
    counts = (len(samples.images), len(samples.region_sets), len(samples.traces))
    assert counts == (1, 2, 2)
    assert len(samples.boxes) == 2


def test_settings_reach_the_model(data: Path, colour_model: Any) -> None:
    """Weighting and options are passed on untouched."""
    sets = DevSets(data)
    ask(colour_model, QualitySets.read(sets), sets, weighting="w", options="o")
    assert colour_model.settings == [("w", "o")]


def test_several_prompts_are_averaged(colour_model: Any) -> None:
    """The mean of unit rows, made unit again."""
    rows = embed_names(colour_model, ["red", "white"], ["{name}", "{name} and blue"])
    expected = np.array([1, 0, 0]) + np.array([1, 0, 1]) / math.sqrt(2)
    assert rows[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_unit_rows_refuse_what_has_no_direction(bad: float) -> None:
    """The row and what it is of are named."""
    with pytest.raises(PatchionerError, match="caption 1"):
        unit_rows(torch.tensor([[1.0, 0.0], [bad, bad]]), "caption")
