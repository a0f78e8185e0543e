"""Things that somebody found in a photo: a detector, a person, or our own features.

Knows: boxes and masks with name and score, and which of them count. Does not know: who found them, quadrants, captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from patchioner.base.errors import RegionError
from patchioner.detail.divide.rectangles import Rectangle, clipped
from patchioner.region_files import NamedRegion
from patchioner.regions import Box, Mask, Polygon, Region


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing in a photo.

    Attributes:
        box: (left, top, right, bottom), float pixels of the original photo.
        name: what it is, or None where nobody said.
        score: how sure, 0 to 1; 1 of what a person gave.
        mask: (height, width) bool of the original photo, or None where the box is all there is.
    """

    box: Rectangle
    name: str | None = None
    score: float = 1.0
    mask: npt.NDArray[np.bool_] | None = None

    @property
    def region(self) -> Region:
        """As `Patchioner.caption` takes it."""
        return Box(*self.box) if self.mask is None else Mask(self.mask)


Given = Detection | NamedRegion | Region | Rectangle
"""What a user may give as a region: our own values, an entry of a region file, or four numbers."""


def as_detection(given: Given, image_size: tuple[int, int]) -> Detection:
    """Take a region as it was given: cut to the photo, with its name where it has one.

    Args:
        given: a `Detection`; a `Box`, `Mask` or `Polygon`; a `NamedRegion` of `patchioner.region_files.read_regions`
            (our JSON, COCO annotations, SAM's masks); or left, top, right, bottom.
        image_size: (width, height) of the photo.

    Raises:
        RegionError: another kind of region, nothing of it in the photo, or a mask of another size.

    Example:
        >>> as_detection(Box(10, 20, 200, 900), (640, 480)).box
        (10.0, 20.0, 200.0, 480.0)
    """
    if isinstance(given, Detection):
        if given.mask is not None:
            Mask(given.mask).require_fit(image_size)
        return Detection(clipped(given.box, image_size), given.name, given.score, given.mask)
    if isinstance(given, NamedRegion):
        plain = as_detection(given.region, image_size)
        return Detection(plain.box, given.label, plain.score, plain.mask)
    if isinstance(given, Mask):
        given.require_fit(image_size)
        left, top, right, bottom = (float(edge) for edge in given.bounds)
        return Detection((left, top, right, bottom), mask=given.array)
    if isinstance(given, Polygon):
        return as_detection(Mask(_polygon_pixels(given, image_size)), image_size)
    box = given if isinstance(given, Box) else _box_of(given)
    return Detection(clipped((box.x1, box.y1, box.x2, box.y2), image_size))


def trusted(detections: Sequence[Detection], least_score: float, fallback: int) -> list[Detection]:
    """Those above a score; if none is, the first few, as published.

    Args:
        detections: of one photo, in the detector's order.
        least_score: the score must be above it (published 0.3).
        fallback: how many of the first to take where none is (published 2, and none at all where there are fewer).

    Example:
        >>> [d.score for d in trusted([Detection((0, 0, 9, 9), score=s) for s in (0.2, 0.1, 0.05)], 0.3, 2)]
        [0.2, 0.1]
    """
    sure = [detection for detection in detections if detection.score > least_score]
    if sure:
        return sure
    return list(detections[:fallback]) if len(detections) >= fallback else []


def _box_of(given: object) -> Box:
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 4:
        return Box(*given)
    raise RegionError(
        f"{given!r:.80} is no region with an inside: give a Box, Mask or Polygon, an entry of read_regions, "
        "or left, top, right, bottom"
    )


def _polygon_pixels(polygon: Polygon, image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(height, width) bool, the union of the rings; pixels that the outline touches count."""
    canvas = Image.new("L", image_size)
    draw = ImageDraw.Draw(canvas)
    for ring in polygon.rings:
        draw.polygon(ring, fill=1)
    return np.asarray(canvas) > 0
