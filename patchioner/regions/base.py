"""What every region is and can do, and how callers' numbers become plain finite floats.

A kind of region is ONE class: a `Shape` that says its `kind`, how it covers patches, how it is
drawn, and how it is written as JSON. Nothing else needs to be told of it.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.base.files import leads_out
from patchioner.regions.coverage import Floats, Footprints

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry
    from patchioner.regions.weights import Weighting

Rounding = Literal["coverage", "reference"]
XY = tuple[float, float]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Outline:
    """One part of a region as it is drawn.

    Attributes:
        style: "box" (two corners), "point", "line" (open), "ring" (closed) or "mask".
        points: (n, 2) float pixels of the original image; of a mask the corners around it.
        mask: (height, width) bool of the original image, for "mask" alone.
    """

    style: Literal["box", "point", "line", "ring", "mask"]
    points: Floats
    mask: npt.NDArray[np.bool_] | None = None


class Bounds(tuple[float, ...]):
    """What `Region.bounds` is: a tuple of the extent as given, and callable with a geometry."""

    _region: Region

    def __call__(self, geometry: ImageGeometry) -> tuple[float, float, float, float]:
        """XYXY float pixels, cut at the image's edges; RegionError where the model sees nothing."""
        corners = [shape.corners_on(geometry) for shape, _ in self._region.leaves()]
        (x1, y1), (x2, y2) = np.min(corners, axis=0)[0], np.max(corners, axis=0)[1]
        width, height = geometry.image_size
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


class Region(ABC):
    """A part of an image, in pixels of the original image (x right, y down).

    Regions are immutable values; they hold no image and can be used with any.

    Attributes:
        kind: the name of this kind of region in settings, such as "box".
        json_key, json_extras: the key under which `to_json` writes it, if that is not its `kind`,
            and attributes beside it.
    """

    kind: ClassVar[str]
    json_key: ClassVar[str] = ""
    json_extras: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """The single shapes this region is made of, each with its share; shares sum to 1."""

    @abstractmethod
    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """What to draw on an image of (width, height) pixels; only a `Patch` needs the geometry."""

    # What a kind says of itself, for `describe`, `to_json` and `from_json`:

    @abstractmethod
    def _words(self) -> str: ...

    @abstractmethod
    def _value(self) -> object: ...

    @classmethod
    @abstractmethod
    def _parse(cls, entry: Mapping[str, object], folder: Path | None) -> Region: ...

    def describe(self) -> str:
        """A few words: ``box 10,20,200,220``."""
        return f"{self.json_key or self.kind} {self._words()}"

    def to_json(self) -> dict[str, Any]:
        """A dictionary ready for JSON that `from_json` and region files read."""
        extras = {extra: getattr(self, extra) for extra in self.json_extras}
        return {self.json_key or self.kind: self._value(), **extras}

    @staticmethod
    def from_json(entry: object, folder: Path | None = None) -> Region:
        """What `to_json` wrote.

        Args:
            entry: a dictionary of exactly one kind, such as ``{"box": [x1, y1, x2, y2]}``.
            folder: where pictures of masks lie; without it an entry may name no file.

        Raises:
            RegionError: an unknown kind or key, or numbers that make no region.

        Example:
            >>> Region.from_json({"point": [3, 4]})
            Point(x=3.0, y=4.0)
        """
        keys = {one.json_key or kind: one for kind, one in sorted(region_kinds().items())}
        if not isinstance(entry, Mapping):
            raise RegionError(
                f"a region is a dictionary such as {{'box': [...]}}, not {entry!r:.80}"
            )
        given = [key for key in entry if key in keys]
        use_one = f"use one of {', '.join(keys)}"
        extras = keys[given[0]].json_extras if len(given) == 1 else ()
        unknown = [str(key) for key in entry if key not in (*given, *extras)]
        if unknown:
            known = [*keys, *extras, "normalized", "label", "id"]
            close = difflib.get_close_matches(unknown[0], known, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise RegionError(f"key {unknown[0]!r:.80} does not belong here; {guess}{use_one}")
        if len(given) != 1:
            raise RegionError(f"a region has exactly one kind, this one {len(given)}; {use_one}")
        return keys[given[0]]._parse(entry, folder)

    def require_fit(self, image_size: Size) -> None:
        """RegionError where it cannot be meant for an image of (width, height) pixels.

        So are a mask of another size, and fractions of pixels that all lie within 0..1.
        """
        for shape, _ in self.leaves():
            shape.require_fit(image_size)

    @property
    def bounds(self) -> Bounds:
        """``bounds(geometry)``: the box around it, XYXY float pixels of the original image.

        Boxes, masks and polygons have their own extent, cut at the image's edges; other kinds
        that of the patches they lie in. Uncalled, it is a tuple: the extent as given, empty where
        only an image can tell it.

        Example:
            >>> Box(-5, 0, 40, 30).bounds(geometry)
            (0.0, 0.0, 40.0, 30.0)
        """
        known = [shape.extent() for shape, _ in self.leaves()]
        corners = [extent for extent in known if extent is not None]
        edges: list[float] = []
        if len(corners) == len(known):
            edges = [*np.min(corners, axis=0)[0].tolist(), *np.max(corners, axis=0)[1].tolist()]
        bounds = Bounds(edges)
        bounds._region = self
        return bounds

    def patch_weights(
        self,
        geometry: ImageGeometry,
        weighting: Weighting | None = None,
        attention: object = None,
    ) -> npt.NDArray[np.float32]:
        """Weights over the patch grid: (h, w) float32, non-negative, sum 1.

        Args:
            geometry: how the original image maps to the patch grid.
            weighting: uniform exact coverage by default.
            attention: (heads, h, w) or (h, w) array or tensor, for ``Weighting("attention")``.

        Raises:
            RegionError: the model sees nothing of the region.

        Example:
            >>> weights = Box(10, 20, 200, 220).patch_weights(features.geometry)
        """
        from patchioner.regions.weights import region_weights  # many regions know one region

        weights: npt.NDArray[np.float32] = region_weights([self], geometry, weighting, attention)[0]
        return weights


class Shape(Region):
    """A single shape: all kinds but sets. Shapes of one kind are handled together.

    Attributes:
        reference_is_span: under reference rounding it covers a rectangle of whole patches.
        extent_is_given: `extent` bounds its area, not only points or a line.
    """

    reference_is_span: ClassVar[bool] = False
    extent_is_given: ClassVar[bool] = False

    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """Itself, with the whole share."""
        yield self, 1.0

    def extent(self) -> Floats | None:
        """[[x1, y1], [x2, y2]] pixels as given, None where they depend on the image."""
        return None

    def corners_on(self, geometry: ImageGeometry) -> Floats:
        """[[x1, y1], [x2, y2]] pixels on an image; RegionError where the model sees nothing."""
        weights = self.patch_weights(geometry)
        extent = self.extent()
        if extent is not None and self.extent_is_given:
            return extent
        return geometry.to_pixels(true_extent(weights))

    def require_fit(self, image_size: Size) -> None:
        """See `Region.require_fit`."""
        extent = self.extent()
        if extent is None or extent.max() > 1.0 or min(image_size) <= 2:
            return
        if extent.min() >= 0.0 and (extent % 1.0).any():
            raise RegionError(
                f"all numbers of {self!r:.80} lie within 0..1, but pixels are meant: "
                f"multiply x by {image_size[0]} and y by {image_size[1]}"
            )

    @classmethod
    @abstractmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Where the shapes lie on the grid, in order; RegionError for one off the view."""

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """What the weighted mean is multiplied by to get the published embedding.

        Args:
            geometry: of the image.
            attended: (h, w) attention, for the attention weighting alone.
        """
        return 1.0


def region_kinds() -> dict[str, type[Region]]:
    """Every kind of region that is defined, by its `kind`."""
    kinds: list[type[Region]] = [*Region.__subclasses__(), *Shape.__subclasses__()]
    return {one.kind: one for one in kinds if "kind" in vars(one)}


def true_extent(cells: npt.NDArray[Any]) -> Floats:
    """[[left, top], [right, bottom]] edges of what is not zero in an (h, w) array."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    return np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)


def finite(value: object, what: str) -> float:
    """``value`` as a float; RegionError naming ``what`` when it is no finite number."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise RegionError(f"{what} is {shown(value)}; give a finite number of pixels") from None
    if not math.isfinite(number):
        raise RegionError(f"{what} is {number}; give a finite number of pixels")
    return number


def shown(value: object) -> str:
    """The beginning of its repr; Python refuses to write integers of thousands of digits."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return f"a {type(value).__name__} of very many digits"


def numbers(values: object, count: int, what: str) -> list[float]:
    """Exactly ``count`` finite floats out of any sequence."""
    items = items_of(values, what)
    if len(items) != count:
        raise RegionError(f"{what} has {len(items)} numbers, {values!r:.80}; give {count}")
    return [finite(item, what) for item in items]


def items_of(values: object, what: str) -> list[object]:
    """A list of them; RegionError for a string or a single value."""
    try:
        if not isinstance(values, (str, bytes)):
            return list(values)  # type: ignore[call-overload,no-any-return]
    except TypeError:  # arrays and tensors without an axis only look as if they had items
        pass
    raise RegionError(f"{what} is {values!r:.80}; give a list")


def inside(folder: Path, name: str) -> Path:
    """A file that another file names; RegionError where that leads out of the folder of the latter."""
    if leads_out(name):
        raise RegionError(
            f"{name!r:.80} leads out of {str(folder)!r}: put the file into that folder"
        )
    return folder / name


def listed(regions: Iterable[Region], what: str) -> list[Region]:
    """The regions; RegionError for anything else, or for one that is not in a list."""
    if isinstance(regions, (Region, str)) or not isinstance(regions, Iterable):
        raise RegionError(
            f"give a list of regions, as in [Box(x1, y1, x2, y2)], not {regions!r:.80}"
        )
    found = list(regions)
    for index, one in enumerate(found):
        if not isinstance(one, Region):
            raise RegionError(
                f"{what} {index} is {one!r:.80}, no region; wrap it, as in Box(x1, y1, x2, y2)"
            )
    return found


def points(values: object, what: str) -> tuple[XY, ...]:
    """A sequence of (x, y) pairs as a tuple of float pairs."""
    items = enumerate(items_of(values, what))
    pairs = [numbers(item, 2, f"point {index} of the {what}") for index, item in items]
    return tuple((x, y) for x, y in pairs)


def as_array(pairs: Iterable[XY]) -> npt.NDArray[np.float64]:
    """(n, 2) float64 array of float pairs."""
    return np.fromiter(chain.from_iterable(pairs), dtype=np.float64).reshape(-1, 2)


def as_numpy(values: object) -> npt.NDArray[np.generic]:
    """An array of anything array-like; a torch tensor may sit on any device or want gradients."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        half = str(tensor.dtype) == "torch.bfloat16"  # numpy has none
        return np.asarray((tensor.float() if half else tensor).numpy())
    try:
        return np.asarray(values)
    except ValueError:
        raise RegionError("the array is ragged: give rows of one length") from None


def shorten(pairs: Iterable[XY], keep: int = 3) -> str:
    """The first points as text, so that an error about 1,000 points stays readable."""
    listed = list(pairs)
    shown = ", ".join(f"({x:g}, {y:g})" for x, y in listed[:keep])
    return shown + (f", ... {len(listed) - keep} more" if len(listed) > keep else "")


def join(*values: float) -> str:
    """Numbers as `describe` writes them."""
    return ",".join(f"{value:g}" for value in values)
