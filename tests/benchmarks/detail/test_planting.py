from __future__ import annotations

import pytest

from benchmarks.detail.planting import KINDS, Planted, plant
from benchmarks.metrics.class_names import named_classes

SENTENCES = {
    "a.jpg": ["A red bus passes two men.", "An apple is on a table."],
    "b.jpg": ["A cat sleeps.", "It is there."],
    "c.jpg": ["Three hot dogs on a white plate."],
}
PRESENT = {
    "a.jpg": frozenset({"bus", "car"}),
    "b.jpg": frozenset({"cat", "car"}),
    "c.jpg": frozenset({"hot dog"}),
}


def planted(seed: int = 0) -> list[Planted]:
    return plant(SENTENCES, PRESENT, seed=seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_swapped_object_is_nowhere_in_the_photo(seed: int) -> None:
    for one in planted(seed):
        if "object" in one.kind:
            here = PRESENT[one.photo].union(*map(named_classes, SENTENCES[one.photo]))
            assert named_classes(one.now) and not named_classes(one.now) & here
            assert named_classes(one.was) & here


def test_all_but_the_swapped_word_stays() -> None:
    for one in planted():
        if one.kind != "other photo":
            start = one.true.index(one.was)
            assert one.false.endswith(one.true[start + len(one.was) :])
            assert one.now in one.false and one.false != one.true
        else:
            assert all(one.false not in SENTENCES[photo] for photo in [one.photo])


def test_articles_and_plurals_fit() -> None:
    found = [one for seed in range(40) for one in planted(seed) if one.kind == "object"]
    apples = [one for one in found if one.was == "apple"]
    assert apples
    for one in apples:
        assert one.false.startswith("An " if one.now[0] in "aeiou" else "A ")
    men = [one for one in found if one.was == "men"]
    assert men and all(one.now.endswith("s") or one.now in ("sheep", "broccoli") for one in men)


def test_the_longest_name_is_swapped() -> None:
    found = [one for one in planted() if one.photo == "c.jpg" and one.kind == "object"]
    assert [one.was for one in found] == ["hot dogs"]


def test_every_kind_is_planted_once_a_sentence_at_most() -> None:
    found = planted()
    assert {one.kind for one in found} == set(KINDS)
    assert len({(one.kind, one.true) for one in found}) == len(found)


def test_chance_comes_from_the_seed_and_the_photo_alone() -> None:
    assert planted(1) == planted(1) != planted(2)
    fewer = plant(
        {"b.jpg": SENTENCES["b.jpg"], "a.jpg": SENTENCES["a.jpg"], "c.jpg": SENTENCES["c.jpg"]},
        PRESENT,
    )
    assert sorted(fewer, key=str) == sorted(planted(), key=str)
