"""The switch for sentences of mood: what it leaves in, and that it leaves nothing else in."""

from __future__ import annotations

import pytest

from patchioner.detail import DetailRegion, Photo, Statement, Verdict, preset
from patchioner.detail.filter import FilterSettings, clean, filter_statements

WARM = "It adds a touch of warmth to the room."
TEXTS = (f"A red bus stops. {WARM}", "A cozy corner has a lamp.", "There might be a dog.")


def judged(photo: Photo, regions: list[DetailRegion], settings: FilterSettings) -> list[Verdict]:
    statements = [Statement("global", sample, text) for sample, text in enumerate(TEXTS)]
    return filter_statements(photo, regions, statements, settings=settings)


def test_mood_goes_unless_it_is_switched_off() -> None:
    assert clean(WARM).reason == "mood"
    assert clean(WARM, mood=False).text == WARM
    assert clean(WARM, mood=False).reason is None


@pytest.mark.parametrize(
    ("sentence", "without", "with_mood"),
    [
        ("A cozy and inviting corner has a lamp.", "A corner has a lamp.", None),
        ("The image shows a serene beach.", "There is a beach.", "There is a serene beach."),
    ],
)
def test_adjectives_of_mood_go_with_it(sentence: str, without: str, with_mood: str | None) -> None:
    assert clean(sentence).text == without
    assert clean(sentence, mood=False).text == (with_mood or sentence)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("There might be a cozy lamp.", "hedge"),
        ("The mood might be calm.", "hedge"),
        ("The overall mood of the image is calm.", "preamble"),
    ],
)
def test_what_else_is_wrong_stays_wrong(sentence: str, reason: str) -> None:
    assert clean(sentence, mood=False).reason == reason


def test_a_sentence_without_mood_is_the_same_either_way() -> None:
    for sentence in ("A red bus stops.", "Two dogs sleep on a couch, suggesting a calm evening."):
        first, second = clean(sentence), clean(sentence, mood=False)
        assert (first.text, first.reason) == (second.text, second.reason)


def test_the_setting_reaches_the_rules(photo: Photo, regions: list[DetailRegion]) -> None:
    usual = judged(photo, regions, FilterSettings())
    moody = judged(photo, regions, FilterSettings(mood=False))
    assert [one.reason for one in usual] == [None, "mood", None, "hedge"]
    assert [one.reason for one in moody] == [None, None, None, "hedge"]
    assert [one.claim.text for one in usual][2] == "A corner has a lamp."
    assert [one.claim.text for one in moody][2] == "A cozy corner has a lamp."


def test_without_rules_it_changes_nothing(photo: Photo, regions: list[DetailRegion]) -> None:
    first, second = (
        judged(photo, regions, FilterSettings(rules=False, mood=mood)) for mood in (True, False)
    )
    assert first == second
    assert all(one.kept for one in first)


def test_a_preset_takes_it_and_has_it_on() -> None:
    usual = preset("default")
    assert usual.filter.mood
    assert not usual.changed({"filter.mood": False}).filter.mood
