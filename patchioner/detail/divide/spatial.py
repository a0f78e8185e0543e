"""Cutting a photo up by place alone: quadrants, the same grown by boxes that lie in them, and grids.

Knows: rectangles, and boxes from wherever. Does not know: what finds the boxes, networks, captions.
"""

from __future__ import annotations

from collections.abc import Sequence

from patchioner.base.errors import OptionError
from patchioner.detail.divide.rectangles import Rectangle, bounding_union, clipped, share_inside

SHARE_INSIDE = 0.3
"""Published: a box joins a quadrant when more than this share of the BOX lies in it."""


def quadrants(image_size: tuple[int, int]) -> list[Rectangle]:
    """The four quarters in the published order: left top, right top, left bottom, right bottom.

    Args:
        image_size: (width, height) in pixels; split at ``width // 2`` and ``height // 2`` as published, or at one half
            exactly where an image is a single pixel wide or high.

    Example:
        >>> quadrants((101, 60))[3]
        (50.0, 30.0, 101.0, 60.0)
    """
    width, height = image_size
    x, y = float(width // 2) or width / 2, float(height // 2) or height / 2
    return [
        (left, top, right, bottom)
        for top, bottom in ((0.0, y), (y, float(height)))
        for left, right in ((0.0, x), (x, float(width)))
    ]


def grid(
    image_size: tuple[int, int], rows: int, columns: int, overlap: float = 0.0
) -> list[Rectangle]:
    """Equal cells that fill the photo, row by row.

    Args:
        image_size: (width, height) in pixels.
        rows, columns: how many, at least 1.
        overlap: share of a cell's side that it has in common with the next, 0 to below 1.

    Returns:
        ``rows * columns`` rectangles whose union is the photo.

    Raises:
        OptionError: fewer than one row or column, or an overlap outside of that.

    Example:
        >>> grid((100, 50), 1, 3, overlap=0.5)
        [(0.0, 0.0, 50.0, 50.0), (25.0, 0.0, 75.0, 50.0), (50.0, 0.0, 100.0, 50.0)]
    """
    if rows < 1 or columns < 1:
        raise OptionError(f"a grid of {rows} x {columns} cells has none: give 1 or more of each")
    if not 0.0 <= overlap < 1.0:
        raise OptionError(f"overlap {overlap} must be 0 or more, and below 1")
    width, height = image_size
    return [
        (left, top, right, bottom)
        for top, bottom in _intervals(height, rows, overlap)
        for left, right in _intervals(width, columns, overlap)
    ]


def grow(
    parts: Sequence[Rectangle], boxes: Sequence[Rectangle], share: float = SHARE_INSIDE
) -> list[tuple[Rectangle, tuple[int, ...]]]:
    """Grow each part to the bounding union with the boxes that lie in it.

    Args:
        parts: rectangles of the photo, such as `quadrants`.
        boxes: of things in it; one may join several parts.
        share: a box joins a part when more than this share of the box lies in it.

    Returns:
        (grown rectangle, positions of the boxes that joined it) per part. The rectangle always holds its part.

    Example:
        >>> grow([(0, 0, 50, 50), (50, 0, 100, 50)], [(40, 10, 60, 70)])
        [((0, 0, 60, 70), (0,)), ((40, 0, 100, 70), (0,))]
    """
    grown = []
    for part in parts:
        joined = tuple(place for place, box in enumerate(boxes) if share_inside(box, part) > share)
        grown.append((bounding_union([part, *(boxes[place] for place in joined)]), joined))
    return grown


def scaled(box: Rectangle, factor: float, image_size: tuple[int, int]) -> Rectangle:
    """The same box about the same centre, `factor` times as wide and high, cut to the image.

    Example:
        >>> scaled((10, 10, 30, 30), 2.0, (35, 100))
        (0.0, 0.0, 35.0, 40.0)
    """
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width, half_height = (box[2] - box[0]) * factor / 2, (box[3] - box[1]) * factor / 2
    return clipped((x - half_width, y - half_height, x + half_width, y + half_height), image_size)


def _intervals(length: int, cells: int, overlap: float) -> list[tuple[float, float]]:
    side = length / (cells - (cells - 1) * overlap)
    step = side * (1.0 - overlap)
    # The last edge is the photo's own, whatever the rounding.
    return [
        (cell * step, float(length) if cell == cells - 1 else cell * step + side)
        for cell in range(cells)
    ]
