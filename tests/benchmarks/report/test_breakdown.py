"""Bins of size and of boxes, regional measures by sample, and the best and worst samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.bootstrap import bootstrap_mean
from benchmarks.report import read_runs
from benchmarks.report.breakdown import (
    AREA_BINS,
    BOX_BINS,
    bin_mark,
    by_boxes,
    by_size,
    round_edges,
    sample_metrics,
)
from benchmarks.report.samples import ranked


def test_every_region_lies_in_one_bin() -> None:
    for share in [0.0, 0.005, 0.01, 0.0399, 0.04, 0.16, 0.5, 0.9999, 1.0]:
        sample = SimpleNamespace(area_share=share)
        assert sum(inside(sample) for _, inside in AREA_BINS) == 1
    for count in range(1, 40):
        assert sum(inside(SimpleNamespace(box_count=count)) for _, inside in BOX_BINS) == 1
    assert not any(inside(SimpleNamespace(box_count=0)) for _, inside in BOX_BINS)


def test_a_bin_holds_the_mean_of_its_samples(run: Callable[..., Path]) -> None:
    (found,) = read_runs([run("region_set")])
    mark = bin_mark(found, "cider", lambda sample: sample.box_count == 1)
    assert mark is not None
    chosen = [p for p in found.said if p.box_count == 1]
    values = [found.scores("cider")[p.id] for p in chosen]
    due = bootstrap_mean(values, [p.photo for p in chosen], rounds=50, seed=0)
    assert (mark.value, mark.low, mark.high) == (due.value, due.low, due.high)
    assert mark.note == "n = 3" and mark.kind == "run"
    assert bin_mark(found, "cider", lambda sample: sample.box_count == 9) is None


def test_few_photos_have_no_interval(run: Callable[..., Path]) -> None:
    (found,) = read_runs([run("region_set")])
    mark = bin_mark(found, "cider", lambda sample: sample.photo == "000000000001.jpg")
    assert mark is not None and mark.low is None and "too few photos" in mark.note


def test_one_bin_is_no_chart(run: Callable[..., Path]) -> None:
    (sets,) = read_runs([run("region_set", name="sets")])
    (photos,) = read_runs([run("image", name="photos")])
    assert by_boxes("cider", [sets]) is not None
    assert by_boxes("cider", [photos]) is None and by_size("cider", [photos]) is None


def test_sentences_are_not_ranked_by_bleu(run: Callable[..., Path]) -> None:
    assert sample_metrics(read_runs([run("region_set")])) == ["cider", "stem_f", "rouge_l"]


def test_the_best_and_the_worst(run: Callable[..., Path]) -> None:
    (found,) = read_runs([run("region_set")])
    scores = found.scores("cider")
    best, worst = ranked(found, "cider", 2)
    assert sorted(scores.values())[-2:] == sorted(scores[id_] for id_ in best)
    assert sorted(scores.values())[:2] == [scores[id_] for id_ in worst]
    best, worst = ranked(found, "cider", 4)
    assert len(best) == 4 and len(worst) == 2 and not set(best) & set(worst)


@pytest.mark.parametrize("task", ["region_set", "objects"])
def test_regional_samples_make_up_the_totals(task: str, run: Callable[..., Path]) -> None:
    for found in read_runs([run(task, "--baseline=whole")]):
        kind = "object" if task == "objects" else "grounding"
        regional = found.regional
        assert regional is not None
        for name, column in (("margin", regional.margins), ("wins", regional.wins)):
            due = found.metrics[f"{kind}_{name}"]["value"]
            assert np.mean(list(column.values())) == pytest.approx(due, abs=1e-9)
        same, pairs = np.sum(list(regional.pairs.values()), axis=0)
        assert 100 * same / pairs == pytest.approx(found.metrics["repeated_pairs"]["value"])


@pytest.mark.parametrize("values", [[0.0], [0.3, 0.7], [-812.0, 1000.0], [5.0, 5.0], [1e-6, 3e4]])
def test_edges_hold_all_values(values: list[float]) -> None:
    edges = round_edges(values)
    assert edges[0] <= min(0.0, *values) and edges[-1] >= max(values)
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
    assert 8 <= len(edges) <= 40
