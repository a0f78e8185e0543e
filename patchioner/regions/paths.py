"""Regions given by points: traces (the path of a mouse or a pen) and polygons, covered exactly."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import (
    XY,
    Outline,
    Rounding,
    Shape,
    Size,
    as_array,
    items_of,
    shorten,
)
from patchioner.regions.base import points as pairs_of
from patchioner.regions.coverage import (
    TOLERANCE,
    Floats,
    Footprints,
    Indices,
    cell_under,
    in_view,
    off_view,
    span_footprints,
)

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry

# A path shorter than this many pixels is a dot.
_DOT = 1e-9
MOST_CROSSINGS = 1000
"""Of one ring of a polygon with itself: the time to take it apart grows faster than their number."""
Ring = tuple[XY, ...]


@dataclass(frozen=True, init=False, repr=False)
class Trace(Shape):
    """A path over the image; it weighs each patch by the length of the path inside it.

    Points outside the image are dropped and the path is broken there. A path of one point, or
    without length, means the patches under its points.

    Args:
        points: [(x, y), ...], at least one.
        normalized: the points are 0..1 of the image's width and height, not pixels.

    Raises:
        RegionError: no point, or a coordinate that is not finite.

    Example:
        >>> Trace([(0.2, 0.5), (0.8, 0.5)], normalized=True)
        Trace((0.2, 0.5), (0.8, 0.5), normalized=True)
    """

    kind: ClassVar[str] = "trace"
    json_extras: ClassVar[tuple[str, ...]] = ("normalized",)

    points: tuple[XY, ...]
    normalized: bool

    def __init__(self, points: Iterable[object], normalized: bool = False) -> None:
        pairs = pairs_of(points, "trace")
        if not pairs:
            raise RegionError("the trace has no point; give at least one (x, y)")
        object.__setattr__(self, "points", pairs)
        object.__setattr__(self, "normalized", bool(normalized))

    def __repr__(self) -> str:
        return f"Trace({shorten(self.points)}{', normalized=True' * self.normalized})"

    @classmethod
    def from_points_xyt(
        cls, samples: Iterable[Mapping[str, float]], *, normalized: bool = True
    ) -> Self:
        """A trace from mouse samples [{"x": .., "y": .., "t": ..}, ...], in time order.

        Localized Narratives count in 0..1 of the image; say ``normalized=False`` for pixels.
        """
        pairs = []
        for index, sample in enumerate(items_of(samples, "trace")):
            if not isinstance(sample, Mapping) or not {"x", "y"} <= sample.keys():
                raise RegionError(f"sample {index} of the trace is {sample!r:.60}; give x and y")
            pairs.append((sample["x"], sample["y"]))
        return cls(pairs, normalized)

    def pixels(self, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """(n, 2) float64 pixels of the points on an image of (width, height)."""
        array = as_array(self.points)
        with np.errstate(over="ignore"):  # what becomes infinite is off the image
            return array * np.asarray(image_size, dtype=np.float64) if self.normalized else array

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Path lengths, or the published point counts."""
        if rounding == "reference":
            counted = [reference_counts(trace, geometry) for trace in regions]
            return _counted_footprints(np.stack(counted), geometry.grid)
        pairs = [_lengths(trace, geometry) for trace in regions]
        cover = np.stack([cover for cover, _ in pairs])
        return Footprints.of(cover, np.stack([extent for _, extent in pairs]))

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """The published embedding is the mean over ALL patches of count x token (x attention)."""
        counts = reference_counts(self, geometry)
        return float((counts if attended is None else counts * attended).sum()) / counts.size

    def extent(self) -> Floats | None:
        """Around its points, where they are pixels."""
        array = as_array(self.points)
        return None if self.normalized else np.stack([array.min(axis=0), array.max(axis=0)])

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
        return [Outline("line", self.pixels(image_size))]

    def _words(self) -> str:
        return f"of {len(self.points)} points"

    def _value(self) -> object:
        return [list(point) for point in self.points]

    @classmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Self:
        normalized = entry.get("normalized", False)
        if not isinstance(normalized, bool):
            raise RegionError(f"'normalized' is {normalized!r:.80}; give true or false")
        return cls(items_of(entry["trace"], "trace"), normalized)


def _on_image(pixels: Floats, image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    inside = (pixels >= 0.0) & (pixels <= np.asarray(image_size, dtype=np.float64))
    return np.asarray(inside.all(axis=1), dtype=np.bool_)


def _lengths(trace: Trace, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """(h, w) shares of the path that sum to 1, and the (4,) extent, both on the grid."""
    pixels = trace.pixels(geometry.image_size)
    inside = _on_image(pixels, geometry.image_size)
    whole = inside[:-1] & inside[1:]
    starts, ends = pixels[:-1][whole], pixels[1:][whole]
    where, length = _split(starts, ends, geometry)
    cover = np.zeros(geometry.grid, dtype=np.float64)
    if length.sum() > _DOT:
        extent = np.concatenate([where.min(axis=(0, 1)), where.max(axis=(0, 1))])
        middle = where.mean(axis=1)
    else:
        seen = pixels[inside & in_view(pixels, geometry)]
        if not len(seen):
            raise _unseen(trace, geometry, inside)
        middle = np.asarray(geometry.to_grid(seen), dtype=np.float64)
        extent = np.concatenate([middle.min(axis=0), middle.max(axis=0)])
        length = np.ones(len(middle))
    np.add.at(cover, _cells(middle, geometry.grid), length)
    return cover / cover.sum(), extent


def _cells(places: Floats, grid: tuple[int, int]) -> tuple[Indices, Indices]:
    return cell_under(places[:, 1], grid[0]), cell_under(places[:, 0], grid[1])


def _split(starts: Floats, ends: Floats, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """Cut segments (n, 2) -> (n, 2) pixels at every grid line.

    Returns the pieces inside the grid, (m, 2, 2) as start and end in grid units, and their
    (m,) lengths in pixels of the original image: what the hand drew, whatever the stretch.
    """
    a = np.asarray(geometry.to_grid(starts), dtype=np.float64)[:, None, :]
    b = np.asarray(geometry.to_grid(ends), dtype=np.float64)[:, None, :]
    cuts = [np.zeros((len(a), 1)), np.ones((len(a), 1))]
    for axis, cells in ((0, geometry.grid[1]), (1, geometry.grid[0])):
        lines = np.arange(cells + 1, dtype=np.float64)
        span = b[..., axis] - a[..., axis]
        crossing = np.zeros((len(a), cells + 1))
        # A segment along a line, or too short to cross one, is not cut by it.
        np.divide(lines - a[..., axis], span, out=crossing, where=np.abs(span) > 1e-12)
        cuts.append(np.clip(crossing, 0.0, 1.0))
    at = np.sort(np.concatenate(cuts, axis=1), axis=1)[..., None]
    pieces = np.stack([(a + at * (b - a))[:, :-1], (a + at * (b - a))[:, 1:]], axis=2)
    length = np.diff(at[..., 0], axis=1) * np.linalg.norm(ends - starts, axis=1)[:, None]
    middle = pieces.mean(axis=2)
    limits = np.array([geometry.grid[1], geometry.grid[0]]) + TOLERANCE
    kept = ((middle >= -TOLERANCE) & (middle <= limits)).all(axis=2) & (length > 0.0)
    return pieces[kept], length[kept]


def _unseen(trace: Trace, geometry: ImageGeometry, inside: npt.NDArray[np.bool_]) -> RegionError:
    if inside.any():
        return off_view(trace, geometry)
    width, height = geometry.image_size
    units = "0 to 1 of the image, normalized" if trace.normalized else "pixels"
    hint = "" if trace.normalized else "; say normalized=True for points in 0..1"
    return RegionError(
        f"{trace!r} has no point inside the {width}x{height} image; its points are {units}{hint}"
    )


def reference_counts(trace: Trace, geometry: ImageGeometry) -> npt.NDArray[np.float64]:
    """The published arithmetic: how many points fall into each patch, (h, w) float64.

    On the 0..1 coordinates u of the whole image, with g patches along the axis: points outside
    0..1 are dropped, column = min(int(u / (1 / g)), g - 1), every point adds 1, and repeated points
    count again (source: facts about the published Patch-ioner code). Repeated with it: the division
    by 1 / g lets some points on a boundary fall low (0.3 with g = 10 gives 2), and u goes to the
    grid as it is even under a crop. Padding was not published: there u counts over the padded
    square. Not kept: NaN where no point is left is a RegionError.
    """
    pixels = trace.pixels(geometry.image_size)
    cells = np.array([geometry.grid[1], geometry.grid[0]], dtype=np.float64)
    if geometry.fit != "crop" and not _sees_exactly_all(geometry):
        shares = np.asarray(geometry.to_grid(pixels), dtype=np.float64) / cells
    elif trace.normalized:
        # Not by way of pixels and back: u must be the very float that was given.
        shares = as_array(trace.points)
    else:
        shares = pixels / geometry.image_size
    inside = _on_image(pixels, geometry.image_size)
    kept = shares[inside & ((shares >= 0.0) & (shares <= 1.0)).all(axis=1)]
    if not len(kept):
        raise _unseen(trace, geometry, inside)
    counts = np.zeros(geometry.grid, dtype=np.float64)
    # The fast way to write this, kept * cells, rounds other points down.
    np.add.at(counts, _cells(kept / (1.0 / cells), geometry.grid), 1.0)
    return counts


def _sees_exactly_all(geometry: ImageGeometry) -> bool:
    """Whether 0..1 of the image is 0..1 of the grid, as with a stretch."""
    width, height = geometry.image_size
    corners = np.asarray(geometry.to_grid(np.array([[0.0, 0.0], [width, height]])))
    grid = np.array([[0.0, 0.0], [geometry.grid[1], geometry.grid[0]]])
    return bool(np.allclose(corners, grid, rtol=0, atol=TOLERANCE))


def _counted_footprints(counts: Floats, grid: tuple[int, int]) -> Footprints:
    spans = []
    for one in counts:
        rows, columns = np.nonzero(one)
        spans.append((columns.min(), rows.min(), columns.max(), rows.max()))
    extent = span_footprints(np.array(spans, dtype=np.int64), grid)
    cover = counts / counts.sum(axis=(1, 2), keepdims=True)
    return Footprints(cover, extent.centre, extent.half)


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

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
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
        points = items_of(items_of(item, "ring")[0], "point")
    except (RegionError, IndexError):
        return False
    return bool(points) and not isinstance(points[0], (str, Sequence))


def _ring(ring: object) -> Ring:
    pairs = pairs_of(ring, "polygon")
    if len(set(pairs)) < 3:
        raise RegionError(
            f"a polygon needs at least 3 different points, got {len(set(pairs))}: "
            f"[{shorten(pairs)}]; use Box, Point or Trace for less"
        )
    return pairs


def _cover(polygon: Polygon, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """(h, w) shares that sum to 1, and the (4,) extent, both on the grid."""
    with np.errstate(all="ignore"):  # numbers near the largest float: nothing of them is seen
        return _clipped_cover(polygon, geometry)


def _clipped_cover(polygon: Polygon, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    shapely = importlib.import_module("shapely")
    # Clipped in pixels first: far-away points then cannot blow up on the way to the grid.
    seen = shapely.intersection(_area(polygon), shapely.box(*geometry.visible))
    if not shapely.area(seen) > 0.0:
        raise _unseen_polygon(polygon, geometry)
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
        raise _unseen_polygon(polygon, geometry)
    return cover / total, extent


def _area(polygon: Polygon) -> Any:
    shapely = importlib.import_module("shapely")
    rings = [_valid(shapely, as_array(ring)) for ring in polygon.rings]
    return rings[0] if len(rings) == 1 else shapely.union_all(rings)


def _valid(shapely: Any, ring: Floats) -> Any:
    """The area of a ring; RegionError where it crosses itself so often that its parts would take minutes to find."""
    area = shapely.polygons(ring)
    if shapely.is_valid(area):
        return area
    sides = shapely.linestrings(np.stack([ring, np.roll(ring, -1, axis=0)], axis=1))
    some = sides[:: max(1, len(sides) // 24)]
    met = shapely.STRtree(sides).query(some, predicate="crosses").shape[1]
    crossings = met * len(sides) // (2 * len(some))
    if met >= 8 and crossings > MOST_CROSSINGS:
        raise RegionError(
            f"the polygon crosses itself about {crossings:,} times: simplify it, or give it as a mask"
        )
    return shapely.make_valid(area)


def _unseen_polygon(polygon: Polygon, geometry: ImageGeometry) -> RegionError:
    """Which of the two it is: a polygon off the view, or one without any area."""
    shapely = importlib.import_module("shapely")
    if shapely.area(_area(polygon)) > 0.0:
        return off_view(polygon, geometry)
    return RegionError(f"{polygon!r} encloses no area; use Trace for a line")
