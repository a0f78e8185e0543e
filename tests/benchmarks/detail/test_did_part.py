"""Part "did" by a tiny model: rows, their rivals, mood left in, what is kept of a stopped run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.detail import did_part
from benchmarks.detail.command import main
from benchmarks.detail.did import read_did
from benchmarks.detail.did_bar import (
    ALONE,
    DEMANDED,
    EXTRACTIVE,
    MOOD,
    NO_METEOR,
    OURS,
    RIVALS,
    SEEN,
    UNFILTERED,
)
from benchmarks.detail.did_part import PUBLISHED, fused_texts, run_did
from benchmarks.detail.end_to_end import run_end_to_end
from benchmarks.detail.part import PartResult, Setup
from benchmarks.metrics import rouge_l
from patchioner import Patchioner
from patchioner.detail import Statement, open_photo

WARM = "It adds a touch of warmth to the room."


class Stems:
    """In place of METEOR: another score of texts, without Java."""

    def score(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Any:
        return rouge_l(texts, references, tokenizer=str.split)


@pytest.fixture
def setup(detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner) -> Setup:
    return _setup(detail_data, tmp_path, tiny_detail_model)


@pytest.fixture(scope="module")
def result(
    detail_data: Path, tiny_detail_model: Patchioner, tmp_path_factory: pytest.TempPathFactory
) -> PartResult:
    return run_did(_setup(detail_data, tmp_path_factory.mktemp("out"), tiny_detail_model))


def _setup(data: Path, out: Path, model: Patchioner) -> Setup:
    stems: Any = Stems()
    return Setup(data, out, lambda name: model, words=40, meteor=stems)


def test_each_row_has_its_rivals_at_its_own_length(result: PartResult) -> None:
    values: Any = result.values
    for name in RIVALS:
        words = {one["text"]: one["words"] for one in values[name]}
        assert {name, *RIVALS[name]} <= set(words)
        assert all(words[rival] <= words[name] for rival in RIVALS[name] if rival != ALONE)
    assert {one["text"] for one in values["bar"]} == set(RIVALS)
    assert {one["metric"] for one in values["bar"]} == {"meteor", "cider"}
    assert PUBLISHED in {one["text"] for one in values[OURS]}


def test_what_is_missed_is_what_the_report_says(result: PartResult) -> None:
    values: Any = result.values
    lost = [one for one in values["bar"] if not one["better"]]
    demanded = [one for one in lost if one["rival"] in DEMANDED.get(one["text"], ())]
    assert sum("NOT better" in bar for bar in result.missed) == len(demanded)
    assert result.text.count("NOT better") == len(lost)
    assert NO_METEOR not in result.missed


def test_without_java_the_check_is_not_passed(
    detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner, capsys: Any
) -> None:
    arguments = ["--data", str(detail_data), "--out", str(tmp_path), "--words", "40"]
    arguments += ["--parts", "did", "--java", "no", "--check", "--limit", "2"]
    assert main(arguments, load_model=lambda name: tiny_detail_model) == 1
    assert f"missed: did: {NO_METEOR}" in capsys.readouterr().err


def test_mood_stays_in_one_row_of_those_with_rules(setup: Setup) -> None:
    photos = [
        replace(one, statements=(Statement("global", 0, f"{one.global_text} {WARM}"),))
        for one in read_did(setup.data / "did")
    ]
    texts = fused_texts(photos, setup)
    for name, kept in ((OURS, False), (SEEN, False), (UNFILTERED, True), (MOOD, True)):
        assert all(("warmth" in one.text) == kept for one in texts[name]), name
        assert all(("warmth" in one.same) <= kept for one in texts[name]), name


def test_photos_that_were_looked_at_are_not_looked_at_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = read_did(setup.data / "did")
    first = fused_texts(photos[:2], setup)
    opened: list[str] = []
    once = open_photo

    def counted(path: Any, model: Any) -> Any:
        opened.append(Path(path).name)
        return once(path, model)

    monkeypatch.setattr("benchmarks.detail.did_part.open_photo", counted)
    assert fused_texts(photos[:2], setup) == first
    assert opened == []
    fused_texts(photos, setup)
    assert opened == [photo.name for photo in photos[2:]]
    fused_texts(photos[:1], replace(setup, fresh=True))
    assert opened[2:] == [photos[0].name]


def test_end_to_end_is_scored_by_meteor_where_it_runs(setup: Setup) -> None:
    few = replace(setup, limit=2)
    scored = run_end_to_end(few)
    values: Any = scored.values
    assert all("meteor" in one["scores"] for one in values["texts"])
    assert "METEOR" in scored.text
    without = run_end_to_end(replace(few, meteor=None))
    assert "METEOR" not in without.text


def test_the_literal_rival_is_of_all_that_was_said(setup: Setup) -> None:
    """Not of what the rules leave: a sentence that they drop may be in it."""
    photo = read_did(setup.data / "did")[0]
    moody = replace(photo, statements=(Statement("global", 0, f"A cat sits. {WARM}"),))
    fused = fused_texts([moody], setup)[UNFILTERED]
    block = did_part._block(UNFILTERED, [moody], fused, setup)
    assert WARM in block[EXTRACTIVE].texts[0]
