"""Text in pixels: the font and where lines break.

Knows: Pillow's built-in scalable font. Does not know: what the text says or where it goes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"


@lru_cache(maxsize=32)
def load_font(size: int) -> Font:
    """Pillow's built-in font at `size` pixels; no font file is looked for on the system."""
    return ImageFont.load_default(size)


def line_height(font: Font) -> int:
    """Pixels from one line of text to the next."""
    top, bottom = font.getbbox("Ápgjy")[1::2]
    return round((bottom - top) * 1.25)


def wrap_text(text: str, font: Font, width: float) -> list[str]:
    """Break text into lines of at most `width` pixels.

    Breaks at spaces; a word longer than a line is cut. Every character but the spaces at breaks is
    kept; a line always holds at least one character, so a width below one character is exceeded
    rather than looped on.

    Args:
        text: any text; runs of white space count as one space.
        font: from `load_font`.
        width: pixels.

    Returns:
        At least one line; `[""]` for empty text.

    Example:
        >>> wrap_text("a red bus", load_font(20), 1000)
        ['a red bus']
    """
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        pieces = _cut(word, font, width)
        lines = lines + pieces if lines[-1] else pieces if len(lines) == 1 else lines[:-1] + pieces
    return lines


def _cut(word: str, font: Font, width: float) -> list[str]:
    """Split one word into the fewest pieces that fit."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces
