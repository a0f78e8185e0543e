"""Regions given by points: traces (the path of a mouse or a pen) and polygons, covered exactly."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.geometry import ImageGeometry
from patchioner.regions.base import Floats, Footprints, Outline, Shape, Size, around, as_numpy, items_of, true_extent
from patchioner.regions.shapes import cell_under, in_view, off_view, rows_of

_TOLERANCE = 1e-6  # grid coordinates are products of a few floats: what is nearer than this is the same place
_DOT = 1e-9  # pixels; a shorter path is a dot
MOST_CROSSINGS = 1000  # of a ring with itself: the time to take it apart grows faster than their number
Ring = tuple[tuple[float, float], ...]


def _pairs(values: object, what: str) -> Ring:
    return tuple((x, y) for x, y in rows_of(values, 2, "point", f"the {what}"))


def _shorten(pairs: Ring) -> str:
    """The first points as text, so that an error about 1,000 points stays readable."""
    shown = ", ".join(f"({x:g}, {y:g})" for x, y in pairs[:3])
    return shown + (f", ... {len(pairs) - 3} more" if len(pairs) > 3 else "")


@dataclass(frozen=True, init=False, repr=False)
class Trace(Shape):
    """A path over the image; it weighs each patch by the length of the path inside it.

    Points outside the image are dropped and the path is broken there. A path of one point, or without length, means
    the patches under its points.

    Args:
        points: [(x, y), ...], at least one, finite; else RegionError.
        normalized: the points are 0..1 of the image's width and height, not pixels.

    Example:
        >>> Trace([(0.2, 0.5), (0.8, 0.5)], normalized=True)
        Trace((0.2, 0.5), (0.8, 0.5), normalized=True)
    """

    kind: ClassVar[str] = "trace"
    json_extras: ClassVar[tuple[str, ...]] = ("normalized",)

    points: Ring
    normalized: bool

    def __init__(self, points: Iterable[object], normalized: bool = False) -> None:
        pairs = _pairs(points, "trace")
        if not pairs:
            raise RegionError("the trace has no point; give at least one (x, y)")
        object.__setattr__(self, "points", pairs)
        object.__setattr__(self, "normalized", bool(normalized))

    def __repr__(self) -> str:
        return f"Trace({_shorten(self.points)}{', normalized=True' * self.normalized})"

    @classmethod
    def from_points_xyt(cls, samples: Iterable[Any], *, normalized: bool = True) -> Self:
        """A trace from mouse samples [{"x": .., "y": .., "t": ..}, ...], in time order, of Localized Narratives."""
        pairs = []
        for index, sample in enumerate(items_of(samples, "trace")):
            if not isinstance(sample, Mapping) or not {"x", "y"} <= sample.keys():
                raise RegionError(f"sample {index} of the trace is {sample!r:.60}; give x and y")
            pairs.append((sample["x"], sample["y"]))
        return cls(pairs, normalized)

    def pixels(self, image_size: Size) -> npt.NDArray[np.float64]:
        """(n, 2) float64 pixels of the points on an image of (width, height)."""
        with np.errstate(over="ignore"):  # what becomes infinite is off the image
            return np.array(self.points) * (image_size if self.normalized else (1, 1))

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """Path lengths, or the published point counts."""
        if not reference:
            return _stacked([_lengths(trace, geometry) for trace in shapes])
        counts = np.stack([reference_counts(trace, geometry) for trace in shapes])
        extents = np.stack([true_extent(one).ravel() for one in counts]) + (0.5, 0.5, -0.5, -0.5)
        return counts / counts.sum(axis=(1, 2), keepdims=True), extents

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """The published embedding is the mean over ALL patches of count x token (x attention)."""
        counts = reference_counts(self, geometry)
        return float((counts if attended is None else counts * attended).sum()) / counts.size

    def extent(self) -> Floats | None:
        """Around its points, where they are pixels."""
        return None if self.normalized else around(np.array(self.points))

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("line", self.pixels(image_size))]

    def _words(self) -> str:
        return f"of {len(self.points)} points"

    def _value(self) -> object:
        return [list(point) for point in self.points]

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        normalized = entry.get("normalized", False)
        if not isinstance(normalized, bool):
            raise RegionError(f"'normalized' is {normalized!r:.80}; give true or false")
        return cls(entry["trace"], normalized)


def _stacked(pairs: Sequence[tuple[Floats, Floats]]) -> Footprints:
    """Of a (h, w) cover that does not yet sum to 1 and a (2, 2) extent of each shape."""
    covers = [cover / cover.sum() for cover, _ in pairs]
    return np.stack(covers), np.stack([extent.ravel() for _, extent in pairs])


def _on_image(pixels: Floats, size: Size) -> npt.NDArray[np.bool_]:
    return np.asarray(((pixels >= 0.0) & (pixels <= size)).all(axis=1))


def _lengths(trace: Trace, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """(h, w) lengths of the path, and its (2, 2) extent, both on the grid."""
    pixels = trace.pixels(geometry.image_size)
    inside = _on_image(pixels, geometry.image_size)
    whole = inside[:-1] & inside[1:]
    where, length = _split(pixels[:-1][whole], pixels[1:][whole], geometry)
    middle, extent = where.mean(axis=1), where.reshape(-1, 2)
    if not length.sum() > _DOT:
        seen = pixels[inside & in_view(pixels, geometry)]
        if not len(seen):
            raise _unseen(trace, geometry, inside)
        middle = extent = geometry.to_grid(seen)
        length = np.ones(len(middle))
    return _sums(middle, length, geometry.grid), around(extent)


def _sums(places: Floats, amounts: Floats | float, grid: tuple[int, int]) -> Floats:
    """(h, w) float64: the amounts at grid places (n, 2), added up in the cells under them."""
    cover = np.zeros(grid, dtype=np.float64)
    columns, rows = cell_under(places, grid[::-1]).T
    np.add.at(cover, (rows, columns), amounts)
    return cover


def _split(starts: Floats, ends: Floats, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """Cut segments (n, 2) -> (n, 2) pixels at every grid line, into (m, 2, 2) starts and ends on the grid.

    Lengths (m,) are those in pixels of the original image: what the hand drew, whatever the stretch.
    """
    a, b = geometry.to_grid(starts)[:, None, :], geometry.to_grid(ends)[:, None, :]
    cuts = [np.zeros((len(a), 1)), np.ones((len(a), 1))]
    for axis, cells in ((0, geometry.grid[1]), (1, geometry.grid[0])):
        lines = np.arange(cells + 1, dtype=np.float64)
        span = b[..., axis] - a[..., axis]
        crossing = np.zeros((len(a), cells + 1))
        # A segment along a line, or too short to cross one, is not cut by it.
        np.divide(lines - a[..., axis], span, out=crossing, where=np.abs(span) > 1e-12)
        cuts.append(np.clip(crossing, 0.0, 1.0))
    at = np.sort(np.concatenate(cuts, axis=1), axis=1)[..., None]
    places = a + at * (b - a)
    pieces = np.stack([places[:, :-1], places[:, 1:]], axis=2)
    length = np.diff(at[..., 0], axis=1) * np.linalg.norm(ends - starts, axis=1)[:, None]
    middle = pieces.mean(axis=2)
    limits = np.array(geometry.grid[::-1]) + _TOLERANCE
    kept = ((middle >= -_TOLERANCE) & (middle <= limits)).all(axis=2) & (length > 0.0)
    return pieces[kept], length[kept]


def _unseen(trace: Trace, geometry: ImageGeometry, inside: npt.NDArray[np.bool_]) -> RegionError:
    if inside.any():
        return off_view(trace, geometry)
    width, height = geometry.image_size
    units = "0 to 1, normalized" if trace.normalized else "pixels; say normalized=True for points in 0..1"
    return RegionError(f"{trace!r} has no point in the {width}x{height} image: they are {units}")


def reference_counts(trace: Trace, geometry: ImageGeometry) -> Floats:
    """The published arithmetic: how many points fall into each patch, (h, w) float64.

    On the 0..1 coordinates u of the whole image, with g patches along the axis: points outside 0..1 are dropped,
    column = min(int(u / (1 / g)), g - 1), and every point adds 1. Repeated with it: 1 / g lets some points on a
    boundary fall low (0.3 with g = 10 gives 2), and u goes to the grid as it is even under a crop. Padding was not
    published: there u counts over the padded square. Not kept: NaN where no point is left is a RegionError.
    """
    pixels = trace.pixels(geometry.image_size)
    cells = np.array(geometry.grid[::-1], dtype=np.float64)
    corners = geometry.to_grid([(0.0, 0.0), geometry.image_size])
    fills_grid = np.allclose(corners, (np.zeros(2), cells), rtol=0, atol=_TOLERANCE)
    if geometry.fit != "crop" and not fills_grid:
        shares = geometry.to_grid(pixels) / cells
    elif trace.normalized:
        # Not by way of pixels and back: u must be the very float that was given.
        shares = np.array(trace.points)
    else:
        shares = pixels / geometry.image_size
    inside = _on_image(pixels, geometry.image_size)
    kept = shares[inside & _on_image(shares, (1, 1))]
    if not len(kept):
        raise _unseen(trace, geometry, inside)
    # The fast way to write this, kept * cells, rounds other points down.
    return _sums(kept / (1.0 / cells), 1.0, geometry.grid)


@dataclass(frozen=True, init=False, repr=False)
class Polygon(Shape):
    """The inside of a closed outline, or of several (their union).

    Args:
        points: a ring, [(x, y), ...] in float pixels of the original image, or a list of rings, kept as `rings`. One
            that crosses itself means all the area it encloses; one of fewer than three different points, or with one
            that is not finite, is a RegionError.

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
        return f"Polygon({_shorten(self.rings[0])}{more})"

    @classmethod
    def from_coco(cls, segmentation: Iterable[Iterable[float]]) -> Self:
        """A polygon from COCO's ``segmentation``: rings as flat lists [x1, y1, x2, y2, ...]."""
        rings = []
        for index, ring in enumerate(items_of(segmentation, "segmentation")):
            what = f"ring {index} of the segmentation"
            values = as_numpy(items_of(ring, what))  # flat, or pairs as OpenCV has them
            if values.shape[-1] != 2 and (values.ndim > 1 or values.size % 2):
                raise RegionError(f"{what} has {values.size} numbers; give x, y pairs")
            rings.append(values.reshape(-1, 2).tolist())
        if not rings:
            raise RegionError("the segmentation has no ring; give [[x1, y1, x2, y2, ...], ...]")
        # As the COCO tools do: beside others, a ring that has no area counts for nothing.
        if len(rings) > 1:
            rings = [ring for ring in rings if len(set(_pairs(ring, "polygon"))) > 2] or rings
        return cls(rings)

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """Exact coverage; the published system has no polygons, so both roundings agree."""
        with np.errstate(all="ignore"):  # numbers near the largest float: nothing of them is seen
            return _stacked([_areas(polygon, geometry) for polygon in shapes])

    def extent(self) -> Floats:
        """Around its points."""
        return around(np.concatenate(self.rings))

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("ring", np.array(ring)) for ring in self.rings]

    def _words(self) -> str:
        return f"of {sum(len(ring) for ring in self.rings)} points"

    def _value(self) -> object:
        return [[list(point) for point in ring] for ring in self.rings]

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        return cls(entry["polygon"])


def _is_ring(item: object) -> bool:
    """A ring's items are points, a point's items are numbers."""
    with suppress(RegionError, IndexError):
        return not isinstance(items_of(items_of(item, "ring")[0], "point")[0], Sequence)
    return False


def _ring(ring: object) -> Ring:
    pairs = _pairs(ring, "polygon")
    if len(set(pairs)) < 3:
        got = f"got {len(set(pairs))}: [{_shorten(pairs)}]; use Box, Point or Trace for less"
        raise RegionError(f"a polygon needs at least 3 different points, {got}")
    return pairs


def _areas(polygon: Polygon, geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """(h, w) areas, and the (2, 2) extent, both on the grid."""
    shapely = importlib.import_module("shapely")
    rings = [_valid(shapely, np.array(ring)) for ring in polygon.rings]
    area = rings[0] if len(rings) == 1 else shapely.union_all(rings)
    # Clipped in pixels first: far-away points then cannot blow up on the way to the grid.
    seen = shapely.intersection(area, shapely.box(*geometry.visible))
    cover = np.zeros(geometry.grid, dtype=np.float64)
    if shapely.area(seen) > 0.0:
        shape = shapely.transform(seen, geometry.to_grid)
        extent = np.reshape(shapely.bounds(shape), (2, 2))
        left, top = np.maximum(np.floor(extent[0]), 0).astype(np.int64)
        right, bottom = np.minimum(np.ceil(extent[1]), geometry.grid[::-1]).astype(np.int64)
        rows, columns = np.mgrid[top:bottom, left:right]
        cells = shapely.box(columns, rows, columns + 1, rows + 1)
        shapely.prepare(shape)
        wholly = shapely.contains(shape, cells)
        partly = shapely.intersects(shape, cells) & ~wholly
        part = cover[top:bottom, left:right]
        part[wholly] = 1.0
        part[partly] = shapely.area(shapely.intersection(shape, cells[partly]))
        if cover.any():
            return cover, extent
    if shapely.area(area) > 0.0:
        raise off_view(polygon, geometry)
    raise RegionError(f"{polygon!r} encloses no area; use Trace for a line")


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
        raise RegionError(f"it crosses itself about {crossings:,} times: give it as a mask")
    return shapely.make_valid(area)
