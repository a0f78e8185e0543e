"""The photo at display size, and the list of captions next to it: colours, fonts, badges, pages."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

INK: Colour = (28, 28, 32)
FAINT_INK: Colour = (110, 110, 118)
PAPER: Colour = (250, 250, 248)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
OTHER: Colour = (150, 150, 150)

# Smaller photos are enlarged, so that tags do not hide them; both are long sides on the page.
SMALLEST, LARGEST = 720, 1400
MARGIN = 16
COLUMN = 340  # a column of the panel is at least this wide, in pixels

_FIRST: tuple[Colour, ...] = (
    (230, 57, 70), (33, 158, 235), (255, 196, 0), (46, 184, 92), (170, 82, 220), (255, 128, 30),
    (0, 200, 200), (255, 105, 180), (150, 200, 40), (90, 100, 240), (165, 100, 50), (120, 220, 190),
)  # fmt: skip


def colour_of(index: int) -> Colour:
    """The colour of the index-th thing: twelve picked by hand, then an even spread of hues."""
    if index < len(_FIRST):
        return _FIRST[index]
    turn = index - len(_FIRST)
    # Steps of the golden ratio never bring two hues of a short run close together.
    hue, lightness = (0.05 + turn * 0.618033988749895) % 1.0, (0.5, 0.62, 0.4)[turn % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def luminance(colour: Colour) -> float:
    """Relative luminance 0..1 of an sRGB colour (WCAG 2)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with the colour (at least 4.5 to 1)."""
    # Both contrast alike, (brighter + 0.05) / (darker + 0.05), at sqrt(1.05 * 0.05) - 0.05.
    return WHITE if luminance(colour) < 0.179 else BLACK


@lru_cache(maxsize=32)
def load_font(size: int) -> Font:
    """Pillow's built-in font at `size` pixels; no font file is looked for on the system."""
    return ImageFont.load_default(size)


def line_height(font: Font) -> int:
    """Pixels from one line of text to the next."""
    top, bottom = font.getbbox("Ápgjy")[1::2]
    return round((bottom - top) * 1.25)


def wrap_text(text: str, font: Font, width: float) -> list[str]:
    """Break text at spaces into lines of at most `width` pixels, at least one; longer words are cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        pieces = _cut(word, font, width)
        lines = (lines if lines[-1] else lines[:-1]) + pieces
    return lines


def _cut(word: str, font: Font, width: float) -> list[str]:
    """Split one word into the fewest pieces that fit."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


@dataclass(frozen=True)
class Display:
    """A photo at display size that remembers its original size.

    Attributes:
        photo: RGB, its long side within 720..1400 pixels.
        image_size: (width, height) of the original photo: regions are in its pixels.

    Example:
        >>> Display.of(Image.new("RGB", (4000, 3000))).photo.size
        (1400, 1050)
    """

    photo: Image.Image
    image_size: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image | Display) -> Display:
        """Bring a photo to display size; a `Display` is returned as it is."""
        if isinstance(image, Display):
            return image
        long_side = max(image.size)
        ratio = min(max(long_side, SMALLEST), LARGEST) / long_side
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        filter_ = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
        rgb = image.convert("RGB")
        # reducing_gap keeps the filter cheap on huge photos, at less than one grey level's cost.
        return cls(
            rgb if size == image.size else rgb.resize(size, filter_, reducing_gap=3.0), image.size
        )

    def to_display(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Original pixels (n, 2) as (x, y) -> pixels of `photo`."""
        scale = np.array(self.photo.size, dtype=np.float64) / self.image_size
        return np.asarray(points, dtype=np.float64).reshape(-1, 2) * scale

    @property
    def font(self) -> Font:
        """The font that suits this size."""
        return load_font(min(max(round(max(self.photo.size) / 56), 15), 24))


@dataclass(frozen=True)
class Entry:
    """One line of the list: a badge (None: no colour, none), a caption, and a fainter note below it."""

    colour: Colour | None
    badge: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class _Block:
    entry: Entry
    rows: list[tuple[str, Colour]]
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
                return _page(photo, panel, beside=True)
    width = max(photo.width, COLUMN if len(entries) <= 24 else 3 * COLUMN)
    panel = draw_panel(entries, width, max(1, width // COLUMN), font)
    return _page(photo, panel, beside=False)


def _page(photo: Image.Image, panel: Image.Image, *, beside: bool) -> Image.Image:
    """Both on one page with margins: panel right of the photo, or both centred, panel below."""
    width, height = max(photo.width, panel.width), max(photo.height, panel.height)
    if beside:
        width = photo.width + panel.width + MARGIN
        places = [(0, 0), (photo.width + MARGIN, 0)]
    else:
        height = photo.height + panel.height + MARGIN
        places = [((width - photo.width) // 2, 0)]
        places.append(((width - panel.width) // 2, photo.height + MARGIN))
    page = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    for picture, (left, top) in zip((photo, panel), places, strict=True):
        page.paste(picture, (left + MARGIN, top + MARGIN))
    return page


def _natural_width(entries: Sequence[Entry], font: Font) -> int:
    """Pixels that the longest entry takes unwrapped, but not less than half a column."""
    longest = max((font.getlength(text) for e in entries for text in (e.text, e.note)), default=0)
    badge = badge_size(max((entry.badge for entry in entries), key=len, default=""), font)
    return max(COLUMN // 2, round(longest) + badge[0] + MARGIN)


def draw_panel(entries: Sequence[Entry], width: int, columns: int, font: Font) -> Image.Image:
    """The list as a picture of `width` pixels and the height that it needs.

    At most `columns` columns are filled from the left, about equally high.
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
    rows = [(line, INK) for line in wrap_text(entry.text, font, width)]
    rows += [(line, FAINT_INK) for line in wrap_text(entry.note, font, width) if entry.note]
    height = max(len(rows) * line_height(font), badge_height)
    return _Block(entry, rows, height + round(line_height(font) * 0.5))


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
    for number, (line, ink) in enumerate(block.rows):
        middle = top + shift + number * step + step // 2
        draw.text((left + badge[0] + MARGIN // 2, middle), line, fill=ink, font=font, anchor="lm")
