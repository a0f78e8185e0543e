"""Polygons of one or several rings, covered exactly."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from patchioner.base.errors import RegionError
from patchioner.regions.base import (
    XY,
    Outline,
    Rounding,
    Shape,
    Size,
    as_array,
    items_of,
    points,
    shorten,
)
from patchioner.regions.coverage import Floats, Footprints, off_view

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry

Ring = tuple[XY, ...]


@dataclass(frozen=True, init=False, repr=False)
class Polygon(Shape):
    """The inside of a closed outline, or of several (their union).

    Args:
        points: a ring, [(x, y), ...] in float pixels of the original image, at least three
            points, closed by itself; or a list of such rings. A ring that crosses itself
            means all the area it encloses.

    Attributes:
        rings: the rings, as tuples of (x, y).

    Raises:
        RegionError: no ring, a ring of fewer than three different points, a coordinate that is
            not finite.

    Example:
        >>> Polygon([(0, 0), (10, 0), (0, 10)])
        Polygon((0, 0), (10, 0), (0, 10))
    """

    kind: ClassVar[str] = "polygon"
    json_key: ClassVar[str] = "polygon"
    extent_is_given: ClassVar[bool] = True

    rings: tuple[Ring, ...]

    def __init__(self, points: Iterable[object]) -> None:
        items = items_of(points, "polygon")
        rings = items if items and _is_ring(items[0]) else [items]
        object.__setattr__(self, "rings", tuple(_ring(ring) for ring in rings))

    def __repr__(self) -> str:
        more = f" and {len(self.rings) - 1} more rings" if len(self.rings) > 1 else ""
        return f"Polygon({shorten(self.rings[0])}{more})"

    @classmethod
    def from_coco(cls, segmentation: Iterable[Iterable[float]]) -> Self:
        """A polygon from COCO's ``segmentation``: rings as flat lists [x1, y1, x2, y2, ...].

        Example:
            >>> Polygon.from_coco([[0, 0, 10, 0, 0, 10]])
            Polygon((0, 0), (10, 0), (0, 10))
        """
        rings = []
        for index, flat in enumerate(items_of(segmentation, "segmentation")):
            values = items_of(flat, f"ring {index} of the segmentation")
            if len(values) % 2:
                raise RegionError(
                    f"ring {index} of the segmentation has {len(values)} numbers; give x, y pairs"
                )
            rings.append(list(zip(values[::2], values[1::2], strict=True)))
        if not rings:
            raise RegionError("the segmentation has no ring; give [[x1, y1, x2, y2, ...], ...]")
        return cls(rings)

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Exact coverage; the published system has no polygons, so both roundings agree."""
        pairs = [_cover(polygon, geometry) for polygon in regions]
        cover = np.stack([cover for cover, _ in pairs])
        return Footprints.of(cover, np.stack([extent for _, extent in pairs]))

    def extent(self) -> Floats:
        """Around its points."""
        array = np.concatenate([as_array(ring) for ring in self.rings])
        return np.stack([array.min(axis=0), array.max(axis=0)])

    def _outline(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("ring", as_array(ring)) for ring in self.rings]

    def _words(self) -> str:
        return f"of {sum(len(ring) for ring in self.rings)} points"

    def _value(self) -> object:
        return [[list(point) for point in ring] for ring in self.rings]

    @classmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Self:
        return cls(items_of(entry["polygon"], "polygon"))


def _is_ring(item: object) -> bool:
    """A ring's items are points, a point's items are numbers."""
    try:
        first = items_of(item, "ring")[0]
    except (RegionError, IndexError):
        return False
    return not isinstance(first, str) and np.ndim(first) == 1  # type: ignore[arg-type]


def _ring(ring: object) -> Ring:
    pairs = points(ring, "polygon")
    if len(set(pairs)) < 3:
        raise RegionError(
            f"a polygon needs at least 3 different points, got {len(set(pairs))}: "
            f"[{shorten(pairs)}]; use Box, Point or Trace for less"
        )
    return pairs


def _cover(polygon: Polygon, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """(h, w) shares that sum to 1, and the (4,) extent, both on the grid."""
    shapely = _shapely()
    # Clipped in pixels first: far-away points then cannot blow up on the way to the grid.
    seen = shapely.intersection(_area(polygon), shapely.box(*geometry.visible))
    if not shapely.area(seen) > 0.0:
        raise _unseen(polygon, geometry)
    shape = shapely.transform(seen, geometry.to_grid)
    extent = np.asarray(shapely.bounds(shape), dtype=np.float64)
    height, width = geometry.grid
    left, top = np.maximum(np.floor(extent[:2]), 0).astype(np.int64)
    right, bottom = np.minimum(np.ceil(extent[2:]), (width, height)).astype(np.int64)
    cover = np.zeros((height, width), dtype=np.float64)
    rows, columns = np.mgrid[top:bottom, left:right]
    cells = shapely.box(columns, rows, columns + 1, rows + 1)
    shapely.prepare(shape)
    partly = shapely.intersects(shape, cells)
    wholly = shapely.contains(shape, cells)
    areas = wholly.astype(np.float64)
    edge = partly & ~wholly
    areas[edge] = shapely.area(shapely.intersection(shape, cells[edge]))
    cover[top:bottom, left:right] = areas
    total = cover.sum()
    if not total > 0.0:
        raise _unseen(polygon, geometry)
    return cover / total, extent


def _shapely() -> ModuleType:
    # Imported when a polygon is used: most callers never need it.
    return importlib.import_module("shapely")


def _area(polygon: Polygon) -> Any:
    shapely = _shapely()
    rings = [shapely.make_valid(shapely.polygons(as_array(ring))) for ring in polygon.rings]
    return rings[0] if len(rings) == 1 else shapely.union_all(rings)


def _unseen(polygon: Polygon, geometry: ImageGeometry) -> RegionError:
    """Which of the two it is: a polygon off the view, or one without any area."""
    shapely = _shapely()
    if shapely.area(_area(polygon)) > 0.0:
        return off_view(polygon, geometry)
    return RegionError(f"{polygon!r} encloses no area; use Trace for a line")
