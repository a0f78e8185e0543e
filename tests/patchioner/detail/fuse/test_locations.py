"""Places of a crop in terms of the whole photo."""

from __future__ import annotations

import pytest

from patchioner.detail.fuse.locations import for_whole_photo, names_a_place, place_of

SIZE = (100, 100)
LEFT_TOP, RIGHT, LOW = (0.0, 0.0, 50.0, 50.0), (50.0, 0.0, 100.0, 100.0), (0.0, 55.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("box", "where"),
    [
        (LEFT_TOP, "in the upper left"),
        (RIGHT, "on the right"),
        (LOW, "at the bottom"),
        ((50, 50, 100, 100), "in the lower right"),
        ((0, 0, 100, 45), "at the top"),
        ((30, 30, 70, 70), "in the middle"),
        ((0, 0, 100, 100), None),
        ((20, 0, 90, 100), None),
    ],
)
def test_a_box_has_its_place(box: tuple[float, float, float, float], where: str | None) -> None:
    assert place_of(box, SIZE) == where


@pytest.mark.parametrize(
    ("box", "text", "told"),
    [
        (RIGHT, "On the left, a dog sleeps.", "On the right, a dog sleeps."),
        (RIGHT, "A dog sleeps on the left side of the image.", "A dog sleeps on the right."),
        (LEFT_TOP, "To the right, there is a cup.", "On the left, there is a cup."),
        (LEFT_TOP, "A tree is visible in the foreground.", "A tree is visible."),
        (LEFT_TOP, "Hills rise in the background.", "Hills rise in the background."),
        (LOW, "In the background, there is a fence.", "There is a fence."),
        (LEFT_TOP, "A man in the bottom right corner smiles.", "A man in the upper left smiles."),
        # Things placed by other things, and parts of the body, hold for any crop.
        (RIGHT, "A cup stands to the left of a plate.", "A cup stands to the left of a plate."),
        (RIGHT, "A lamp on the left side of the bed.", "A lamp on the left side of the bed."),
        (RIGHT, "She has a band on the left wrist.", "She has a band on the left wrist."),
        (RIGHT, "A book lies on the top shelf.", "A book lies on the top shelf."),
        (RIGHT, "He looks to the left.", "He looks to the left."),
        (LOW, "In the background is a fence.", "There is a fence."),
    ],
)  # fmt: skip
def test_places_are_those_of_the_photo(
    box: tuple[float, float, float, float], text: str, told: str
) -> None:
    assert for_whole_photo(text, box, SIZE) == told


def test_a_close_up_of_the_crop_is_none_of_the_photo() -> None:
    assert for_whole_photo("There is a close-up of a cat.", RIGHT, SIZE) == "There is a cat."


def test_a_sentence_about_the_whole_photo_is_left_alone() -> None:
    text = "On the left, a dog sleeps in the foreground of the image."
    assert for_whole_photo(text, (0, 0, 100, 95), SIZE) == text


@pytest.mark.parametrize(
    "text",
    [
        "The man on the left reads, and the man on the right sleeps.",
        "The focus of the image is on the dog.",
        "The image is cropped.",
        "The dog is in the foreground.",
        "In the foreground stands a tree.",
    ],
)
def test_what_cannot_be_told_of_the_photo_is_given_up(text: str) -> None:
    assert for_whole_photo(text, LEFT_TOP, SIZE) is None


def test_two_sides_that_stay_apart_are_told() -> None:
    wide = (0.0, 50.0, 100.0, 100.0)
    text = "A man sits on the left, and a woman stands on the right."
    assert for_whole_photo(text, wide, SIZE) == text


def test_a_place_is_noticed() -> None:
    assert names_a_place("In the background, hills rise.")
    assert not names_a_place("A dog sleeps on a mat.")
