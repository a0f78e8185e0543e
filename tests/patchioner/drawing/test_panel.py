"""The list: everything inside, in order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from patchioner.drawing.canvas import Display
from patchioner.drawing.palette import PAPER, colour_of
from patchioner.drawing.panel import Entry, _Block, _stack, add_panel, draw_panel
from patchioner.drawing.text_layout import load_font

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


def test_longer_text_makes_a_higher_panel_with_more_ink() -> None:
    short, long = (draw_panel(_entries(1, t), 340, 1, load_font(18)) for t in ("bus", LONG))
    assert long.height > 2 * short.height
    dark = [int((np.asarray(p).sum(axis=2) < 200).sum()) for p in (short, long)]
    assert dark[1] > 5 * dark[0]


def test_every_badge_colour_shows() -> None:
    panel = np.asarray(draw_panel(_entries(12), 1000, 3, load_font(18)))
    for index in range(12):
        assert (panel == colour_of(index)).all(axis=2).sum() > 50


def test_columns_keep_order_and_are_about_equally_high() -> None:
    blocks = [_Block(Entry(None, "", str(i)), [], [], 10 + i % 7) for i in range(40)]
    stacks = _stack(blocks, 4)
    assert [block for stack in stacks for block in stack] == blocks
    heights = [sum(block.height for block in stack) for stack in stacks]
    assert max(heights) - min(heights) <= 2 * 16


def test_no_entries_make_an_empty_panel() -> None:
    assert draw_panel([], 340, 1, load_font(18)).height == 1


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


def test_a_list_much_longer_than_an_upright_photo_goes_below() -> None:
    display = Display.of(Image.new("RGB", (600, 800)))
    page = add_panel(display.photo, _entries(60), display)
    assert page.height > 1600
    assert page.width < 1100


def test_a_sliver_of_a_photo_still_gets_a_readable_list() -> None:
    display = Display.of(Image.new("RGB", (1, 3000)))
    assert add_panel(display.photo, _entries(2), display).width >= 340
