"""What is captioned when time is taken: a picture of coloured shapes, and boxes on it.

Knows: pixels and boxes, all from a seed. Does NOT know models or clocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from patchioner.regions import Box


def random_boxes(count: int, image_size: tuple[int, int], *, seed: int) -> list[Box]:
    """Return `count` boxes inside an image of (width, height), 5 to 60 % of each side.

    Example:
        >>> len(random_boxes(3, (640, 480), seed=0))
        3
    """
    random = np.random.default_rng(seed)
    size = np.array(image_size, dtype=np.float64)
    extent = random.uniform(0.05, 0.6, (count, 2)) * size
    corner = random.uniform(0.0, 1.0, (count, 2)) * (size - extent)
    corners = np.concatenate([corner, corner + extent], axis=1)
    return [Box(*map(float, row)) for row in corners]


def make_photo(path: Path, *, seed: int = 0) -> Path:
    """Write a 640 x 480 picture of coloured shapes, for when no photo is given.

    Example:
        >>> make_photo(Path("shapes.jpg"))  # doctest: +SKIP
    """
    random = np.random.default_rng(seed)
    picture = np.empty((480, 640, 3), dtype=np.uint8)
    picture[:] = np.linspace(90, 200, 480, dtype=np.uint8)[:, None, None]
    for left, top, width, height in random.integers(20, 300, (12, 4)):
        picture[top : top + height, left : left + width] = random.integers(0, 255, 3)
    Image.fromarray(picture).save(path, quality=90)
    return path
