"""Colours that can be told apart.

Knows: colours. Does not know: what is drawn with them.
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]

INK: Colour = (28, 28, 32)
FAINT_INK: Colour = (110, 110, 118)
PAPER: Colour = (250, 250, 248)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
OTHER: Colour = (150, 150, 150)

_FIRST: tuple[Colour, ...] = (
    (230, 57, 70),
    (33, 158, 235),
    (255, 196, 0),
    (46, 184, 92),
    (170, 82, 220),
    (255, 128, 30),
    (0, 200, 200),
    (255, 105, 180),
    (150, 200, 40),
    (90, 100, 240),
    (165, 100, 50),
    (120, 220, 190),
)
# Steps of the golden ratio never bring two hues of a short run close together.
_GOLDEN = 0.618033988749895


def colour_of(index: int) -> Colour:
    """The colour of the index-th thing: twelve picked by hand, then an even spread of hues.

    Example:
        >>> colour_of(0)
        (230, 57, 70)
    """
    if index < len(_FIRST):
        return _FIRST[index]
    turn = index - len(_FIRST)
    lightness = (0.5, 0.62, 0.4)[turn % 3]
    red, green, blue = colorsys.hls_to_rgb((0.05 + turn * _GOLDEN) % 1.0, lightness, 0.75)
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
    # WCAG contrast is (brighter + 0.05) / (darker + 0.05); black and white tie at sqrt(1.05 *
    # 0.05) - 0.05.
    return WHITE if luminance(colour) < 0.179 else BLACK
