from __future__ import annotations

from collections.abc import Sequence

import pytest

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.fuse import (
    Beside,
    FilterSettings,
    clean,
    filter_statements,
    rarely_said,
    supporting_samples,
    unsupported,
)
from patchioner.detail.values import Claim, DetailRegion, Photo, Statement, Support, Verdict

LEFT = DetailRegion("left", "spatial", (0, 0, 10, 10))
RIGHT = DetailRegion("right", "spatial", (10, 0, 20, 10))
WIDE = DetailRegion("wide", "semantic", (5, 0, 15, 10))
WHOLE = DetailRegion("global", "global", (0, 0, 20, 10))


class Believing:
    """A scorer that knows which words are true."""

    threshold = 0.5
    object_threshold = 0.4
    settings: dict[str, object] = {}

    def __init__(self, **scores: float) -> None:
        self.scores = scores
        self.asked: list[str] = []

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        self.asked += [text for _, text in sentences]
        return [self._support(text) for _, text in sentences]

    def _support(self, text: str) -> Support:
        named = [(word, score) for word, score in self.scores.items() if word in text]
        return Support(min((score for _, score in named), default=0.9), tuple(named))


def judged(
    photo: Photo,
    *said: tuple[str, str, int],
    scorer: Believing | None = None,
    settings: FilterSettings | None = None,
) -> list[Verdict]:
    statements = [Statement(region, sample, text) for text, region, sample in said]
    regions = [WHOLE, LEFT, RIGHT, WIDE]
    plain = settings or FilterSettings(share=0.0)
    return filter_statements(photo, regions, statements, scorer=scorer, settings=plain)


def test_what_says_the_same_is_one_group_with_its_samples_counted_once(photo: Photo) -> None:
    found = judged(
        photo,
        ("A red bus.", "left", 0),
        ("The bus is red. A red bus.", "left", 1),
        ("A cat sleeps.", "left", 2),
        ("The image shows a red bus.", "global", 0),
    )
    kept = [one for one in found if one.kept]
    assert [(one.claim.id, one.agreement) for one in kept] == [("c1", 3), ("c4", 1)]
    assert (kept[0].merged, kept[0].regions) == (("c2", "c3", "c5"), ("left", "global"))
    assert all(one.reason == "duplicate" and "c1" in one.note for one in found if not one.kept)


def test_regions_that_do_not_overlap_do_not_agree(photo: Photo) -> None:
    said = [("A red bus.", name, 0) for name in ("left", "right", "wide")]
    found = judged(photo, *said)
    assert [(one.kept, one.merged) for one in found] == [
        (True, ("c3",)), (True, ()), (False, ())
    ]  # fmt: skip


def test_one_verdict_per_sentence_in_order_with_its_reason(photo: Photo) -> None:
    found = judged(
        photo,
        ("The image shows a red bus. I am sorry, a bus is not visible.", "global", 0),
        ("A red bus. It might rain. Lighting.", "global", 1),
        ("A cat sleeps.", "global", 2),
    )
    assert [one.claim.id for one in found] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    reasons = [one.reason for one in found]
    assert reasons == [None, "preamble", "duplicate", "hedge", "fragment", None]
    assert all(one.kept == (one.reason is None) for one in found)
    assert clean("I see:") is not None


def test_what_the_photo_does_not_support_is_dropped_with_the_thing(photo: Photo) -> None:
    scorer = Believing(bus=0.9, zebra=0.1, cat=0.45)
    texts = ("A bus passes a zebra.", "A cat sleeps.", "A bus waits.")
    said = [(text, "global", sample) for sample, text in enumerate(texts)]
    found = judged(photo, *said, scorer=scorer, settings=FilterSettings(share=0.0))
    assert [one.reason for one in found] == ["object", "unsupported", None]
    assert "'zebra'" in found[0].note
    assert found[1].support is not None and found[1].support.score == 0.45


def test_agreement_can_be_trusted_as_published(photo: Photo) -> None:
    scorer = Believing(zebra=0.1)
    texts = ("A zebra grazes.", "A zebra grazes.", "A zebra and a bus.")
    said = [(text, "global", sample) for sample, text in enumerate(texts)]
    published = FilterSettings(rules=False, trusted_agreement=2, share=0.0)
    found = judged(photo, *said, scorer=scorer, settings=published)
    assert [one.reason for one in found] == [None, "duplicate", "object"]
    assert scorer.asked.count("A zebra grazes.") == 1


def test_what_does_not_fit_is_refused(photo: Photo) -> None:
    with pytest.raises(DetailError, match="'nowhere'"):
        judged(photo, ("A cat.", "nowhere", 0))
    with pytest.raises(DetailError, match="once"):
        filter_statements(photo, [LEFT, LEFT], [])
    for wrong in ({"alike": 2}, {"trusted_agreement": -1}, {"whole_sentences": "some"}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            FilterSettings(**wrong)  # type: ignore[arg-type]


def test_other_samples_of_overlapping_regions_support_a_thing() -> None:
    said = (("A tour bus and a tree.", "left", 0), ("A bus.", "left", 1), ("A tree.", "right", 0))
    claims = [Claim("c", text, region, sample, 0) for text, region, sample in said]
    found = supporting_samples(claims, claims, {("left", "left"), ("right", "right")})
    assert found["left", 0] == Beside(1, 1, {"bus": 1}, {"bus": 1})


WEAK, THING = (Support(score, (("bus", least),)) for score, least in ((0.1, 0.05), (0.1, 0.9)))


@pytest.mark.parametrize(
    ("support", "beside", "changes", "kept"),
    [
        (WEAK, Beside(3, 4, {}, {}), {}, False),  # a weak thing that nobody else names
        (WEAK, Beside(3, 4, {"bus": 1}, {}), {}, True),
        (WEAK, Beside(3, 1, {}, {}), {}, True),  # nobody had the occasion
        (WEAK, Beside(3, 4, {}, {}), {"lone_support": 0.0}, True),
        (Support(0.1, (("bus", 0.3),)), Beside(3, 4, {}, {}), {}, True),
        (THING, Beside(1, 0, {}, {}), {}, False),  # of captions the whole sentence counts
        (THING, Beside(2, 0, {}, {}), {}, True),
        (Support(0.1), Beside(2, 0, {}, {}), {}, False),
        (THING, Beside(2, 0, {}, {}), {"whole_sentences": "always"}, False),
    ],
)
def test_what_is_kept(
    support: Support, beside: Beside, changes: dict[str, object], kept: bool
) -> None:
    settings = FilterSettings(**changes)  # type: ignore[arg-type]
    assert (unsupported(support, beside, Believing(), settings) is None) == kept


@pytest.mark.parametrize(
    ("beside", "share", "word"),
    [
        (Beside(1, 9, {}, {"bus": 4, "red": 1}), 0.4, None),  # the text itself counts, too
        (Beside(1, 9, {}, {"bus": 2, "red": 9}), 0.4, "bus"),
        (Beside(1, 9, {}, {"bus": 9}), 0.4, "red"),  # other words need half as many
        (Beside(1, 9, {}, {}), 0.1, None),
        (Beside(1, 1, {}, {}), 1.0, None),  # nobody had the occasion
        (Beside(2, 9, {}, {}), 1.0, None),  # no caption
    ],
)
def test_what_few_say_is_dropped(beside: Beside, share: float, word: str | None) -> None:
    found = rarely_said("a red bus", beside, share)
    assert found is None if word is None else found is not None and repr(word) in found[1]


def test_of_a_region_that_was_given_only_its_own_texts_tell(photo: Photo) -> None:
    said = [("A red kite.", "mine", 0), ("A kite.", "mine", 1), ("A kite.", "mine", 2)]
    said += [("A bus.", "global", sample) for sample in range(9)]
    kinds = {}
    for kind in ("user", "spatial"):
        regions = [WHOLE, DetailRegion("mine", kind, (0, 0, 5, 5))]  # type: ignore[arg-type]
        statements = [Statement(region, sample, text) for text, region, sample in said]
        verdicts = filter_statements(photo, regions, statements, settings=FilterSettings())
        kinds[kind] = [one.claim.text for one in verdicts if one.kept]
    assert kinds == {"user": ["A kite.", "A bus."], "spatial": ["A bus."]}
