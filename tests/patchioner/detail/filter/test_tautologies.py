"""Things on, in, with and of themselves."""

from __future__ import annotations

import pytest

from patchioner.detail.filter import clean, filter_statements
from patchioner.detail.filter.tautologies import tautology
from patchioner.detail.photos import open_photo
from patchioner.detail.values import DetailRegion, Statement
from tests.support.tiny import noise_photo


@pytest.mark.parametrize(
    ("said", "rest"),
    [
        ("a cat laying on top of a cat", "a cat laying"),
        ("a black cat on a head", "a black cat"),
        ("a man riding on a man", "a man"),
        ("A man is sitting on a man.", "A man is sitting."),
        ("There is a red bed with a white bed in it, and a lamp.", None),
        ("There is a bed with a white bed in it, and a lamp.", "There is a bed, and a lamp."),
        ("an old building with a lot of old buildings", "an old building"),
        ("a toilet sitting in a bathroom next to a toilet", "a toilet sitting in a bathroom"),
        ("a surf board with a surfboard", "a surf board"),
        ("a white plate topped with a plate of food", "a white plate"),
        ("a couple of people with a group of people", "a couple of people"),
        ("women with bags and bags", "women with bags"),
    ],
)
def test_the_part_goes(said: str, rest: str | None) -> None:
    found = tautology(said)
    assert (None if found is None else found.rest) == rest


@pytest.mark.parametrize(
    "said",
    [
        "A man with another man.",
        "A man stands next to a man.",
        "A man with a man in a blue shirt.",
        "A black dog on top of a white dog.",
        "A woman with a hand on her head.",
        "A cat on a cat's head.",
        "A dog on its back.",
        "A dog with its head out of a window.",
        "A giraffe with a long neck.",
        "A hat on a head.",
        "There is a fruit stand with a variety of fruits.",
        "A woman sits on a bench, with the bench facing the water.",
        "A bus and a bus are parked.",
        "A row of cars next to a row of cars.",
        "A clock tower with a clock.",
    ],
)
def test_what_makes_sense_stays(said: str) -> None:
    assert tautology(said) is None
    assert clean(said).text == said


def test_where_nothing_whole_is_left_all_of_it_goes_with_the_reason() -> None:
    found = clean("food on a plate of food")
    assert (found.text, found.reason) == ("", "tautology")
    assert "'on a plate of food'" in found.note


def test_provenance_says_what_was_cut() -> None:
    whole = DetailRegion("global", "global", (0, 0, 96, 64))
    said = [Statement("global", 0, "a red cat laying on a cat")]
    (verdict,) = filter_statements(open_photo(noise_photo()), [whole], said)
    assert verdict.kept
    assert verdict.claim.text == "A red cat laying"
    assert "'on a cat'" in verdict.note
    assert verdict.note.endswith("was: a red cat laying on a cat")
