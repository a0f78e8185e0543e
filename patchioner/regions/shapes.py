"""Points, patches, boxes, the whole image, and sets; the arithmetic between pixels and patches; numbers of callers.

"Pixels" are pixels of the ORIGINAL image (x right, y down, pixel j spans [j, j + 1]); "grid" coordinates are
(column, row) in patch units, cell k spans [k, k + 1].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import ImageGeometry
from patchioner.regions.base import Floats, Footprints, Indices, Outline, Region, Shape, Size, as_numpy, listed, one_hot
from patchioner.regions.base import items_of as items_of


def finite(value: object, what: str) -> float:
    """``value`` as a float; RegionError naming ``what`` when it is no finite number."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        if math.isfinite(number := float(value)):  # type: ignore[arg-type]
            return number
        shown = str(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        try:
            shown = f"{value!r:.80}"
        except ValueError:  # Python refuses to write integers of thousands of digits
            shown = f"a {type(value).__name__} of very many digits"
    raise RegionError(f"{what} is {shown}; give a finite number of pixels")


def numbers(values: object, count: int, what: str) -> list[float]:
    """Exactly ``count`` finite floats out of any sequence."""
    items = items_of(values, what)
    if len(items) != count:
        raise RegionError(f"{what} has {len(items)} numbers, {values!r:.80}; give {count}")
    return [finite(item, what) for item in items]


def rows_of(values: object, count: int, one: str, what: str) -> list[list[float]]:
    """Exactly ``count`` finite floats of each item of a list; errors call an item ``one`` of ``what``."""
    return [numbers(row, count, f"{one} {index} of {what}") for index, row in enumerate(items_of(values, what))]


def in_view(points: Floats, geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """Which of the (n, 2) pixel points the grid sees; edges count as inside."""
    low, high = np.reshape(geometry.visible, (2, 2))
    return np.asarray(((points >= low) & (points <= high)).all(axis=1))


def off_view(region: object, geometry: ImageGeometry) -> RegionError:
    """The error for a region that the model does not see at all."""
    width, height = geometry.image_size
    x1, y1, x2, y2 = geometry.visible
    image = f"{width}x{height} image (x {x1:g} to {x2:g}, y {y1:g} to {y2:g})"
    message = f"{region!r} lies outside what the model sees of the {image}; give pixels of the original image"
    if (x2 - x1, y2 - y1) != (width, height):
        message += ", or choose a preprocessing that keeps the whole image (stretch, pad or aspect)"
    return RegionError(message)


def require_seen(seen: Any, shapes: Sequence[Shape], geometry: ImageGeometry) -> None:
    """The error for the first of the shapes that is not seen, (n,) bool."""
    if not np.all(seen):
        raise off_view(shapes[int(np.argmin(seen))], geometry)


def axis_overlap(low: Floats, high: Floats, cells: int) -> Floats:
    """Length of each interval inside each unit cell: (n,), (n,) -> (n, cells) float64."""
    left = np.arange(cells, dtype=np.float64)
    inside = np.minimum(high[:, None], left + 1.0) - np.maximum(low[:, None], left)
    return np.asarray(np.maximum(inside, 0.0))


def cell_under(positions: Floats, cells: npt.ArrayLike) -> Indices:
    """Index of the cell under each grid coordinate; the far edge belongs to the last cell."""
    # Clipped before the cast: a float beyond int64 would wrap around.
    return np.clip(np.floor(positions), 0, np.subtract(cells, 1)).astype(np.int64)


def clip_boxes(boxes: Floats, limits: Sequence[float]) -> Floats:
    """Cut (n, 4) XYXY boxes to one box; a box outside of it comes back empty or inverted."""
    low = np.maximum(boxes[:, :2], limits[:2])
    return np.concatenate([low, np.minimum(boxes[:, 2:], limits[2:])], axis=1)


def grid_boxes(boxes: npt.ArrayLike, geometry: ImageGeometry) -> Floats:
    """(n, 4) XYXY pixels -> (n, 4) float64 (column1, row1, column2, row2)."""
    return geometry.to_grid(np.reshape(boxes, (-1, 2))).reshape(-1, 4)


def shown_patches(geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
    """(h, w) bool: which patches show more of the image than rounding noise."""
    left, top, right, bottom = grid_boxes(geometry.visible, geometry)[0] + (1e-9, 1e-9, -1e-9, -1e-9)
    rows, columns = np.ogrid[: geometry.grid[0], : geometry.grid[1]]
    return np.asarray((columns + 1 > left) & (columns < right) & (rows + 1 > top) & (rows < bottom))


def box_footprints(boxes: npt.ArrayLike, geometry: ImageGeometry) -> Footprints:
    """Exact coverage of (n, 4) XYXY pixel boxes that were clipped to the view before."""
    # The overlap of a box with a cell is the product of two overlaps: all boxes are one outer product.
    corners = grid_boxes(boxes, geometry)
    columns = _axis_shares(corners[:, 0], corners[:, 2], geometry.grid[1]).astype(np.float32)
    rows = _axis_shares(corners[:, 1], corners[:, 3], geometry.grid[0]).astype(np.float32)
    return rows[:, :, None] * columns[:, None, :], corners


def _axis_shares(low: Floats, high: Floats, cells: int) -> Floats:
    """Each interval's share per cell, summing to 1; one thinner than a float step is a point."""
    overlap = axis_overlap(low, high, cells)
    collapsed = np.flatnonzero(overlap.sum(axis=1) <= 0.0)
    overlap[collapsed, cell_under((low + high)[collapsed] / 2.0, cells)] = 1.0
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True))


def span_footprints(spans: Indices, grid: tuple[int, int]) -> Footprints:
    """Uniform rectangles of whole cells: (n, 4) first column, first row, last column, last row."""
    # The extent runs from cell CENTRE to cell CENTRE: a Gaussian sees linspace(-1, 1), as published.
    left, top, right, bottom = spans.T[:, :, None, None]
    rows, columns = np.ogrid[: grid[0], : grid[1]]
    cover = ((columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)).astype(np.float32)
    return cover / cover.sum(axis=(1, 2), keepdims=True), spans + 0.5


def reference_box_footprints(boxes: Floats, geometry: ImageGeometry) -> Footprints:
    """The published integer arithmetic for (n, 4) XYXY boxes in original pixels.

    In model pixels x, y, w, h with patch side p: columns floor(x / p) .. floor(x / p) + floor(w / p), both ends
    included and cut at the grid; rows likewise; every patch of that rectangle counts the same.
    """
    cells = np.floor_divide(reference_model_boxes(boxes, geometry), np.float32(geometry.patch_size)).astype(np.int64)
    last = np.array(geometry.grid[::-1]) - 1
    first = np.clip(cells[:, :2], 0, last)
    end = np.minimum(first + cells[:, 2:], last)
    return span_footprints(np.concatenate([first, end], axis=1), geometry.grid)


def reference_model_boxes(boxes: Floats, geometry: ImageGeometry) -> npt.NDArray[np.float32]:
    """(n, 4) XYXY original pixels -> (n, 4) float32 x, y, width, height in model pixels.

    Crop: all times size / short side, then minus max(0, (int(scaled side) - size) // 2), then x and y clamped to
    0 .. size - 1 and w and h to 0 .. size - x: a published defect that moves the origin of a box that the crop cuts
    without shortening it. Other fits go through the geometry's own map. float32, as published, so that
    (2.4 + 14) - 2.4 is a whole patch of 14. Not kept: what sticks out of a stretched image is cut.
    """
    if geometry.fit == "crop":
        size = float(geometry.model_size[0])
        scale = size / min(geometry.image_size)
        offset = [max(0, (int(side * scale) - int(size)) // 2) for side in geometry.image_size]
        start = np.clip(boxes[:, :2] * scale - offset, 0.0, size - 1.0)
        length = np.minimum((boxes[:, 2:] - boxes[:, :2]) * scale, size - start)
    else:
        inside = clip_boxes(boxes, (0, 0, *geometry.image_size))
        start = inside[:, :2] * geometry.scale + geometry.offset
        length = (inside[:, 2:] - inside[:, :2]) * geometry.scale
    return np.concatenate([start, length], axis=1).astype(np.float32)


class _Numbers:
    """What shapes of a few numbers share: their fields are their JSON."""

    kind: ClassVar[str]
    __match_args__: ClassVar[tuple[str, ...]]  # the names of a dataclass's fields

    def __post_init__(self) -> None:
        for name in self.__match_args__:
            object.__setattr__(self, name, finite(getattr(self, name), f"{name} of the {self.kind}"))

    def _words(self) -> str:
        return ",".join(f"{value:g}" for value in self._value())

    def _value(self) -> list[float]:
        return [getattr(self, name) for name in self.__match_args__]

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        numbers(entry[cls.kind], len(cls.__match_args__), cls.kind)
        return cls(*entry[cls.kind])


@dataclass(frozen=True)
class Point(_Numbers, Shape):
    """The patch under x, y, float pixels of the original image; RegionError where one is not finite.

    (0, 0) is the top left corner of the first pixel, and a point on the far edge belongs to the last patch.

    Example:
        >>> Point(120.5, 64)
        Point(x=120.5, y=64.0)
    """

    kind: ClassVar[str] = "point"

    x: float
    y: float

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """One-hot at the patch under each point."""
        places = np.array([(point.x, point.y) for point in shapes])
        require_seen(in_view(places, geometry), shapes, geometry)
        grid = geometry.to_grid(places)
        columns, rows = cell_under(grid, geometry.grid[::-1]).T
        return one_hot(columns, rows, geometry.grid), np.tile(grid, 2)

    def extent(self) -> Floats:
        """The point, twice."""
        return np.array([[self.x, self.y]] * 2)

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("point", self.extent()[:1])]


@dataclass(frozen=True)
class Patch(_Numbers, Shape):
    """One patch by its place in the grid, integers from 0 at the top left; RegionError for anything else.

    Example:
        >>> Patch(row=0, col=3)
        Patch(row=0, col=3)
    """

    kind: ClassVar[str] = "patch"

    row: int
    col: int

    def __post_init__(self) -> None:
        for name, value in zip(self.__match_args__, self._value(), strict=True):
            try:
                number = operator.index(value)  # type: ignore[arg-type]
            except TypeError:
                number = -1
            if number < 0:
                raise RegionError(f"{name} of the patch is {value!r:.80}; give an integer from 0")
            object.__setattr__(self, name, number)

    @classmethod
    def all(cls, geometry: ImageGeometry) -> list[Self]:
        """Every patch of the grid that shows some of the image, row by row."""
        return [cls(row, col) for row, col in np.argwhere(shown_patches(geometry)).tolist()]

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """One-hot at each patch; RegionError outside the grid or where only padding shows."""
        shown = shown_patches(geometry)
        for patch in shapes:
            patch._require_grid(geometry)
            if not shown[patch.row, patch.col]:
                raise RegionError(f"{patch!r} shows only padding; Patch.all(geometry) lists the rest")
        rows, columns = np.array([(patch.row, patch.col) for patch in shapes]).T
        return one_hot(columns, rows, geometry.grid), np.stack([columns, rows] * 2, axis=1) + 0.5

    def _require_grid(self, geometry: ImageGeometry) -> None:
        height, width = geometry.grid
        if self.row >= height or self.col >= width:
            raise RegionError(f"{self!r} is outside the grid: count its {height} rows and {width} columns from 0")

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        if geometry is None:
            raise OptionError(f"drawing {self} needs the grid: pass geometry=features.geometry")
        self._require_grid(geometry)
        return [Outline("box", geometry.to_pixels([(self.col, self.row), (self.col + 1, self.row + 1)]))]


@dataclass(frozen=True)
class Box(_Numbers, Shape):
    """An axis-aligned box: left, top, right, bottom edge in float pixels of the original image.

    ``Box(0, 0, width, height)`` is the whole of it; what sticks out is cut off. RegionError where a coordinate is not
    finite, or the box empty or inverted.

    Example:
        >>> Box(10, 20, 200, 220)
        Box(x1=10.0, y1=20.0, x2=200.0, y2=220.0)
    """

    kind: ClassVar[str] = "box"
    reference_is_span: ClassVar[bool] = True
    extent_is_given: ClassVar[bool] = True

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.x2 <= self.x1 or self.y2 <= self.y1:
            raise RegionError(
                f"{self!r} is empty or inverted: give x2 > x1, y2 > y1; from_xywh takes sizes, Point a place"
            )

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Self:
        """A box from its left top corner and its size, in pixels."""
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
    def from_supervision(cls, detections: Any) -> list[Self]:
        """One box per row of a ``supervision.Detections`` (its ``xyxy``)."""
        return [cls(*row) for row in rows_of(as_numpy(detections.xyxy).tolist(), 4, "row", "xyxy")]

    @classmethod
    def from_ultralytics(cls, result: Any) -> list[Self]:
        """One box per detection of one ultralytics ``Results`` (``boxes.xyxy``)."""
        return [] if result.boxes is None else cls.from_supervision(result.boxes)

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """Exact coverage, or the published rounding, of all boxes at once."""
        corners = np.array([box._value() for box in shapes], dtype=np.float64)
        boxes = clip_boxes(corners, (0, 0, *geometry.image_size) if reference else geometry.visible)
        require_seen((boxes[:, 2:] > boxes[:, :2]).all(axis=1), shapes, geometry)
        return reference_box_footprints(corners, geometry) if reference else box_footprints(boxes, geometry)

    def extent(self) -> Floats:
        """Its corners."""
        return np.array([[self.x1, self.y1], [self.x2, self.y2]])

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("box", self.extent())]


@dataclass(frozen=True)
class WholeImage(Shape):
    """Everything of the image that the model sees; padding counts for nothing.

    Example:
        >>> model.caption("photo.jpg", [WholeImage()])
    """

    kind: ClassVar[str] = "whole_image"
    json_key: ClassVar[str] = "whole"
    reference_is_span: ClassVar[bool] = True
    reference_is_flat: ClassVar[bool] = True

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """The visible part as a box; ``reference`` counts every patch that shows image alike."""
        if reference:
            rows, columns = np.nonzero(shown_patches(geometry))
            spans = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]])
            cover, extents = span_footprints(spans, geometry.grid)
        else:
            cover, extents = box_footprints(geometry.visible, geometry)
        return cover.repeat(len(shapes), axis=0), extents.repeat(len(shapes), axis=0)

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """By attention the published embedding is the mean, not the sum, of attention x token."""
        return 1.0 if attended is None else float(attended.sum()) / attended.size

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("box", np.array([(0.0, 0.0), image_size], dtype=np.float64))]

    def _words(self) -> str:
        return "image"

    def _value(self) -> object:
        return True

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        if entry["whole"] is not True:
            raise RegionError(f"'whole' is {entry['whole']!r:.80}; give true, or leave it out")
        return cls()


@dataclass(frozen=True, init=False, repr=False)
class RegionSet(Region):
    """Several regions of one image, at least one, as one region; RegionError for a member that is none.

    Every member counts the same, whatever its size: the set's weights are the mean of its members' weights, as in the
    published code. A set inside a set is one member.

    Example:
        >>> RegionSet([Box(0, 0, 10, 10), Point(50, 60)])
        RegionSet(Box(x1=0.0, y1=0.0, x2=10.0, y2=10.0), Point(x=50.0, y=60.0))
    """

    kind: ClassVar[str] = "region_set"
    json_key: ClassVar[str] = "set"

    members: tuple[Region, ...]

    def __init__(self, members: Iterable[Region]) -> None:
        collected = listed(members, "member")
        if not collected:
            raise RegionError("the RegionSet is empty; give at least one region")
        object.__setattr__(self, "members", tuple(collected))

    @classmethod
    def from_xywh(cls, boxes: object) -> Self:
        """A set of boxes from (n, 4) rows of left, top, width, height in pixels.

        Rows of four negative numbers, such as the published [-1, -1, -1, -1], only fill a batch and are skipped; none
        left is a RegionError, where the published code answers NaN.
        """
        rows = rows_of(boxes, 4, "box", "the RegionSet")
        return cls([Box.from_xywh(*row) for row in rows if max(row) >= 0])

    def __repr__(self) -> str:
        shown = ", ".join(repr(member) for member in self.members[:3])
        more = f", ... {len(self.members) - 3} more" if len(self.members) > 3 else ""
        return f"RegionSet({shown}{more})"

    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """All shapes of all members, at any depth, with their shares."""
        for member in self.members:
            for shape, share in member.leaves():
                yield shape, share / len(self.members)

    def _words(self) -> str:
        return f"of {len(self.members)} regions"

    def _value(self) -> object:
        return [member.to_json() for member in self.members]

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        return cls([Region.from_json(member, folder) for member in items_of(entry["set"], "set")])
