"""Boxes, and the ways other formats write them. Does NOT know weightings or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from patchioner.base.errors import RegionError
from patchioner.regions.base import Rounding, Shape
from patchioner.regions.grid import (
    Footprints,
    box_footprints,
    clip_to_image,
    clip_to_view,
    off_view,
)
from patchioner.regions.reference import reference_box_footprints
from patchioner.regions.values import finite, numbers

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


@dataclass(frozen=True)
class Box(Shape):
    """An axis-aligned box; what sticks out of the image is cut off.

    Args:
        x1, y1: left and top edge, x2, y2: right and bottom edge; float pixels of the original
            image, so ``Box(0, 0, width, height)`` is the whole of it.

    Raises:
        RegionError: a coordinate is not finite, or the box is empty or inverted.

    Example:
        >>> Box(10, 20, 200, 220)
        Box(x1=10.0, y1=20.0, x2=200.0, y2=220.0)
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        """Refuse NaN, empty and inverted boxes at the door."""
        for name in ("x1", "y1", "x2", "y2"):
            object.__setattr__(self, name, finite(getattr(self, name), f"{name} of the box"))
        for low, high in (("x1", "x2"), ("y1", "y2")):
            if getattr(self, high) <= getattr(self, low):
                raise RegionError(
                    f"{self!r} is empty or inverted: {high} must be greater than {low}. "
                    "Boxes are left, top, right, bottom; Box.from_xywh takes left, top, "
                    "width, height; Point takes a single place"
                )

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Self:
        """A box from its left top corner and its size, in pixels.

        Raises:
            RegionError: a value is not finite, or the size is not positive.

        Example:
            >>> Box.from_xywh(10, 20, 190, 200)
            Box(x1=10.0, y1=20.0, x2=200.0, y2=220.0)
        """
        left, top = finite(x, "x of the box"), finite(y, "y of the box")
        right = left + finite(width, "width of the box")
        return cls(left, top, right, top + finite(height, "height of the box"))

    @classmethod
    def from_coco(cls, annotation: Mapping[str, object]) -> Self:
        """The ``bbox`` ([x, y, width, height]) of a COCO annotation."""
        if "bbox" not in annotation:
            raise RegionError(f"the annotation has no 'bbox', only {sorted(annotation)}")
        return cls.from_xywh(*numbers(annotation["bbox"], 4, "bbox"))

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Exact coverage, or the published rounding, of all boxes at once."""
        corners = np.array([(b.x1, b.y1, b.x2, b.y2) for b in regions], dtype=np.float64)
        reference = rounding == "reference"
        boxes = clip_to_image(corners, geometry) if reference else clip_to_view(corners, geometry)
        outside = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
        if len(outside):
            raise off_view(regions[outside[0]], geometry)
        if reference:
            return reference_box_footprints(corners, geometry)
        return box_footprints(boxes, geometry)
