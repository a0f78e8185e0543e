"""Colours differ, and ink shows on them."""

from __future__ import annotations

from itertools import combinations

from patchioner.drawing.palette import BLACK, WHITE, Colour, colour_of, ink_on, luminance


def _contrast(one: Colour, two: Colour) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_luminance_of_the_ends() -> None:
    assert luminance(BLACK) == 0.0
    assert abs(luminance(WHITE) - 1.0) < 1e-9


def test_the_first_twelve_colours_are_far_apart() -> None:
    distances = [
        sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) ** 0.5
        for one, two in combinations([colour_of(i) for i in range(12)], 2)
    ]
    assert min(distances) > 60


def test_no_colour_comes_twice_among_a_hundred() -> None:
    assert len({colour_of(index) for index in range(100)}) == 100


def test_ink_contrasts_with_every_colour() -> None:
    for index in range(100):
        colour = colour_of(index)
        assert _contrast(ink_on(colour), colour) >= 4.5
        assert _contrast(ink_on(colour), colour) == max(
            _contrast(WHITE, colour), _contrast(BLACK, colour)
        )
