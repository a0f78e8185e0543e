"""Sentences that lean on the one before."""

from __future__ import annotations

import pytest

from patchioner.detail.fuse.pronouns import leans, person_for, pointed, restored, without_adverb


@pytest.mark.parametrize(
    "text",
    [
        "She smiles.",
        "It's red.",
        "This suggests rain.",
        "Both are red.",
        "The other is blue.",
        "Their hats are red.",
    ],
)
def test_what_leans(text: str) -> None:
    assert leans(text)


@pytest.mark.parametrize(
    "text",
    [
        "A woman smiles.",
        "It is raining.",
        "Both cows eat.",
        "Each window is wide.",
        "Other customers wait.",
    ],
)
def test_what_stands_alone(text: str) -> None:
    assert not leans(text)


@pytest.mark.parametrize(
    ("text", "before", "told"),
    [
        ("She wears a hat.", ["A woman sits on a red bench."], "The woman wears a hat."),
        ("Her hat is red.", ["A woman sits on a bench."], "The woman's hat is red."),
        ("It's parked.", ["There is a red bus on the road."], "The bus is parked."),
        ("Its wheels are black.", ["A red bus waits."], "The bus's wheels are black."),
        ("They are grazing.", ["Two black cows stand in a field."], "The cows are grazing."),
        ("They are sitting.", ["A person is on a bench."], "The person is sitting."),
        ("Their hats are red.", ["Two men stand by a car."], "The men's hats are red."),
    ],
)
def test_the_noun_comes_back(text: str, before: list[str], told: str) -> None:
    assert restored(text, before) == (told, 0)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("She smiles.", ["Two women sit."]),
        ("She smiles.", ["A bus waits."]),
        ("He smiles.", ["A man stands by another man."]),
        ("It is red.", ["Two buses wait."]),
        ("It is red.", ["A man waits."]),
        ("It appears that rain falls.", ["A bus waits."]),
        ("It is red.", []),
        ("This is red.", ["A bus waits."]),
    ],
)
def test_no_noun_is_guessed(text: str, before: list[str]) -> None:
    assert restored(text, before) is None


def test_the_nearest_noun_that_agrees_is_taken() -> None:
    before = ["A red bus waits.", "A woman stands.", "Two dogs play."]
    assert restored("It is old.", before) == ("The bus is old.", 0)


def test_the_one_person_of_all_texts() -> None:
    assert person_for("He smiles.", ["A bus.", "A man sits."]) == ("The man smiles.", 1)
    assert person_for("He smiles.", ["A man sits.", "A boy runs."]) is None
    assert person_for("It is red.", ["A bus waits."]) is None


def test_pointing_words_become_articles() -> None:
    assert pointed("These clocks are round.") == "The clocks are round."
    assert pointed("This person is tall.") == "The person is tall."
    assert pointed("This suggests rain.") == "This suggests rain."
    assert without_adverb("Additionally, there is a cup.") == "There is a cup."
