"""Photos that show nothing: of one colour, or of noise. Whatever is said of them is invented.

Knows: pixels. Does NOT know: models, so that its limits hold for every checkpoint; texts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

_BLOCK: Final = 8
# Of 3,371 photos of COCO the flattest has 49 levels, and the noisiest 21 times the spread of noise (noise itself: 1).
_LEVELS: Final = 8.0
_TIMES: Final = 6.0
_FEWEST_BLOCKS: Final = 16


def why_blank(image: Image.Image) -> str | None:
    """Why a photo shows nothing, in words; None where it may show something.

    Means of blocks of 8 x 8 pixels are compared. **One colour**: in no channel do two of them differ by more than 8
    of 255 levels; noise of a camera in the dark is averaged away. **Noise**: pixels that have nothing to do with their
    neighbours have means that vary 64 times less than they do (the variance of a mean of n independent values is 1 / n
    of theirs); neighbours in a photo are alike, so that its means vary many times more than that. Below 6 times it is
    noise. What was enlarged from noise, a gradient, or a pattern without meaning is not recognized.

    Args:
        image: RGB, any size; below 16 whole blocks no noise is looked for.

    Example:
        >>> why_blank(Image.new("RGB", (64, 64), "gray"))
        'the photo is of one colour: its parts differ by 0 of 255 levels'
    """
    levels = colour_range(image)
    if levels <= _LEVELS:
        return f"the photo is of one colour: its parts differ by {levels:.0f} of 255 levels"
    times = structure(image)
    if times is not None and times <= _TIMES:
        return (
            "the photo is noise: its pixels have nothing to do with their neighbours "
            f"(structure {times:.1f}; noise has 1, photos have 20 and more)"
        )
    return None


def colour_range(image: Image.Image) -> float:
    """By how much the means of blocks of 8 x 8 pixels differ at most: levels of 0..255, of the worst RGB channel.

    Of small photos smaller blocks: an eighth of the shorter side.

    Example:
        >>> colour_range(Image.new("RGB", (20, 20), "red"))
        0.0
    """
    block = min(max(min(image.size) // _BLOCK, 1), _BLOCK)
    extrema = image.convert("RGB").reduce(block).getextrema()
    return float(max(high - low for low, high in extrema))  # type: ignore[misc]  # a pair per channel


def structure(image: Image.Image) -> float | None:
    """How many times more the means of blocks vary than those of independent pixels would: 1 of noise, 64 at most.

    None where there are fewer than 16 whole blocks of 8 x 8 pixels, or all pixels are alike.

    Example:
        >>> halves = np.repeat([0, 255], 32)[None].repeat(64, 0).astype(np.uint8)
        >>> structure(Image.fromarray(halves))
        64.0
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    rows, columns = grey.shape[0] // _BLOCK, grey.shape[1] // _BLOCK
    whole = grey[: rows * _BLOCK, : columns * _BLOCK]
    spread = float(whole.var()) if whole.size else 0.0
    if rows * columns < _FEWEST_BLOCKS or spread == 0:
        return None
    means = whole.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
    return float(means.var()) * _BLOCK**2 / spread
