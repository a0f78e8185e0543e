from __future__ import annotations

from collections.abc import Sequence

import pytest

from patchioner import Patchioner
from patchioner.base.errors import DetailError, OptionError
from patchioner.detail import DetailRegion, Photo, Statement, Support, Verdict
from patchioner.detail.filter import DenseScorer, FilterSettings, filter_statements


class Believing:
    """A scorer that knows which words are true."""

    threshold = 0.5
    object_threshold = 0.4
    attribute_threshold = 0.3

    def __init__(self, **scores: float) -> None:
        self.scores = scores
        self.asked: list[str] = []

    @property
    def settings(self) -> dict[str, object]:
        return {"threshold": self.threshold}

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        self.asked += [text for _, text in sentences]
        return [self._support(text) for _, text in sentences]

    def _support(self, text: str) -> Support:
        named = [(word, score) for word, score in self.scores.items() if word in text]
        colours = [(word, score) for word, score in named if word in ("red", "blue")]
        objects = [pair for pair in named if pair not in colours]
        return Support(
            min((score for _, score in objects), default=0.9), tuple(objects), tuple(colours)
        )


def judged(
    photo: Photo,
    regions: Sequence[DetailRegion],
    texts: Sequence[str],
    scorer: Believing | None = None,
    settings: FilterSettings | None = None,
) -> list[Verdict]:
    statements = [Statement("global", sample, text) for sample, text in enumerate(texts)]
    return filter_statements(photo, regions, statements, scorer=scorer, settings=settings)


def test_one_verdict_per_sentence_in_order(photo: Photo, regions: list[DetailRegion]) -> None:
    texts = [
        "The image shows a red bus. The mood is calm.",
        "A red bus. It might rain. Lighting.",
        "A cat sleeps.",
    ]
    verdicts = judged(photo, regions, texts)
    assert [verdict.claim.id for verdict in verdicts] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    assert [verdict.reason for verdict in verdicts] == [
        None,
        "mood",
        "duplicate",
        "hedge",
        "fragment",
        None,
    ]
    assert verdicts[0].claim.text == "There is a red bus."
    assert verdicts[1].claim.text == "The mood is calm."
    assert (verdicts[0].agreement, verdicts[0].merged) == (2, ("c3",))
    assert "c1" in verdicts[2].note
    assert all(verdict.kept == (verdict.reason is None) for verdict in verdicts)


def test_what_the_photo_does_not_bear_out_is_dropped_with_the_thing(
    photo: Photo, regions: list[DetailRegion]
) -> None:
    scorer = Believing(bus=0.9, zebra=0.1, cat=0.45, red=0.1, blue=0.8)
    texts = [
        "A bus passes a zebra.",
        "A cat sleeps.",
        "A bus waits.",
        "There is a red bus at a stop.",
        "A blue bus.",
    ]
    verdicts = judged(
        photo, regions, texts, scorer, FilterSettings(contradictions=False, lone_caption=0.0)
    )
    assert [one.reason for one in verdicts] == ["object", "unsupported", None, "attribute", None]
    assert "'zebra'" in verdicts[0].note and "'red'" in verdicts[3].note
    assert verdicts[1].support is not None and verdicts[1].support.score == 0.45
    lenient = FilterSettings(contradictions=False, attributes=False, lone_caption=0.0)
    assert judged(photo, regions, texts, scorer, lenient)[3].kept


def test_contradictions_keep_the_better(photo: Photo, regions: list[DetailRegion]) -> None:
    verdicts = judged(photo, regions, ["A red bus.", "A blue bus.", "The bus is blue."])
    assert [one.reason for one in verdicts] == ["contradiction", None, "duplicate"]
    assert verdicts[0].note == 'contradicts "A blue bus." (2 samples) about the colour of bus'
    off = judged(
        photo, regions, ["A red bus.", "A blue bus."], settings=FilterSettings(contradictions=False)
    )
    assert all(one.kept for one in off)


def test_agreement_can_be_trusted_as_published(photo: Photo, regions: list[DetailRegion]) -> None:
    scorer = Believing(zebra=0.1)
    texts = ["A zebra grazes.", "A zebra grazes.", "A zebra and a bus."]
    published = FilterSettings(rules=False, trusted_agreement=2, merge=False)
    assert [one.kept for one in judged(photo, regions, texts, scorer, published)] == [
        True,
        True,
        False,
    ]
    assert scorer.asked.count("A zebra grazes.") == 1


def test_groups_reach_over_regions(photo: Photo, regions: list[DetailRegion]) -> None:
    statements = [Statement(region.id, 0, "A red bus.") for region in regions]
    verdicts = filter_statements(photo, regions, statements)
    assert verdicts[0].regions == ("global", "spatial-1", "spatial-4")
    assert verdicts[2].regions[0] == "spatial-4" and verdicts[2].reason == "duplicate"


def test_the_shipped_kind_of_scorer_works_in_it(
    calibrated: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    verdicts = filter_statements(
        photo,
        regions,
        [Statement("global", 0, "a red bus on a table")],
        scorer=DenseScorer(calibrated),
    )
    assert verdicts[0].support is not None
    assert verdicts[0].kept or verdicts[0].note


def test_nothing_said_gives_nothing(photo: Photo, regions: list[DetailRegion]) -> None:
    assert judged(photo, regions, []) == []
    assert judged(photo, regions, [" ", "Sure!"])[0].reason == "preamble"


def test_what_does_not_fit_is_refused(photo: Photo, regions: list[DetailRegion]) -> None:
    with pytest.raises(DetailError, match="'nowhere'"):
        filter_statements(photo, regions, [Statement("nowhere", 0, "A cat.")])
    with pytest.raises(DetailError, match="one id"):
        filter_statements(photo, [regions[0], regions[0]], [])
    with pytest.raises(OptionError, match="alike is 2"):
        FilterSettings(alike=2)
    with pytest.raises(OptionError, match="trusted_agreement"):
        FilterSettings(trusted_agreement=-1)
