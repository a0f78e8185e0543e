from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.divide import overlap_share
from patchioner.detail.judge import (
    Beside,
    FilterSettings,
    Group,
    _unsupported,
    agreeing_groups,
    filter_statements,
    supporting_samples,
    why_blank,
)
from patchioner.detail.score import DenseScorer
from patchioner.detail.values import Claim, DetailRegion, Photo, Statement, Support, Verdict
from tests.support.tiny import noise_photo

LEFT = DetailRegion("left", "spatial", (0, 0, 10, 10))


RIGHT = DetailRegion("right", "spatial", (10, 0, 20, 10))


WIDE = DetailRegion("wide", "semantic", (5, 0, 15, 10))


WHOLE = DetailRegion("global", "global", (0, 0, 20, 10))


REGIONS = {region.id: region for region in (WHOLE, LEFT, RIGHT, WIDE)}


def claims(*said: tuple[str, str, int]) -> list[Claim]:
    return [
        Claim(f"c{place}", text, region, sample, 0)
        for place, (text, region, sample) in enumerate(said, start=1)
    ]


def test_what_says_the_same_is_one_group_with_its_samples_counted_once() -> None:
    said = claims(
        ("A red bus.", "left", 0),
        ("The bus is red.", "left", 1),
        ("A red bus.", "left", 1),
        ("A cat sleeps.", "left", 2),
        ("The image shows a red bus.", "global", 0),
    )
    groups = agreeing_groups(said, REGIONS)
    assert [group.members for group in groups] == [(0, 1, 2, 4), (3,)]
    assert [group.agreement for group in groups] == [3, 1]
    assert groups[0].regions == ("left", "global")


def test_regions_that_do_not_overlap_do_not_agree() -> None:
    said = claims(("A red bus.", "left", 0), ("A red bus.", "right", 0), ("A red bus.", "wide", 0))
    assert [group.members for group in agreeing_groups(said, REGIONS)] == [(0, 2), (1,)]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [(LEFT, LEFT, 1.0), (LEFT, RIGHT, 0.0), (LEFT, WIDE, 0.5), (WHOLE, LEFT, 1.0)],
)
def test_overlap(one: DetailRegion, other: DetailRegion, share: float) -> None:
    assert overlap_share(one, other) == overlap_share(other, one) == share


def noise(width: int = 448, height: int = 448, spread: int = 256) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, spread, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("colour", ["gray", "black", "white", (10, 200, 30)])
@pytest.mark.parametrize("size", [(448, 448), (3, 5), (641, 7)])
def test_one_colour_shows_nothing(
    colour: str | tuple[int, int, int], size: tuple[int, int]
) -> None:
    assert "one colour" in (why_blank(Image.new("RGB", size, colour)) or "")


@pytest.mark.parametrize("quality", [None, 95, 30])
def test_noise_shows_nothing(quality: int | None) -> None:
    photo = noise()
    if quality is not None:
        written = io.BytesIO()
        photo.save(written, "JPEG", quality=quality)
        photo = Image.open(written).convert("RGB")
    assert "noise" in (why_blank(photo) or "")


def test_something_small_or_smooth_is_seen() -> None:
    bird = Image.new("RGB", (448, 448), "white")
    bird.paste((0, 0, 0), (100, 100, 108, 108))
    assert why_blank(bird) is None
    assert why_blank(noise_photo()) is None
    assert why_blank(noise_photo(3, 3)) is None


class Believing:
    """A scorer that knows which words are true."""

    threshold = 0.5
    object_threshold = 0.4

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
        return Support(min((score for _, score in named), default=0.9), tuple(named))


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
    assert verdicts[0].claim.text == "The image shows a red bus."
    assert verdicts[1].claim.text == "The mood is calm."
    assert (verdicts[0].agreement, verdicts[0].merged) == (2, ("c3",))
    assert "c1" in verdicts[2].note
    assert all(verdict.kept == (verdict.reason is None) for verdict in verdicts)


def test_what_the_photo_does_not_bear_out_is_dropped_with_the_thing(
    photo: Photo, regions: list[DetailRegion]
) -> None:
    scorer = Believing(bus=0.9, zebra=0.1, cat=0.45)
    texts = [
        "A bus passes a zebra.",
        "A cat sleeps.",
        "A bus waits.",
    ]
    verdicts = judged(photo, regions, texts, scorer, FilterSettings(lone_caption=0.0))
    assert [one.reason for one in verdicts] == ["object", "unsupported", None]
    assert "'zebra'" in verdicts[0].note
    assert verdicts[1].support is not None and verdicts[1].support.score == 0.45


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


def test_what_does_not_fit_is_refused(photo: Photo, regions: list[DetailRegion]) -> None:
    with pytest.raises(DetailError, match="'nowhere'"):
        filter_statements(photo, regions, [Statement("nowhere", 0, "A cat.")])
    with pytest.raises(DetailError, match="once"):
        filter_statements(photo, [regions[0], regions[0]], [])
    with pytest.raises(OptionError, match="alike is 2"):
        FilterSettings(alike=2)
    with pytest.raises(OptionError, match="trusted_agreement"):
        FilterSettings(trusted_agreement=-1)


WHOLE = DetailRegion("global", "global", (0, 0, 100, 100))


LEFT = DetailRegion("left", "spatial", (0, 0, 50, 100))


RIGHT = DetailRegion("right", "spatial", (50, 0, 100, 100))


PLACES = {region.id: region for region in (WHOLE, LEFT, RIGHT)}


class _Scorer:
    threshold = 0.5
    object_threshold = 0.5
    attribute_threshold = 0.0
    settings: dict[str, object] = {}

    def score(self, photo: Photo, sentences: object) -> list[Support]:
        raise AssertionError("the supports are given")


def claim(name: str, text: str, region: str = "global", sample: int = 0) -> Claim:
    return Claim(name, text, region, sample, 0)


def kept(support: Support, beside: Beside, settings: FilterSettings | None = None) -> bool:
    group = Group(0, (0,), 1, ("global",))
    return _unsupported(group, support, beside, _Scorer(), settings or FilterSettings()) is None


def test_other_samples_of_overlapping_regions_are_witnesses() -> None:
    claims = [
        claim("c1", "A tour bus and a tree.", "left"),
        claim("c2", "A bus.", "left", 1),
        claim("c3", "A bus on a road.", "global"),
        claim("c4", "A tree.", "right"),
    ]
    found = supporting_samples(claims, claims, PLACES)[0]
    assert (found.others, found.sentences) == (2, 1)
    assert (found.supporting("tour bus"), found.supporting("tree")) == (2, 0)


def test_weak_lone_thing_drops_its_sentence() -> None:
    weak = Support(0.1, (("bus", 0.05),))
    assert not kept(weak, Beside(3, 4, {}))
    assert kept(weak, Beside(3, 4, {"bus": 1}))
    assert kept(weak, Beside(3, 1, {}))  # nobody had the occasion
    assert kept(weak, Beside(3, 4, {}), FilterSettings(lone_support=0.0))
    assert kept(Support(0.1, (("bus", 0.3),)), Beside(3, 4, {}))


def test_whole_sentences_count_for_captions() -> None:
    weak = Support(0.1, (("bus", 0.9),))
    assert not kept(weak, Beside(1, 0, {}))
    assert kept(weak, Beside(2, 0, {}))
    assert not kept(Support(0.1), Beside(2, 0, {}))
    assert not kept(weak, Beside(2, 0, {}), FilterSettings(whole_sentences="always"))


def test_lone_caption_needs_more() -> None:
    fair = Support(0.55, (("bus", 0.9),))
    assert not kept(fair, Beside(1, 4, {"bus": 3}))
    assert kept(fair, Beside(1, 1, {}))
    assert kept(fair, Beside(1, 4, {}), FilterSettings(lone_caption=0.0))
