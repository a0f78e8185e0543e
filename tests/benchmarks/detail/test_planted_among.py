"""One false thing among all that was said: where it is planted, what counts as found, the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.detail import planted_among
from benchmarks.detail.did import DidPhoto
from benchmarks.detail.planted_among import judged, main, measure, planted_statements
from benchmarks.metrics.class_names import SYNONYMS, named_classes
from patchioner import Patchioner
from patchioner.detail import DetailRegion, Photo, Statement, Support, open_photo
from patchioner.detail.filter import FilterSettings
from patchioner.detail.text import split_sentences
from tests.support.tiny import noise_photo

HERE = frozenset({"bus", "dog", "person", "umbrella"})
PHOTO = DidPhoto(
    "a.png",
    (96, 64),
    (
        DetailRegion("global", "global", (0.0, 0.0, 96.0, 64.0)),
        DetailRegion("spatial-1", "spatial", (0.0, 0.0, 48.0, 32.0)),
    ),
    (
        Statement("global", 0, "A red bus stops by a tree. Two dogs sleep on the grass."),
        Statement("spatial-1", 0, "A dog runs along the fence."),
        Statement("spatial-1", 1, "A bus waits at the kerb. The sky is blue."),
        Statement("spatial-1", 2, "A tall tree stands by the road."),
    ),
    ("A man holds an umbrella.",),
)


class Scorer:
    """Bears out the sentences that a test calls true."""

    threshold = 0.5

    def __init__(self, believed: Any) -> None:
        self._believed = believed

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        return [Support(1.0 if self._believed(text) else 0.0) for _, text in sentences]


def opened() -> Photo:
    return open_photo(noise_photo(), name="a.png")


@pytest.mark.parametrize("seed", range(12))
def test_every_other_sample_has_one_thing_that_nobody_names(seed: int) -> None:
    statements, false = planted_statements(PHOTO, seed)
    assert len(false) == 2
    for place, (before, after) in enumerate(zip(PHOTO.statements, statements, strict=True)):
        changed = set(split_sentences(after.text)) - set(split_sentences(before.text))
        assert changed <= false
        assert len(changed) == (place % 2 == 0)
        assert (after.region_id, after.sample) == (before.region_id, before.sample)
    for sentence in false:
        assert named_classes(sentence) - HERE  # not the umbrella of the reference either
    assert "The sky is blue." in statements[2].text  # it names no class: nothing to exchange


def test_what_the_references_name_is_never_planted() -> None:
    """Where the references name every class but one, that one is all that is left."""
    full = replace(PHOTO, references=tuple(f"A {name}." for name in SYNONYMS if name != "zebra"))
    _, false = planted_statements(full)
    assert len(false) == 2
    assert all("zebra" in sentence for sentence in false)


def test_chance_comes_from_the_seed_and_the_name() -> None:
    assert planted_statements(PHOTO, 1) == planted_statements(PHOTO, 1)
    drawn = {frozenset(planted_statements(PHOTO, seed)[1]) for seed in range(6)}
    assert len(drawn) > 1
    assert planted_statements(replace(PHOTO, name="b.png"))[1] != planted_statements(PHOTO)[1]


def test_nothing_is_planted_where_no_sentence_names_a_class() -> None:
    bare = replace(PHOTO, statements=(Statement("global", 0, "The sky is blue."),), references=())
    assert planted_statements(bare) == (list(bare.statements), set())


def test_who_knows_what_is_there_finds_all_and_keeps_the_rest() -> None:
    knowing = Scorer(lambda text: named_classes(text) <= HERE)
    kept, dropped = judged(PHOTO, opened(), knowing, FilterSettings())
    assert dropped == [True, True]
    assert kept == [True] * 4


def test_who_believes_everything_finds_none_and_who_believes_nothing_keeps_none() -> None:
    credulous = judged(PHOTO, opened(), Scorer(lambda text: True), FilterSettings())
    doubting = judged(PHOTO, opened(), Scorer(lambda text: False), FilterSettings())
    assert credulous == ([True] * 4, [False, False])
    assert doubting == ([False] * 4, [True, True])


def test_what_says_the_same_as_another_counts_as_kept() -> None:
    twice = replace(
        PHOTO,
        statements=(
            Statement("global", 0, "The sky is blue."),
            *(Statement("spatial-1", sample, "A tall tree stands.") for sample in range(3)),
        ),
    )
    kept, dropped = judged(twice, opened(), Scorer(lambda text: True), FilterSettings())
    assert kept == [True] * 4
    assert dropped == []


def test_shares_are_over_all_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photo whose falsehoods are found and one whose are not: one half."""
    photos = [PHOTO, replace(PHOTO, name="b.png")]
    for seed, photo in enumerate(photos):
        noise_photo(seed=seed).save(tmp_path / photo.name)

    class Half(Scorer):
        def score(self, photo: Photo, sentences: Any) -> list[Support]:
            sure = photo.name.endswith("b.png")
            self._believed = lambda text: sure or named_classes(text) <= HERE
            return super().score(photo, sentences)

    monkeypatch.setattr(planted_among, "DenseScorer", Half)
    monkeypatch.setattr(planted_among, "open_photo", lambda path, model: open_photo(path))
    model: Any = None
    kept, dropped = measure(photos, tmp_path, model, FilterSettings())
    assert kept.value == 1.0
    assert (dropped.value, dropped.low, dropped.high) == (0.5, 0.0, 1.0)


def test_the_command(
    detail_data: Path,
    tiny_detail_model: Patchioner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Patchioner, "from_pretrained", lambda name: tiny_detail_model)
    arguments = ["--data", str(detail_data), "--references", "--limit", "2"]
    told = []
    for _ in range(2):
        assert main(arguments) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    first, second = told[0].splitlines()
    assert first.startswith("true kept: ") and second.startswith("planted dropped: ")
