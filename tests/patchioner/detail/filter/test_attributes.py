from __future__ import annotations

import pytest

from patchioner.detail.filter import conflict, stated, things


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Two red buses.", [("bus", "number", "two"), ("bus", "colour", "red")]),
        ("The bus is grey.", [("bus", "colour", "grey")]),
        ("A wooden bench.", [("bench", "material", "wooden")]),
        ("A man who is sitting on a bench.", [("man", "posture", "sitting")]),
        ("A cloudy sky.", [("sky", "weather", "cloudy")]),
        ("A street at night.", [("time", "time", "night")]),
        ("There is no dog.", [("dog", "presence", "none")]),
        ("A bus on a street.", []),
    ],
)
def test_what_is_stated(sentence: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(one.head, one.family, one.value) for one in stated(sentence)] == expected


@pytest.mark.parametrize(
    ("one", "other", "about"),
    [
        ("A red bus.", "The bus is blue.", ("bus", "colour")),
        ("A gray bus.", "A grey bus.", None),
        ("A red bus.", "A bus.", None),
        ("A black and white dog.", "A black dog.", None),
        ("A red bus and a blue bus.", "A blue bus.", None),
        ("A red tour bus.", "A blue bus.", None),
        ("Red flowers.", "Yellow flowers.", None),
        ("Two dogs.", "Three dogs.", ("dog", "number")),
        ("2 dogs.", "Two dogs.", None),
        ("A man is sitting.", "A man is standing.", ("man", "posture")),
        ("There is no dog.", "A dog sleeps.", ("dog", "presence")),
        ("There is no dog.", "A cat sleeps.", None),
        ("A sunny day.", "The sky is overcast.", ("sky", "weather")),
        ("A wooden bench.", "A metal bench.", ("bench", "material")),
        ("The clock shows 10:10.", "The time on the clock is 3:45.", ("clock", "clock")),
        ("The clock shows 03:45.", "The time is 3:45.", None),
        ("A clock reads 10:10.", "A sign says 3:45.", None),
        ("The sky is clear and blue.", "The sky is overcast.", ("sky", "weather")),
        ("A clear blue sky.", "A cloudy sky.", ("sky", "weather")),
        ("The sky above is overcast.", "A blue sky.", ("sky", "weather")),
        ("The sky is blue with some clouds.", "The sky is cloudy.", None),
        ("The sky is partly cloudy.", "A clear sky.", None),
        ("A blue sky.", "A clear sky.", None),
    ],
)
def test_conflicts(one: str, other: str, about: tuple[str, str] | None) -> None:
    assert conflict(one, other) == about
    assert conflict(other, one) == about


def test_what_cannot_be_pointed_at_is_no_thing() -> None:
    assert things("In the background, a bus adds a sense of depth to the image.") == ["bus"]
