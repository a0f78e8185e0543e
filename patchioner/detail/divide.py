"""Photo -> regions: the whole, things that were given or found, and parts by place (quadrants, grids).

Boxes are (left, top, right, bottom), float pixels of the original photo.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.text import canonical, noun_phrases
from patchioner.detail.values import DetailRegion, Photo, RegionKind, check
from patchioner.regions import Box, Mask, NamedRegion, Polygon, Region

if TYPE_CHECKING:
    from patchioner.model import Patchioner

Rectangle = tuple[float, float, float, float]


def area(box: Rectangle) -> float:
    """Pixels inside; 0 of one that is empty or inverted."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared_area(one: Rectangle, two: Rectangle) -> float:
    """Pixels inside both."""
    return area(
        (max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3]))
    )


def iou(one: Rectangle, two: Rectangle) -> float:
    """Intersection over union, 0 to 1; 0 where both are empty."""
    shared = shared_area(one, two)
    union = area(one) + area(two) - shared
    return shared / union if union > 0 else 0.0


def share_inside(box: Rectangle, other: Rectangle) -> float:
    """Part of `box` that lies inside `other`, 0 to 1: intersection over the area of `box`, no IoU."""
    whole = area(box)
    return shared_area(box, other) / whole if whole > 0 else 0.0


def overlap_share(one: DetailRegion, other: DetailRegion) -> float:
    """Share of the smaller region's box that the two have in common; 1 for a region and itself."""
    if one.id == other.id:
        return 1.0
    smaller = min(area(one.box), area(other.box))
    return shared_area(one.box, other.box) / smaller if smaller > 0 else 0.0


def bounding_union(boxes: Iterable[Rectangle]) -> Rectangle:
    """The smallest rectangle that holds all, of which there is at least one."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def clipped(box: Rectangle, image_size: tuple[int, int]) -> Rectangle:
    """Cut a box to the image, (width, height).

    `RegionError`: it is not finite, or nothing of it lies inside the image.
    """
    width, height = map(float, image_size)
    inside = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if not all(map(math.isfinite, box)) or area(inside) <= 0.0:
        raise RegionError(
            f"box {tuple(box)} has nothing inside the {image_size[0]}x{image_size[1]} image: "
            "give left, top, right, bottom in pixels of the original image"
        )
    return inside


def merge_overlapping(boxes: Sequence[Rectangle], limit: float) -> list[Rectangle]:
    """Unite boxes with IoU above `limit`, the closest pair first, until no such pair is left.

    The published loop looks at the first box alone and leaves some pairs, in 3.7 % of random trials.
    """
    left = list(boxes)
    while True:
        pairs = [
            (iou(left[first], left[second]), -first, -second)
            for first in range(len(left))
            for second in range(first + 1, len(left))
        ]
        closest, first, second = max(pairs, default=(0.0, 0, 0))
        if closest <= limit:
            return left
        left[-first] = bounding_union((left[-first], left[-second]))
        del left[-second]


def quadrants(image_size: tuple[int, int]) -> list[Rectangle]:
    """The four quarters, left to right, then down; split at ``width // 2`` and ``height // 2`` as published."""
    width, height = image_size
    # A photo one pixel wide or high is split at one half.
    x, y = float(width // 2) or width / 2, float(height // 2) or height / 2
    return [
        (left, top, right, bottom)
        for top, bottom in ((0.0, y), (y, float(height)))
        for left, right in ((0.0, x), (x, float(width)))
    ]


def grid(
    image_size: tuple[int, int], rows: int, columns: int, overlap: float = 0.0
) -> list[Rectangle]:
    """``rows * columns`` equal cells whose union is the photo, row by row.

    `overlap` is the share of a cell's side that it has in common with the next, 0 to below 1.
    """
    if rows < 1 or columns < 1 or not 0.0 <= overlap < 1.0:
        raise OptionError(
            f"a grid of {rows} x {columns} cells with overlap {overlap}: give 1 or more, and 0 <= overlap < 1"
        )
    width, height = image_size
    return [
        (left, top, right, bottom)
        for top, bottom in _intervals(height, rows, overlap)
        for left, right in _intervals(width, columns, overlap)
    ]


def _intervals(length: int, cells: int, overlap: float) -> list[tuple[float, float]]:
    side = length / (cells - (cells - 1) * overlap)
    step = side * (1.0 - overlap)
    # The last edge is the photo's own, whatever the rounding.
    ends = [cell * step + side for cell in range(cells - 1)] + [float(length)]
    return [(cell * step, end) for cell, end in enumerate(ends)]


def grow(
    parts: Sequence[Rectangle], boxes: Sequence[Rectangle], share: float = 0.3
) -> list[tuple[Rectangle, tuple[int, ...]]]:
    """Grow each part to the bounding union with the boxes of which more than `share` (published 0.3) lies in it."""
    grown = []
    for part in parts:
        joined = tuple(place for place, box in enumerate(boxes) if share_inside(box, part) > share)
        grown.append((bounding_union([part, *(boxes[place] for place in joined)]), joined))
    return grown


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing in a photo: its box, name (None where nobody said), score (0 to 1) and (height, width) bool mask."""

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
    """A region as it was given, cut to the photo of (width, height), with its name where it has one.

    `RegionError`: a region without an inside, nothing of it in the photo, or a mask of another size.
    """
    match given:
        case Detection():
            if given.mask is not None:
                Mask(given.mask).require_fit(image_size)
            return Detection(clipped(given.box, image_size), given.name, given.score, given.mask)
        case NamedRegion():
            plain = as_detection(given.region, image_size)
            return Detection(plain.box, given.label, plain.score, plain.mask)
        case Mask():
            given.require_fit(image_size)
            left, top, right, bottom = (float(edge) for edge in given.bounds)
            return Detection((left, top, right, bottom), mask=given.array)
        case Polygon():
            canvas = Image.new("L", image_size)
            for (
                ring
            ) in given.rings:  # the union of the rings; pixels that the outline touches count
                ImageDraw.Draw(canvas).polygon(ring, fill=1)
            return as_detection(Mask(np.asarray(canvas) > 0), image_size)
        case Box():
            return Detection(clipped((given.x1, given.y1, given.x2, given.y2), image_size))
        case [_, _, _, _]:
            return as_detection(Box(*given), image_size)
    raise RegionError(
        f"{given!r:.80} is no region with an inside: give a Box, Mask or Polygon, an entry of read_regions, "
        "or left, top, right, bottom"
    )


def trusted(detections: Sequence[Detection], least_score: float, fallback: int) -> list[Detection]:
    """Those above a score (published 0.3); if none is, the first `fallback` (published 2, none where fewer)."""
    sure = [detection for detection in detections if detection.score > least_score]
    if sure:
        return sure
    return list(detections[:fallback]) if len(detections) >= fallback else []


def union_of_named(
    detections: Sequence[Detection],
    caption: str,
    image_size: tuple[int, int],
    coverage: float = 0.4,
) -> Rectangle | None:
    """The published semantic patch: the box around all things that the photo's caption names, by word and synonym.

    None where nothing is named, or its IoU with the photo is above `coverage`.
    """
    said = {canonical(phrase.head) for phrase in noun_phrases(caption)}
    boxes = [one.box for one in detections if one.name and _heads(one.name) & said]
    if not boxes:
        return None
    union = bounding_union(boxes)
    whole = (0.0, 0.0, float(image_size[0]), float(image_size[1]))
    return union if iou(union, whole) <= coverage else None


def _heads(name: str) -> set[str]:
    """What a detector's class name may be called: its last word, or all of it ("traffic_light")."""
    words = name.replace("_", " ").lower().split()
    return {canonical(word) for word in (*words[-1:], " ".join(words)) if word}


def detail_regions(detections: Sequence[Detection], kind: RegionKind) -> list[DetailRegion]:
    """One region per thing, "semantic-1", ... in their order.

    Parents are the photo and, smallest first, the larger things that hold at least four fifths of it.
    """
    found = []
    for number, one in enumerate(detections, 1):
        holders = sorted(
            (area(other.box), f"{kind}-{place}")
            for place, other in enumerate(detections, 1)
            if area(other.box) > area(one.box) and share_inside(one.box, other.box) >= 0.8
        )
        parents = ("global", *(name for _, name in holders))
        found.append(DetailRegion(f"{kind}-{number}", kind, one.box, one.mask, parents, one.name))
    return found


@dataclass(frozen=True)
class DiscoverySettings:
    """How things are found in dense features (`divide_objects.discover_objects`).

    Attributes:
        limit: most things of a photo.
        least_area, most_area: of a thing, as shares of the photo.
        overlap: of two candidates with an IoU above this, the lesser is dropped.
        names: "caption" names a thing by what its caption is about; "none" does not.
        part: share of a thing inside a more salient one of the same name that makes it a part, which is dropped.
    """

    limit: int = 8
    least_area: float = 0.012
    most_area: float = 0.7
    overlap: float = 0.5
    names: Literal["caption", "none"] = "caption"
    part: float = 0.6

    def __post_init__(self) -> None:
        check(self, limit=(1, 10_000), names=("caption", "none"), overlap=(0, 1), part=(0, 1))
        check(self, least_area=(0, self.most_area), most_area=(1e-6, 1))


@dataclass(frozen=True)
class DivideSettings:
    """Which regions a photo is divided into, besides the whole of it.

    Attributes:
        spatial: "quadrants", "grid", or "none".
        rows, columns, overlap: of the grid, see `grid`.
        grow: quadrants grow by boxes of which more than this share lies in them; None leaves them as they are.
        growing_area: boxes larger than this share of the photo grow nothing.
        merge_iou: boxes with IoU above this are united before quadrants grow by them.
        objects: "each" thing is a region; "union": the one box around those that the caption of the whole photo
            names, as published; or "none".
        union_coverage: the "union" is skipped where its IoU with the photo is above this.
        least_score, fallback: of given detections, see `trusted`.
        discovery: how things are found when none are given.
    """

    spatial: Literal["quadrants", "grid", "none"] = "quadrants"
    rows: int = 3
    columns: int = 3
    overlap: float = 0.0
    grow: float | None = 0.3
    growing_area: float = 0.25
    merge_iou: float = 0.5
    objects: Literal["each", "union", "none"] = "each"
    union_coverage: float = 0.4
    least_score: float = 0.3
    fallback: int = 2
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)

    def __post_init__(self) -> None:
        objects, spatial = ("each", "union", "none"), ("quadrants", "grid", "none")
        check(self, objects=objects, spatial=spatial, rows=(1, 1000), columns=(1, 1000))
        shares = ("growing_area", "merge_iou", "union_coverage", "least_score", "grow")
        check(self, overlap=(0, 0.99), fallback=(0, 10_000), **dict.fromkeys(shares, (0, 1)))


class PhotoDivider:
    """Divide a photo into the whole, things in it, and parts by place.

    Args:
        settings: which regions are wanted.
        model: captions the whole photo and names what is found; needed only for the "union" and for names.
        given: things of this one photo, in place of those found in its features.
    """

    def __init__(
        self,
        settings: DivideSettings | None = None,
        *,
        model: Patchioner | None = None,
        given: Sequence[Given] | None = None,
    ) -> None:
        self._settings = settings or DivideSettings()
        self._model = model
        self._given = None if given is None else tuple(given)
        if self._settings.objects == "union" and model is None:
            raise OptionError(
                "objects='union' goes by the caption of the whole photo: give a model, or objects='each'"
            )

    @property
    def settings(self) -> dict[str, object]:
        """Those of `DivideSettings`, and where the things come from."""
        return {**asdict(self._settings), "things": "found" if self._given is None else "given"}

    def divide(self, photo: Photo) -> list[DetailRegion]:
        """The whole photo first, then things, then parts by place in reading order.

        Parts that the model sees nothing of (where its preprocessing crops) are left out. Nothing is random.
        """
        found = self._things(photo)
        regions = [whole_photo(photo.size), *self._semantic(found, photo)]
        regions += self._spatial(found, regions, photo)
        if photo.features is None:
            return regions
        visible = photo.features.geometry.visible
        return [one for one in regions if shared_area(one.box, visible) > 0]

    def _things(self, photo: Photo) -> list[Detection]:
        settings = self._settings
        if self._given is not None:
            found = [as_detection(given, photo.size) for given in self._given]
            return trusted(found, settings.least_score, settings.fallback)
        if settings.objects == "none" and (
            settings.spatial != "quadrants" or settings.grow is None
        ):
            return []
        from patchioner.detail.divide_objects import discover_objects

        return discover_objects(_features(photo), self._model, settings.discovery)

    def _semantic(self, found: list[Detection], photo: Photo) -> list[DetailRegion]:
        if self._settings.objects == "each":
            return detail_regions(found, "semantic" if self._given is None else "user")
        if self._settings.objects == "none" or self._model is None or not found:
            return []
        caption = self._model.caption(_features(photo))[0].text
        box = union_of_named(found, caption, photo.size, self._settings.union_coverage)
        return [] if box is None else detail_regions([Detection(box)], "semantic")

    def _spatial(
        self, found: list[Detection], regions: list[DetailRegion], photo: Photo
    ) -> list[DetailRegion]:
        settings = self._settings
        if settings.spatial == "none":
            return []
        if settings.spatial == "grid":
            cells = grid(photo.size, settings.rows, settings.columns, settings.overlap)
            return [
                DetailRegion(f"grid-{number}", "grid", box, parents=("global",))
                for number, box in enumerate(cells, 1)
            ]
        largest = settings.growing_area * photo.size[0] * photo.size[1]
        growing = [one.box for one in found if area(one.box) <= largest]
        merged = [] if settings.grow is None else merge_overlapping(growing, settings.merge_iou)
        parts: list[DetailRegion] = []
        for box, joined in grow(quadrants(photo.size), merged, settings.grow or 0.0):
            inside = [
                region.id
                for region in regions[1:]
                if any(share_inside(region.box, merged[place]) >= 1 for place in joined)
            ]
            name = f"spatial-{len(parts) + 1}"
            parts.append(DetailRegion(name, "spatial", box, parents=("global", *inside)))
        return parts


def whole_photo(image_size: tuple[int, int]) -> DetailRegion:
    """The region that is the whole photo, "global"."""
    return DetailRegion("global", "global", (0.0, 0.0, float(image_size[0]), float(image_size[1])))


def _features(photo: Photo) -> PatchFeatures:
    if photo.features is None:
        raise OptionError(
            f"{photo.name!r} has no features to find objects in: open it with open_photo(source, model), "
            "give the regions, or divide with objects='none' and grow=None"
        )
    return photo.features
