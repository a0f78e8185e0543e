"""Lines fit and lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.drawing.text_layout import line_height, load_font, wrap_text

WORDS = st.lists(st.text("abcmiW.,é", min_size=1, max_size=30), max_size=12)


@settings(max_examples=60, deadline=None)
@given(words=WORDS, width=st.integers(25, 300))
def test_lines_fit_and_keep_every_character(words: list[str], width: int) -> None:
    font = load_font(17)
    lines = wrap_text(" ".join(words), font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)


def test_breaks_at_spaces_when_words_fit() -> None:
    font = load_font(17)
    text = "a tiger fights with the other tiger near the water"
    lines = wrap_text(text, font, 150)
    assert len(lines) > 1
    assert " ".join(lines) == text


def test_one_line_when_there_is_room_and_an_empty_text_is_one_empty_line() -> None:
    assert wrap_text("a  red\nbus", load_font(17), 500) == ["a red bus"]
    assert wrap_text("", load_font(17), 500) == [""]


def test_a_width_below_one_character_still_ends() -> None:
    assert wrap_text("bus", load_font(17), 1) == ["b", "u", "s"]


@pytest.mark.parametrize("size", [15, 24])
def test_line_height_exceeds_the_ink(size: int) -> None:
    font = load_font(size)
    top, bottom = font.getbbox("Ápgjy")[1::2]
    assert line_height(font) > bottom - top
