"""Large JPEGs decoded at a half, a quarter or an eighth of their size, where that is all a network looks at.

Knows: JPEG's scaled decoding, EXIF rotation, how the smaller picture lies in the original. Does not know: networks,
regions; what is needed is asked of the caller.

A JPEG holds 8 x 8 blocks of frequencies, and leaving out the high ones gives a smaller picture at a fraction of the
time and memory. The result is not bit for bit that of decoding everything and shrinking it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from patchioner.images import (
    ORIENTATION,
    ImageSource,
    check_size,
    decode_file,
    load_image,
    read_file,
)

Size = tuple[int, int]
FloatBox = tuple[float, float, float, float]
MARGIN = 2.0


@dataclass(frozen=True, eq=False)
class ReducedPhoto:
    """A photo at reduced scale that still knows its original.

    Attributes:
        image: the smaller picture, upright RGB.
        size: (width, height) of the original, upright: the pixels that regions are given in.
        box: XYXY of `image`, float pixels, where the original lies: sides that are no multiple of the scale leave a
            part of the last column or row empty.
    """

    image: Image.Image
    size: Size
    box: FloatBox


Photo = Image.Image | ReducedPhoto
"""What a backbone encodes; both have the `size` of the original."""


def load_reduced(
    source: ImageSource, needed: Callable[[Size], Size], *, margin: float = MARGIN
) -> Photo:
    """Read a picture, decoding a JPEG at the smallest scale that still has `margin` times the pixels needed.

    Args:
        source: as `load_image`. Files that are no JPEGs, and anything that is no file, are read as they are.
        needed: (width, height) of the upright original -> (width, height) that will be looked at, such as
            `Backbone.needed_size`.
        margin: at least this many pixels for each one needed, along both sides.

    Returns:
        A plain image where nothing was to be gained, else a `ReducedPhoto`.

    Raises:
        ImageError: as `load_image`; the limit on size is that of the original.

    Example:
        >>> load_reduced("24-megapixels.jpg", backbone.needed_size).image.size  # doctest: +SKIP
        (1500, 1000)
    """
    if isinstance(source, (str, os.PathLike)):
        return read_file(Path(source), lambda image, name: _decode(image, name, needed, margin))
    return load_image(source)


def _decode(image: Image.Image, name: str, needed: Callable[[Size], Size], margin: float) -> Photo:
    check_size(image, name)
    if not isinstance(image, JpegImageFile) or 0 in image.size:
        return decode_file(image, name)
    original = image.size
    upright = original[::-1] if _orientation(image) >= 5 else original
    wanted = [max(1, math.ceil(side * margin)) for side in needed(upright)]
    if _orientation(image) >= 5:
        wanted.reverse()
    drafted = image.draft(None, (wanted[0], wanted[1]))
    if drafted is None or image.size == original:
        return decode_file(image, name)
    stored, (_, _, width, height) = image.size, drafted[1]
    # Asked for before decoding, which takes the tag away.
    box = _upright_box(_orientation(image), stored, width, height)
    return ReducedPhoto(decode_file(image, name), upright, box)


def _orientation(image: Image.Image) -> int:
    """EXIF's 1..8, and 1 where it says nothing that can be read (`load_image` takes such photos as upright, too)."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF fails in any way; decoding reports it
        return 1
    return value if value in range(1, 9) else 1


def _upright_box(orientation: int, stored: Size, width: float, height: float) -> FloatBox:
    """Where (0, 0, width, height) of the picture as stored lies after the rotation that EXIF asks for."""
    right, bottom = stored[0] - width, stored[1] - height  # what is left empty there
    if orientation >= 5:  # rows become columns
        left_gap = bottom if orientation in (6, 7) else 0.0
        top_gap = right if orientation in (7, 8) else 0.0
        return left_gap, top_gap, left_gap + height, top_gap + width
    left_gap = right if orientation in (2, 3) else 0.0
    top_gap = bottom if orientation in (3, 4) else 0.0
    return left_gap, top_gap, left_gap + width, top_gap + height
