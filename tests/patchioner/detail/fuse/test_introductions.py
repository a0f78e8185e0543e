"""What a sentence takes for known."""

from __future__ import annotations

import pytest

from patchioner.detail.fuse.introductions import introduced, without_ties
from patchioner.detail.fuse.locations import without_place


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("There is also a cup.", "There is a cup."),
        ("A man is also visible, and a dog as well.", "A man is visible, and a dog."),
        ("Also visible is a red cup.", "Visible is a red cup."),
        ("The bus additionally has a sign.", "The bus has a sign."),
        ("A dog as well as a cat sits there.", "A dog as well as a cat sits there."),
        ("It is not only red but also large.", "It is not only red but also large."),
        ("A dog sits there.", "A dog sits there."),
    ],
)
def test_ties_to_the_sentence_before_are_cut(said: str, told: str) -> None:
    assert without_ties(said) == told
    assert without_ties(told) == told


@pytest.mark.parametrize(
    ("said", "before", "told"),
    [
        ("The dog has a red collar.", [], "A dog has a red collar."),
        ("The orange umbrella is open.", [], "An orange umbrella is open."),
        ("The dogs sleep.", [], "Dogs sleep."),
        ("The two dogs sleep.", [], "Two dogs sleep."),
        ("The people sit.", [], "People sit."),
        ("The dog sleeps.", ["There is a cat.", "A dog sits."], "The dog sleeps."),
        ("The dog sleeps.", ["Two dogs sit."], "The dog sleeps."),
        ("The man falls.", ["A skier goes down a hill."], "The man falls."),
        ("The man reads.", ["A woman sits."], "A man reads."),
        ("The sky is blue.", [], "The sky is blue."),
        ("The background is dark.", [], "The background is dark."),
        ("The grass is green.", [], "The grass is green."),
        ("The left half is dark.", [], "The left half is dark."),
        ("The largest dog sleeps.", [], "The largest dog sleeps."),
        ("The other dog sleeps.", [], "The other dog sleeps."),
        ("The dog's collar is red.", [], "The dog's collar is red."),
        ("The top of the table is red.", [], "The top of the table is red."),
        ("The living room has a couch.", [], "The living room has a couch."),
        ("A dog sleeps.", [], "A dog sleeps."),
    ],
)
def test_the_for_what_was_not_met(said: str, before: list[str], told: str) -> None:
    assert introduced(said, before) == told
    assert introduced(told, before) == told


def test_a_place_that_opens_a_sentence_is_cut() -> None:
    assert without_place("In the background, two trees stand.") == "Two trees stand."
    assert without_place("In the background is a tree.") == "In the background is a tree."
    assert without_place("On the left side of the road, a bus waits.").startswith("On the left")
