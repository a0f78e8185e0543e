"""The quality command: ranks and targets by hand, the figures of a tiny model, table, report, exit status."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.command import CIDER_WARNING
from benchmarks.quality import QualitySets, ask, main, measure, retrieval_ranks, unit_rows
from patchioner import Patchioner, WholeImage
from patchioner.base.errors import PatchionerError
from tests.benchmarks.conftest import Encoded, World

Capture = pytest.CaptureFixture[str]


def words(world: World, *more: str) -> list[str]:
    return ["--data", str(world.root), "--rounds", "20", *more]


def test_ranks() -> None:
    """First, third, and a tie that counts against the query; a constant embedding retrieves nothing."""
    similarities = np.array([[3, 2, 1], [3, 2, 1], [1, 1, 0]], dtype=np.float32)
    assert retrieval_ranks(similarities, np.array([0, 2, 0])).tolist() == [1, 3, 2]
    ranks = retrieval_ranks(np.ones((4, 5), dtype=np.float32), np.zeros(4, dtype=np.intp))
    assert (ranks == 5).all()


def test_answers_are_those_of_the_model(
    world: World, model: Patchioner, encoded: Encoded, monkeypatch: Any
) -> None:
    """One pass a photo, in the order of the samples, however the photos fall into batches."""
    sets = QualitySets.read(world.root)
    assert {box.references[0] for box in sets.boxes} == {"dog", "cat"}, "people are left out"
    found = ask(model, sets)
    assert sorted(encoded) == [f"photo_{index:02d}" for index in range(11)]
    for samples, said in (
        (sets.region_sets, found.set_captions),
        (sets.traces, found.trace_captions),
    ):
        for sample, caption in zip(samples, said, strict=True):
            path = str(world.root / "photos" / sample.photo)
            assert model.caption(path, [sample.region])[0].text == caption
    features = model.encode(str(world.root / "photos" / sets.boxes[3].photo))
    whole, box = unit_rows(model.embed_regions(features, [WholeImage(), sets.boxes[3].region]), "x")
    np.testing.assert_allclose(found.box_embeddings[3], box, atol=1e-6)
    np.testing.assert_allclose(found.whole_embeddings[sets.boxes[3].photo], whole, atol=1e-6)
    monkeypatch.setattr("benchmarks.quality.PHOTOS_A_BATCH", 2)
    assert ask(model, sets).set_captions == found.set_captions
    right = {sample.photo: sample.references[0] for sample in sets.traces}
    said = [sample.references[0] for sample in sets.traces]
    found = replace(found, whole_captions=right, trace_captions=said)
    rows = {row.key: row.interval.value for row in measure(sets, found, rounds=20)}
    assert rows["traces_ratio"] > 1.2
    assert rows["traces_ratio"] == pytest.approx(rows["traces_cider"] / rows["traces_whole_cider"])
    assert rows["retrieval_r1"] <= rows["retrieval_r5"]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_unit_rows_refuse_what_has_no_direction(bad: float) -> None:
    with pytest.raises(PatchionerError, match="caption 1"):
        unit_rows(torch.tensor([[1.0, 0.0], [bad, bad]]), "caption")


def test_the_command(world: World, tmp_path: Path, loads: list[str], capsys: Capture) -> None:
    """Table and report agree, the same command gives the same figures, an undefined ratio is null."""
    world.change("trace", lambda content: [content.pop(key) for key in list(content)[1:]])
    world.change(
        "trace", lambda content: next(iter(content.values())).update(captions=["zebra", "yak"])
    )
    out = tmp_path / "quality.json"
    outputs = []
    for _ in range(2):
        assert main(words(world, "--seed", "4", "--out", str(out))) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] and CIDER_WARNING in outputs[0]
    assert loads == ["patchioner-mini"] * 2
    report = json.loads(out.read_text())
    rows = {row["key"]: row for row in report["measures"]}
    value = rows["box_naming"]["interval"]["value"]
    assert f"| box naming, % of boxes | 45 | 55 | {value:.1f} |" in outputs[0]
    assert rows["traces_ratio"]["interval"]["value"] is None
    assert rows["traces_ratio"]["passed"] is False
    # One photo scores CIDEr 0 (nothing is rare in a set of one), so the must is missed.
    assert main(words(world, "--limit", "1", "--check")) == 1
    assert "image_cider" in capsys.readouterr().err
    assert report["settings"]["seed"] == 4 and len(report["data_sha256"]["trace"]) == 64
    assert [len(report["predictions"][k]) for k in ("images", "region_sets", "traces")] == [
        11,
        27,
        2,
    ]
