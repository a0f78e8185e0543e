"""The list of captions next to a photo.

Knows: coloured badges and wrapped text in columns. Does not know: regions, photos, what the
captions mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from patchioner.drawing.canvas import MARGIN, Display, below, beside
from patchioner.drawing.palette import FAINT_INK, INK, PAPER, Colour, ink_on
from patchioner.drawing.text_layout import Font, line_height, wrap_text

COLUMN = 340  # a column of the panel is at least this wide, in pixels


@dataclass(frozen=True)
class Entry:
    """One line of the list: a badge, a caption, and a fainter note behind it.

    Attributes:
        colour: of the badge; None leaves it out.
        badge: a short text inside the badge, may be empty.
        text: the caption, wrapped.
        note: set on a line of its own below, fainter; may be empty.
    """

    colour: Colour | None
    badge: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class _Block:
    entry: Entry
    lines: list[str]
    notes: list[str]
    height: int


def add_panel(photo: Image.Image, entries: Sequence[Entry], display: Display) -> Image.Image:
    """Put the list beside a photo, or below it where the photo is wide or the list long."""
    font = display.font
    if photo.width <= 1.25 * photo.height:
        widest = max(COLUMN, round(photo.width * 0.45))
        for columns in (1, 2, 3):
            width = columns * min(widest, _natural_width(entries, font)) + (columns - 1) * MARGIN
            panel = draw_panel(entries, width, columns, font)
            if panel.height <= 1.1 * photo.height:
                return beside(photo, panel)
    width = max(photo.width, COLUMN if len(entries) <= 24 else 3 * COLUMN)
    return below(photo, draw_panel(entries, width, max(1, width // COLUMN), font))


def _natural_width(entries: Sequence[Entry], font: Font) -> int:
    """Pixels that the longest entry takes unwrapped, but not less than half a column."""
    longest = max((font.getlength(text) for e in entries for text in (e.text, e.note)), default=0)
    badge = badge_size(max((entry.badge for entry in entries), key=len, default=""), font)
    return max(COLUMN // 2, round(longest) + badge[0] + MARGIN)


def draw_panel(entries: Sequence[Entry], width: int, columns: int, font: Font) -> Image.Image:
    """The list as a picture of `width` pixels and the height that it needs.

    Args:
        entries: in reading order; columns are filled from the left, about equally high.
        width: pixels.
        columns: at most this many; fewer when there are few entries.
        font: from `load_font`.
    """
    columns = max(1, min(columns, len(entries)))
    column_width = (width - (columns - 1) * MARGIN) // columns
    badge = badge_size(max((entry.badge for entry in entries), key=len, default=""), font)
    blocks = [
        _measure(entry, font, column_width - badge[0] - MARGIN // 2, badge[1]) for entry in entries
    ]
    stacks = _stack(blocks, columns)
    height = max(1, *(sum(block.height for block in stack) for stack in stacks))
    panel = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(panel)
    for number, stack in enumerate(stacks):
        top = 0
        for block in stack:
            _draw_block(draw, block, (number * (column_width + MARGIN), top), badge, font)
            top += block.height
    return panel


def badge_size(text: str, font: Font) -> tuple[int, int]:
    """(width, height) in pixels of a badge around a text."""
    height = round(line_height(font) * 1.1)
    return max(height, round(font.getlength(text)) + height // 2), height


def draw_badge(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    size: tuple[int, int],
    colour: Colour,
    text: str,
    font: Font,
) -> None:
    """A rounded, haloed badge with centred text; `corner` is its top left."""
    box = (corner[0], corner[1], corner[0] + size[0] - 1, corner[1] + size[1] - 1)
    draw.rounded_rectangle(box, radius=size[1] // 4, fill=colour, outline=(0, 0, 0), width=1)
    # Centred by the height of a digit: "mm" would leave room for descenders that badges never have.
    digit = -font.getbbox("0", anchor="ls")[1]
    baseline = (corner[0] + size[0] / 2, corner[1] + (size[1] + digit) / 2)
    if text:
        draw.text(baseline, text, fill=ink_on(colour), font=font, anchor="ms")


def _measure(entry: Entry, font: Font, width: float, badge_height: int) -> _Block:
    lines = wrap_text(entry.text, font, width)
    notes = wrap_text(entry.note, font, width) if entry.note else []
    text_height = (len(lines) + len(notes)) * line_height(font)
    return _Block(
        entry, lines, notes, max(text_height, badge_height) + round(line_height(font) * 0.5)
    )


def _stack(blocks: Sequence[_Block], columns: int) -> list[list[_Block]]:
    """Fill columns from the left; each is closed once it has its share of the height."""
    share = sum(block.height for block in blocks) / columns
    stacks: list[list[_Block]] = [[] for _ in range(columns)]
    seen = 0.0
    for block in blocks:
        # A block goes where its middle falls, so a long one is not pushed over by its first line.
        stacks[min(columns - 1, int((seen + block.height / 2) / share))].append(block)
        seen += block.height
    return stacks


def _draw_block(
    draw: ImageDraw.ImageDraw,
    block: _Block,
    corner: tuple[int, int],
    badge: tuple[int, int],
    font: Font,
) -> None:
    left, top = corner
    if block.entry.colour is not None:
        draw_badge(draw, (left, top), badge, block.entry.colour, block.entry.badge, font)
    step = line_height(font)
    # The first line sits level with the middle of the badge.
    shift = badge[1] // 2 - step // 2
    rows = [(line, INK) for line in block.lines] + [(line, FAINT_INK) for line in block.notes]
    for number, (line, ink) in enumerate(rows):
        middle = top + shift + number * step + step // 2
        draw.text((left + badge[0] + MARGIN // 2, middle), line, fill=ink, font=font, anchor="lm")
