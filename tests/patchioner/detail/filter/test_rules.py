from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchioner.detail.filter import clean


@pytest.mark.parametrize(
    ("sentence", "left"),
    [
        ("A woman sits on a bench.", "A woman sits on a bench."),
        ("a man riding a horse", "a man riding a horse"),
        (
            "The key elements in this picture include a woman sitting on a bench.",
            "There is a woman sitting on a bench.",
        ),
        ("In the image, there are two dogs.", "There are two dogs."),
        ("The image shows two dogs on a bed.", "There are two dogs on a bed."),
        ("The image captures a close-up view of a cake.", "There is a cake."),
        ("In this snapshot, we see a person skiing.", "There is a person skiing."),
        ("Sure, the image shows a phone on a table.", "There is a phone on a table."),
        ("In the background, there is a tree.", "In the background, there is a tree."),
        ("In the center of the image, a dog runs.", "In the center of the image, a dog runs."),
        ("A woman who appears to be in her 30s sits on a bench.", "A woman sits on a bench."),
        ("The bus is red, suggesting a tour.", "The bus is red."),
        ("There is a boat, possibly a canoe, on the lake.", "There is a boat on the lake."),
        ("There is a vehicle, possibly a car, truck, or bus.", "There is a vehicle."),
        ("A man sits at a table in what appears to be a café.", "A man sits at a table."),
        ("The wave is small and seems to roll in.", "The wave is small."),
        ("A serene lake lies before a hill.", "A lake lies before a hill."),
        ("An elegant, old house stands there.", "An old house stands there."),
        ("A room with a cozy and inviting corner has a bed.", "A room with a corner has a bed."),
    ],
)
def test_what_is_left(sentence: str, left: str) -> None:
    cleaned = clean(sentence)
    assert (cleaned.text, cleaned.reason) == (left, None)
    assert bool(cleaned.note) == (left != sentence)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("In this image, you can observe the following key elements:", "preamble"),
        ("Here is the modified caption: a dog.", "preamble"),
        ("Certainly!", "preamble"),
        ("The face is not visible in the image.", "preamble"),
        ("The image has a grainy quality.", "preamble"),
        ("There are no visible texts.", "preamble"),
        ("The overall atmosphere is calm and serene.", "mood"),
        ("It adds a touch of warmth to the room.", "mood"),
        ("The dog appears to be a terrier.", "hedge"),
        ("It might be a hotel.", "hedge"),
        ("Fireplace.", "fragment"),
        ("Wall Art.", "fragment"),
        ("It.", "fragment"),
        ("and a dog", "fragment"),
    ],
)
def test_what_is_dropped(sentence: str, reason: str) -> None:
    cleaned = clean(sentence)
    assert (cleaned.text, cleaned.reason) == ("", reason)
    assert cleaned.note


SPLIT = (
    "the image shows|a red bus|appears to be|possibly|, suggesting|sits|on a bench|who|and|in what appears to be|"
    "serene|,|a woman|which might be|atmosphere|The key elements include|(likely|)|two dogs|is|large"
)
PARTS = st.sampled_from(SPLIT.split("|"))


@example(["large", "a red bus", "(likely"])
@given(st.lists(PARTS, min_size=1, max_size=9))
def test_nothing_left_is_hedged_or_a_fragment(parts: list[str]) -> None:
    cleaned = clean(" ".join(parts) + ".")
    assert (cleaned.reason is None) == bool(cleaned.text)
    again = clean(cleaned.text) if cleaned.text else cleaned
    assert again.reason == cleaned.reason  # what is left needs no second cleaning
    for hedge in ("appears", "possibly", "suggesting", "might", "likely", "serene"):
        assert hedge not in cleaned.text
