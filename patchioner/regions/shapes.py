"""Points, patches, boxes, the whole image, and sets of regions."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from patchioner.base.errors import OptionError, RegionError
from patchioner.regions.base import (
    Outline,
    Region,
    Rounding,
    Shape,
    Size,
    as_array,
    as_numpy,
    finite,
    items_of,
    join,
    listed,
    numbers,
)
from patchioner.regions.coverage import (
    Floats,
    Footprints,
    box_footprints,
    cell_under,
    clip_boxes,
    image_box,
    in_view,
    off_view,
    one_hot,
    reference_box_footprints,
    shown_patches,
    span_footprints,
)

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry


class _Numbers:
    """What shapes of a few numbers share: their fields are their JSON."""

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for name in self.names:
            number = finite(getattr(self, name), f"{name} of the {self.kind}")
            object.__setattr__(self, name, number)

    def _words(self) -> str:
        return join(*self._value())

    def _value(self) -> list[float]:
        return [getattr(self, name) for name in self.names]

    @classmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Self:
        numbers(entry[cls.kind], len(cls.names), cls.kind)
        return cls(*items_of(entry[cls.kind], cls.kind))


@dataclass(frozen=True)
class Point(_Numbers, Shape):
    """The patch under one place.

    Args:
        x, y: float pixels of the original image; (0, 0) is the top left corner of the first
            pixel, and a point on the far edge belongs to the last patch.

    Raises:
        RegionError: a coordinate is not a finite number.

    Example:
        >>> Point(120.5, 64)
        Point(x=120.5, y=64.0)
    """

    kind: ClassVar[str] = "point"
    names: ClassVar[tuple[str, ...]] = ("x", "y")

    x: float
    y: float

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """One-hot at the patch under each point."""
        places = as_array((point.x, point.y) for point in regions)
        outside = np.flatnonzero(~in_view(places, geometry))
        if len(outside):
            raise off_view(regions[outside[0]], geometry)
        grid = geometry.to_grid(places)
        columns = cell_under(grid[:, 0], geometry.grid[1])
        rows = cell_under(grid[:, 1], geometry.grid[0])
        return Footprints(one_hot(columns, rows, geometry.grid), grid, np.zeros_like(grid))

    def extent(self) -> Floats:
        """The point, twice."""
        return np.array([[self.x, self.y]] * 2)

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
        return [Outline("point", self.extent()[:1])]


@dataclass(frozen=True)
class Patch(_Numbers, Shape):
    """One patch by its place in the grid, counted from 0 at the top left.

    Args:
        row, col: integers.

    Raises:
        RegionError: not an integer, or negative.

    Example:
        >>> Patch(row=0, col=3)
        Patch(row=0, col=3)
    """

    kind: ClassVar[str] = "patch"
    names: ClassVar[tuple[str, ...]] = ("row", "col")

    row: int
    col: int

    def __post_init__(self) -> None:
        for name, value in zip(self.names, self._value(), strict=True):
            try:
                number = operator.index(value)  # type: ignore[arg-type]
            except TypeError:
                number = -1
            if number < 0:
                raise RegionError(f"{name} of the patch is {value!r:.80}; give an integer from 0")
            object.__setattr__(self, name, number)

    @classmethod
    def all(cls, geometry: ImageGeometry) -> list[Self]:
        """Every patch of the grid that shows some of the image, row by row.

        Example:
            >>> captions = model.caption(features, Patch.all(features.geometry))
        """
        return [cls(int(row), int(col)) for row, col in np.argwhere(shown_patches(geometry))]

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """One-hot at each patch; RegionError outside the grid or where only padding shows."""
        for patch in regions:
            patch._require_grid(geometry)
        rows, columns = np.array([(patch.row, patch.col) for patch in regions], dtype=np.int64).T
        padding = np.flatnonzero(~shown_patches(geometry)[rows, columns])
        if len(padding):
            patch = regions[padding[0]]
            raise RegionError(f"{patch!r} shows only padding; Patch.all(geometry) lists the rest")
        centre = np.stack([columns, rows], axis=1) + 0.5
        return Footprints(one_hot(columns, rows, geometry.grid), centre, np.zeros_like(centre))

    def _require_grid(self, geometry: ImageGeometry) -> None:
        height, width = geometry.grid
        if self.row >= height or self.col >= width:
            raise RegionError(
                f"{self!r} is outside the grid of {height} rows and {width} columns; "
                f"give row 0 to {height - 1} and col 0 to {width - 1}"
            )

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
        if geometry is None:
            raise OptionError(
                f"drawing {self} needs the patch grid: pass geometry=features.geometry"
            )
        self._require_grid(geometry)
        corners = np.array([[self.col, self.row], [self.col + 1, self.row + 1]])
        return [Outline("box", geometry.to_pixels(corners))]


@dataclass(frozen=True)
class Box(_Numbers, Shape):
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

    kind: ClassVar[str] = "box"
    names: ClassVar[tuple[str, ...]] = ("x1", "y1", "x2", "y2")
    reference_is_span: ClassVar[bool] = True
    extent_is_given: ClassVar[bool] = True

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        super().__post_init__()
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
    def from_supervision(cls, detections: Any) -> list[Self]:
        """One box per row of a ``supervision.Detections`` (its ``xyxy``)."""
        return cls._rows(detections.xyxy, "xyxy")

    @classmethod
    def from_ultralytics(cls, result: Any) -> list[Self]:
        """One box per detection of one ultralytics ``Results`` (``boxes.xyxy``)."""
        return [] if result.boxes is None else cls._rows(result.boxes.xyxy, "boxes.xyxy")

    @classmethod
    def _rows(cls, array: object, what: str) -> list[Self]:
        rows = as_numpy(array).tolist()
        return [cls(*numbers(row, 4, f"row {index} of {what}")) for index, row in enumerate(rows)]

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Exact coverage, or the published rounding, of all boxes at once."""
        corners = np.array([(b.x1, b.y1, b.x2, b.y2) for b in regions], dtype=np.float64)
        reference = rounding == "reference"
        boxes = clip_boxes(corners, image_box(geometry) if reference else geometry.visible)
        outside = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
        if len(outside):
            raise off_view(regions[outside[0]], geometry)
        if reference:
            return reference_box_footprints(corners, geometry)
        return box_footprints(boxes, geometry)

    def extent(self) -> Floats:
        """Its corners."""
        return np.array([[self.x1, self.y1], [self.x2, self.y2]])

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
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

    @classmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """The visible part as a box; ``reference`` counts every patch that shows image alike."""
        if rounding == "reference":
            rows, columns = np.nonzero(shown_patches(geometry))
            spans = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]])
            one = span_footprints(spans, geometry.grid)
        else:
            one = box_footprints(np.array([geometry.visible]), geometry)
        count = len(regions)
        return Footprints(*(np.repeat(a, count, axis=0) for a in (one.cover, one.centre, one.half)))

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """By attention the published embedding is the mean, not the sum, of attention x token."""
        return 1.0 if attended is None else float(attended.sum()) / attended.size

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
        return [Outline("box", np.array([(0.0, 0.0), image_size], dtype=np.float64))]

    def _words(self) -> str:
        return "image"

    def _value(self) -> object:
        return True

    @classmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Self:
        if entry["whole"] is not True:
            raise RegionError(f"'whole' is {entry['whole']!r:.80}; give true, or leave it out")
        return cls()


@dataclass(frozen=True, init=False, repr=False)
class RegionSet(Region):
    """Several regions of one image as one region.

    Every member counts the same, whatever its size: the set's weights are the mean of its
    members' weights, as in the published code (the paper's formula, as quoted, would weigh them by
    area). A set inside a set is one member.

    Args:
        members: at least one region.

    Raises:
        RegionError: no member, or a member that is no region.

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

        Rows of four negative numbers, such as the published [-1, -1, -1, -1], only fill a batch
        and are skipped; none left is a RegionError, where the published code answers NaN.

        Example:
            >>> RegionSet.from_xywh([[0, 0, 10, 10], [-1, -1, -1, -1]])
            RegionSet(Box(x1=0.0, y1=0.0, x2=10.0, y2=10.0))
        """
        rows_of = enumerate(items_of(boxes, "boxes of the RegionSet"))
        rows = [numbers(row, 4, f"box {index} of the RegionSet") for index, row in rows_of]
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

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """See `Region.outline`."""
        return [part for member in self.members for part in member.outline(image_size, geometry)]

    def _words(self) -> str:
        return f"of {len(self.members)} regions"

    def _value(self) -> object:
        return [member.to_json() for member in self.members]

    @classmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Self:
        members = items_of(entry["set"], "set")
        return cls([Region.from_json(member, folder) for member in members])
