"""Whole sentences from phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.fuse.locations import for_whole_photo
from patchioner.detail.fuse.sentences import (
    agreed,
    articles,
    be,
    finished,
    joined,
    lower_first,
    opening,
    placed,
    whole_sentence,
    without_lead_in,
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a dog on a couch", "There is a dog on a couch."),
        ("two cats sitting on a table", "There are two cats sitting on a table."),
        ("people on a beach", "There are people on a beach."),
        ("A dog sleeps on a couch", "A dog sleeps on a couch."),
        ("a close up of a cat", "There is a cat."),
        ("a black and white photo of a train", "There is a train."),
        ("a bike parked on the grass", "There is a bike parked on the grass."),
        ("The bike parked there was red", "The bike parked there was red."),
        ("A bus stopped at the corner.", "A bus stopped at the corner."),
        ("The image depicts two cows that graze.", "There are two cows that graze."),
        ("In this image, you can see an umbrella.", "There is an umbrella."),
        ("In the image, there is a umbrella.", "There is an umbrella."),
    ],
)
def test_phrases_become_sentences(text: str, told: str) -> None:
    assert whole_sentence(text) == told


@given(st.text(alphabet="abcdefgh ,.TheAn", min_size=1, max_size=60))
def test_a_whole_sentence_stays_whole(text: str) -> None:
    once = whole_sentence(text)
    assert once == "" or (once[0] == once[0].upper() and once.endswith((".", "!", "?")))


def test_articles_sound_right() -> None:
    assert (
        articles("a hour, a old man, an horse, an unicorn")
        == "an hour, an old man, a horse, a unicorn"
    )
    assert articles("Vitamin A is good") == "Vitamin A is good"


def test_numbers_agree() -> None:
    assert [be(text) for text in ("a dog and two cats", "several dogs", "some grass", "men", "grass")] == [
        "is", "are", "is", "are", "is"
    ]  # fmt: skip


def test_the_paragraph_opens_and_places() -> None:
    assert opening("There are two dogs.") == "The image shows two dogs."
    assert opening("There is no dog.") == "There is no dog."
    assert placed("There is a dog.", "on the left") == "On the left, there is a dog."
    assert placed("Adidas is written.", "on the left") == "Adidas is written."
    assert lower_first("AIR is on it") == "AIR is on it"
    assert finished(" a dog,") == "A dog."
    assert without_lead_in("A photo of a cat") == "A cat"


def test_short_sentences_join() -> None:
    assert joined("There is a dog.", "There are two cats.") == "There is a dog and two cats."
    assert (
        joined("On the left, there is a dog.", "There is a cat.")
        == "On the left, there is a dog and a cat."
    )
    assert joined("There is a dog and a cat.", "There is a bus.") is None
    assert joined("There is a surf board.", "There is a surfboard in it.") is None
    assert joined("A dog sleeps.", "There is a cat.") is None
    assert joined("There is a dog.", "On the left, there is a cat.") is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("There is two dogs.", "There are two dogs."),
        ("There are a dog and a cat.", "There is a dog and a cat."),
        ("On the left, there is people on a beach.", "On the left, there are people on a beach."),
        ("There are furniture in a room.", "There is furniture in a room."),
        ("There is a couple of horses.", "There are a couple of horses."),
        ("There is a lot of traffic.", "There is a lot of traffic."),
        ("There are no dogs.", "There are no dogs."),
        ("There's a cat.", "There's a cat."),
        ("There are sheep on a hill.", "There are sheep on a hill."),
        ("There are deer on a hill.", "There are deer on a hill."),
        ("There are some kind of machines.", "There are some kind of machines."),
        ("There is some grass.", "There is some grass."),
        ("A dog is there.", "A dog is there."),
    ],
)
def test_there_is_agrees(said: str, told: str) -> None:
    assert agreed(said) == told
    assert whole_sentence(said) == told


def test_a_picture_is_called_one_way_everywhere() -> None:
    assert without_lead_in("Within this view provided, two cows.") == "Two cows."
    assert for_whole_photo("A cow in the shot.", (0, 0, 9, 9), (99, 99)) == "A cow."
