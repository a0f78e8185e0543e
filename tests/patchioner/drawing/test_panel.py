"""Colours, lines of text, display sizes, and the list beside a photo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchioner.drawing.panel import (
    BLACK,
    LARGEST,
    PAPER,
    SMALLEST,
    WHITE,
    Colour,
    Display,
    Entry,
    add_panel,
    colour_of,
    draw_panel,
    ink_on,
    load_font,
    luminance,
    wrap_text,
)


def _contrast(one: Colour, two: Colour) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_ink_contrasts_with_every_colour() -> None:
    for index in range(100):
        colour = colour_of(index)
        assert _contrast(ink_on(colour), colour) >= 4.5
        assert _contrast(ink_on(colour), colour) == max(
            _contrast(WHITE, colour), _contrast(BLACK, colour)
        )


WORDS = st.lists(st.text("abcmiW.,é", min_size=1, max_size=30), max_size=12)


@settings(max_examples=60, deadline=None)
@given(words=WORDS, width=st.integers(25, 300))
def test_lines_fit_and_keep_every_character(words: list[str], width: int) -> None:
    font = load_font(17)
    lines = wrap_text(" ".join(words), font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 40), (SMALLEST, 480)),
        ((1000, 800), (1000, 800)),
        ((5600, 2800), (LARGEST, LARGEST // 2)),
        ((5000, 1), (LARGEST, 1)),
        ((1, 1), (SMALLEST, SMALLEST)),
    ],
)
def test_the_long_side_is_brought_into_range(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    display = Display.of(Image.new("RGB", size))
    assert display.photo.size == expected
    assert display.image_size == size


LONG = "a very long caption that says everything about nothing at all " * 4


def _entries(count: int, text: str = LONG) -> list[Entry]:
    return [Entry(colour_of(i), str(i + 1), text, "a note") for i in range(count)]


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("text", ["a bus", LONG, "W" * 300])
def test_no_ink_touches_the_right_or_the_lower_edge(columns: int, text: str) -> None:
    panel = np.asarray(draw_panel(_entries(9, text), 800, columns, load_font(18)))
    assert panel.shape[1] == 800
    assert (panel[:, -1] == PAPER).all()
    assert (panel[-1] == PAPER).all()


def test_upright_photos_get_the_list_beside_wide_ones_below() -> None:
    upright, wide = (
        Display.of(Image.new("RGB", (600, 800))),
        Display.of(Image.new("RGB", (800, 400))),
    )
    pages = [add_panel(d.photo, _entries(3, "a bus"), d) for d in (upright, wide)]
    assert pages[0].width > upright.photo.width + 170
    assert pages[0].height < upright.photo.height + 40
    assert pages[1].height > wide.photo.height + 40
    assert pages[1].width < wide.photo.width + 40
