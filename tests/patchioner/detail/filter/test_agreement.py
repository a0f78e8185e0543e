from __future__ import annotations

import pytest

from patchioner.detail.filter import agreeing_groups, contradicted_groups
from patchioner.detail.filter.agreement import overlap_share
from patchioner.detail.values import Claim, DetailRegion

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
        ("There is a red bus.", "global", 0),
    )
    groups = agreeing_groups(said, REGIONS)
    assert [group.members for group in groups] == [(0, 1, 2, 4), (3,)]
    assert [group.agreement for group in groups] == [3, 1]
    assert groups[0].regions == ("left", "global")


def test_regions_that_do_not_overlap_do_not_agree() -> None:
    said = claims(("A red bus.", "left", 0), ("A red bus.", "right", 0), ("A red bus.", "wide", 0))
    assert [group.members for group in agreeing_groups(said, REGIONS)] == [(0, 2), (1,)]


def test_alike_words_with_another_value_are_another_group() -> None:
    said = claims(
        ("A red bus on a wet street.", "left", 0), ("A blue bus on a wet street.", "left", 1)
    )
    assert len(agreeing_groups(said, REGIONS, alike=0.5)) == 2


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [(LEFT, LEFT, 1.0), (LEFT, RIGHT, 0.0), (LEFT, WIDE, 0.5), (WHOLE, LEFT, 1.0)],
)
def test_overlap(one: DetailRegion, other: DetailRegion, share: float) -> None:
    assert overlap_share(one, other) == overlap_share(other, one) == share


def lost(said: list[Claim], scores: list[float] | None = None) -> list[tuple[int, int]]:
    groups = agreeing_groups(said, REGIONS)
    found = contradicted_groups(groups, said, REGIONS, scores or [None] * len(groups))
    return [(one.loser, one.winner) for one in found]


def test_the_value_that_more_samples_give_wins() -> None:
    said = claims(
        ("A red bus.", "left", 0), ("A blue bus.", "left", 1), ("The bus is blue.", "left", 2)
    )
    assert lost(said, [0.9, 0.1]) == [(0, 1)]


def test_of_equally_many_the_better_supported_wins() -> None:
    said = claims(("A red bus.", "left", 0), ("A blue bus.", "left", 1))
    assert lost(said, [0.1, 0.9]) == [(0, 1)]
    assert lost(said, [0.9, 0.1]) == [(1, 0)]


def test_the_same_noun_elsewhere_is_another_thing() -> None:
    assert lost(claims(("A red bus.", "left", 0), ("A blue bus.", "right", 0))) == []


def test_two_things_of_one_name_in_one_sample_are_two() -> None:
    said = claims(
        ("A red bus.", "left", 0), ("A blue bus.", "left", 0), ("A blue bus stops.", "left", 1)
    )
    assert lost(said) == []


def test_negation_contradicts() -> None:
    said = claims(
        ("A dog sleeps.", "left", 0),
        ("A dog is asleep.", "left", 1),
        ("There is no dog.", "left", 2),
    )
    assert [loser for loser, _ in lost(said)] == [len(agreeing_groups(said, REGIONS)) - 1]
