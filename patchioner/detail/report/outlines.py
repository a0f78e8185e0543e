"""Regions as SVG: boxes, and the edges of masks.

Knows: boxes, masks, the syntax of paths. Does NOT know: sentences, pages.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.detail.report.markup import Markup, element
from patchioner.detail.values import DetailRegion

_FINEST = 200  # cells of the longer side of a mask that is drawn


def outline(region: DetailRegion, image_size: tuple[int, int]) -> Markup:
    """A region's outline, twice: a dark casing, and the bright line on it, so that it shows on any photo.

    Args:
        region: of the photo.
        image_size: (width, height) of the photo in pixels, which are the units of the drawing.
    """
    if region.mask is not None and region.mask.any():
        path = mask_path(region.mask, image_size)
        return Markup("".join(element("path", d=path, class_=name) for name in ("casing", "edge")))
    width, height = image_size
    inset = max(width, height) / 400
    left, top = max(region.box[0], inset), max(region.box[1], inset)
    right, bottom = min(region.box[2], width - inset), min(region.box[3], height - inset)
    sides = {
        "x": _short(left),
        "y": _short(top),
        "width": _short(max(right - left, inset)),
        "height": _short(max(bottom - top, inset)),
    }
    return Markup("".join(element("rect", class_=name, **sides) for name in ("casing", "edge")))


def mask_path(mask: npt.NDArray[np.bool_], image_size: tuple[int, int]) -> str:
    """The edges of a mask as the data of an SVG path: straight pieces along its pixels, holes included.

    Large masks are drawn on a grid of 200 cells along the longer side.

    Args:
        mask: (height, width) bool.
        image_size: (width, height) in units of the drawing.

    Example:
        >>> mask_path(np.ones((1, 2), dtype=bool), (2, 1))
        'M0 0H2M0 1H2M0 0V1M2 0V1'
    """
    cells = _reduced(mask)
    across, down = image_size[0] / cells.shape[1], image_size[1] / cells.shape[0]
    pieces = [
        f"M{_short(start * across)} {_short(line * down)}H{_short(end * across)}"
        for line, start, end in _edges(cells)
    ]
    pieces += [
        f"M{_short(line * across)} {_short(start * down)}V{_short(end * down)}"
        for line, start, end in _edges(cells.T)
    ]
    return "".join(pieces)


def _reduced(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    factor = _FINEST / max(mask.shape)
    if factor >= 1:
        return mask
    height, width = mask.shape
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shares = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    found: npt.NDArray[np.bool_] = np.asarray(shares) >= 128
    # A thread thinner than half a cell would vanish.
    return found if found.any() else np.asarray(shares) > 0


def _edges(cells: npt.NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(line, start, end) of each stretch where a row differs from the one above it."""
    padded = np.pad(cells, ((1, 1), (0, 0)))
    differs = np.pad(padded[1:] != padded[:-1], ((0, 0), (1, 1)))
    turns = np.argwhere(differs[:, 1:] != differs[:, :-1])
    starts, ends = turns[::2], turns[1::2]
    return [
        (int(line), int(start), int(end))
        for (line, start), (_, end) in zip(starts, ends, strict=True)
    ]


def _short(value: float) -> str:
    return f"{round(value, 1):g}"
