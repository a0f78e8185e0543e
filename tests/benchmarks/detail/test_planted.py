from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detail.planted import average_precision, main, measure, precision_at, table
from patchioner.detail import DetailRegion, Photo, Support
from tests.support.tiny import noise_photo

SENTENCES = {"a.png": ["A red bus stops.", "A bus waits."], "b.png": ["A cat sleeps.", "Two cats."]}
PRESENT = {"a.png": frozenset({"bus"}), "b.png": frozenset({"cat"})}


class Knowing:
    """Believes sentences that name what is there, and is a little less sure of short ones."""

    threshold = 0.5

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        thing = "bus" if "a.png" in photo.name else "cat"
        return [Support(0.9 + len(text) / 1000 if thing in text else 0.1) for _, text in sentences]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(SENTENCES):
        noise_photo(seed=seed).save(tmp_path / name)
    return tmp_path


def test_a_scorer_that_knows_the_things_drops_their_swaps_and_no_others(folder: Path) -> None:
    kept, rows = measure(Knowing(), None, SENTENCES, PRESENT, folder)
    by_kind = {row.kind: row for row in rows}
    assert kept.value == 1.0
    assert by_kind["object"].dropped.value == by_kind["other photo"].dropped.value == 1.0
    assert by_kind["object"].average_precision == 1.0
    assert by_kind["colour"].dropped.value == by_kind["number"].dropped.value == 0.0
    assert by_kind["object"].count == 4 and by_kind["colour"].count == 1
    assert "object" in table(kept, rows)


def test_precision_equals_counting() -> None:
    generator = np.random.default_rng(0)
    true, false = generator.normal(1, 1, 30), generator.normal(0, 1, 50)
    for recall, precision in zip(
        (0.5, 0.9, 1.0), precision_at(true, false, (0.5, 0.9, 1.0)), strict=True
    ):
        level = sorted(true, reverse=True)[int(np.ceil(30 * recall)) - 1]
        right, wrong = sum(score >= level for score in true), sum(score >= level for score in false)
        assert precision == right / (right + wrong)
    ranked = sorted(
        [(score, True) for score in true] + [(score, False) for score in false], reverse=True
    )
    hits, precisions = 0, []
    for place, (_, right_one) in enumerate(ranked, start=1):
        hits += right_one
        precisions += [hits / place] if right_one else []
    assert average_precision(true, false) == pytest.approx(np.mean(precisions))


def test_missing_data_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--limit", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
