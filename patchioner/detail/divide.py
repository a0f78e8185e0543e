"""Photo -> regions: the whole, things that are given, and parts by place (quadrants, grids).

Boxes are (left, top, right, bottom), float pixels of the original photo.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from decoders.scene_graph.phrases import noun_phrases
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.text import canonical
from patchioner.detail.values import DetailRegion, Photo, Rectangle, check
from patchioner.regions import Box, Mask, NamedRegion, Polygon, Region

if TYPE_CHECKING:
    from patchioner.model import Patchioner

Cells = npt.NDArray[np.bool_]
Size = tuple[int, int]

_SURE, _FEWEST = 0.3, 2  # published: given detections above this score, or else the first two
_UNION_COVERAGE = 0.4  # published: the union is left out where its IoU with the photo is above this


def area(box: Rectangle) -> float:
    """Pixels inside; 0 of one that is empty or inverted."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared_area(one: Rectangle, two: Rectangle) -> float:
    """Pixels inside both."""
    left, top, right, bottom = *map(max, one[:2], two[:2]), *map(min, one[2:], two[2:])
    return area((left, top, right, bottom))


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
    return share_inside(*sorted((one.box, other.box), key=area))


def bounding_union(boxes: Iterable[Rectangle]) -> Rectangle:
    """The smallest rectangle that holds all, of which there is at least one."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def merge_overlapping(boxes: Sequence[Rectangle], limit: float) -> list[Rectangle]:
    """Unite boxes with IoU above `limit`, the closest pair first, until no such pair is left."""
    left = list(boxes)
    while True:
        pairs = [(iou(left[i], left[j]), -i, -j) for j in range(len(left)) for i in range(j)]
        closest, first, second = max(pairs, default=(0.0, 0, 0))
        if closest <= limit:
            return left
        left[-first] = bounding_union((left[-first], left[-second]))
        del left[-second]


def quadrants(image_size: Size) -> list[Rectangle]:
    """The four quarters, left to right, then down; split at ``width // 2`` and ``height // 2`` as published."""
    width, height = image_size
    # A photo one pixel wide or high is split at one half.
    return _cells([0, width // 2 or 0.5, width], [0, height // 2 or 0.5, height])


def grid(image_size: Size, rows: int, columns: int) -> list[Rectangle]:
    """``rows * columns`` equal cells whose union is the photo, row by row."""
    return _cells(
        *(
            np.linspace(0, n, parts + 1)
            for n, parts in zip(image_size, (columns, rows), strict=True)
        )
    )


def _cells(x: Iterable[float], y: Iterable[float]) -> list[Rectangle]:
    across, down = (list(pairwise(map(float, edges))) for edges in (x, y))
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing in a photo: its box, name (None where nobody said), score (0 to 1) and (height, width) bool mask."""

    box: Rectangle
    name: str | None = None
    score: float = 1.0
    mask: Cells | None = None


Given = Detection | NamedRegion | Region | Rectangle
"""What a user may give as a region: our own values, an entry of a region file, or four numbers."""


def as_detection(given: Given, image_size: Size) -> Detection:
    """A region as it was given, cut to the photo of (width, height), with its name where it has one.

    `RegionError`: a region without an inside, nothing of it in the photo, or a mask of another size.
    """
    match given:
        case Detection():
            if given.mask is not None:
                Mask(given.mask).require_fit(image_size)
            return replace(given, box=_clipped(given.box, image_size))
        case NamedRegion():
            return replace(as_detection(given.region, image_size), name=given.label)
        case Mask():
            given.require_fit(image_size)
            left, top, right, bottom = map(float, given.bounds)
            return Detection((left, top, right, bottom), mask=given.array)
        case Polygon():
            canvas = Image.new("L", image_size)
            for ring in given.rings:  # their union; pixels that the outline touches count
                ImageDraw.Draw(canvas).polygon(ring, fill=1)
            return as_detection(Mask(np.asarray(canvas) > 0), image_size)
        case Box():
            return Detection(_clipped((given.x1, given.y1, given.x2, given.y2), image_size))
        case [_, _, _, _]:
            return as_detection(Box(*given), image_size)
    raise RegionError(
        f"{given!r:.80} is no region with an inside: give a Box, Mask or Polygon, an entry of read_regions, "
        "or left, top, right, bottom"
    )


def _clipped(box: Rectangle, image_size: Size) -> Rectangle:
    width, height = map(float, image_size)
    inside = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if not all(map(math.isfinite, box)) or area(inside) <= 0.0:
        size = f"{image_size[0]}x{image_size[1]}"
        raise RegionError(f"box {tuple(box)} has nothing inside the {size} image: give its pixels")
    return inside


def trusted(detections: Sequence[Detection]) -> list[Detection]:
    """Those above a score of 0.3; if none is, the first 2, or none where there are fewer: as published."""
    sure = [detection for detection in detections if detection.score > _SURE]
    return sure or (list(detections[:_FEWEST]) if len(detections) >= _FEWEST else [])


def union_of_named(things: Sequence[Detection], caption: str, size: Size) -> Rectangle | None:
    """The published semantic patch: the box around all things that the photo's caption names, by word and synonym.

    None where nothing is named, or its IoU with the photo is above 0.4.
    """
    said = {canonical(phrase.head) for phrase in noun_phrases(caption)}
    boxes = [one.box for one in things if one.name and _heads(one.name) & said]
    union = bounding_union(boxes or [whole_photo(size).box])
    return union if iou(union, whole_photo(size).box) <= _UNION_COVERAGE else None


def _heads(name: str) -> set[str]:
    """What a detector's class name may be called: its last word, or all of it ("traffic_light")."""
    words = name.replace("_", " ").lower().split()
    return {canonical(word) for word in (*words[-1:], " ".join(words))}


@dataclass(frozen=True)
class DivideSettings:
    """Which regions a photo is divided into, besides the whole of it and the things that are given.

    Attributes:
        spatial: "quadrants", a "grid", "both", or "none".
        rows, columns: of the grid.
        grow: quadrants grow by given boxes of which more than this share lies in them; None leaves them as they are.
        growing_area: boxes larger than this share of the photo grow nothing.
        merge_iou: boxes with IoU above this are united before quadrants grow by them.
        objects: "each" given thing is a region; "union": the one box around those that the caption of the whole photo
            names, as published.
    """

    spatial: Literal["quadrants", "grid", "both", "none"] = "both"
    rows: int = 3
    columns: int = 3
    grow: float | None = 0.3
    growing_area: float = 0.25
    merge_iou: float = 0.5
    objects: Literal["each", "union"] = "each"

    def __post_init__(self) -> None:
        check(self, objects=("each", "union"), spatial=("quadrants", "grid", "both", "none"))
        check(self, rows=(1, 1000), columns=(1, 1000))
        check(self, grow=(0, 1), growing_area=(0, 1), merge_iou=(0, 1))


def divide(
    photo: Photo,
    given: Sequence[Given] = (),
    settings: DivideSettings | None = None,
    model: Patchioner | None = None,
) -> list[DetailRegion]:
    """The whole photo first, then things that are given, then quadrants and cells in reading order.

    Parts that the model sees nothing of (where its preprocessing crops) are left out. Nothing is random.
    `OptionError`: a "union" of things without a model, which captions the whole photo.
    """
    chosen = settings or DivideSettings()
    found = trusted([as_detection(one, photo.size) for one in given])
    things = _regions(found)
    if chosen.objects == "union":
        if model is None:
            raise OptionError("objects='union' goes by a caption: give a model, or objects='each'")
        caption = model.caption(photo.features or photo.image)[0].text if found else None
        box = union_of_named(found, caption or "", photo.size)
        things = (
            []
            if box is None
            else [DetailRegion("semantic-1", "semantic", box, parents=("global",))]
        )
    regions = [whole_photo(photo.size), *things]
    if chosen.spatial in ("quadrants", "both"):
        regions += _grown_quadrants(found, things, photo.size, chosen)
    if chosen.spatial in ("grid", "both"):
        cells = enumerate(grid(photo.size, chosen.rows, chosen.columns), 1)
        regions += [DetailRegion(f"grid-{n}", "grid", box, parents=("global",)) for n, box in cells]
    if photo.features is None:
        return regions
    visible = photo.features.geometry.visible
    return [one for one in regions if shared_area(one.box, visible) > 0]


def _grown_quadrants(
    found: list[Detection], things: list[DetailRegion], size: Size, settings: DivideSettings
) -> list[DetailRegion]:
    largest, grow = settings.growing_area * size[0] * size[1], settings.grow
    growing = [one.box for one in found if grow is not None and area(one.box) <= largest]
    merged = merge_overlapping(growing, settings.merge_iou)
    parts = []
    for number, part in enumerate(quadrants(size), 1):
        joined = [box for box in merged if share_inside(box, part) > (grow or 0.0)]
        inside = (
            one.id for one in things if any(share_inside(one.box, box) >= 1 for box in joined)
        )
        box, parents = bounding_union([part, *joined]), ("global", *inside)
        parts.append(DetailRegion(f"spatial-{number}", "spatial", box, parents=parents))
    return parts


def whole_photo(image_size: Size) -> DetailRegion:
    """The region that is the whole photo, "global"."""
    return DetailRegion("global", "global", (0.0, 0.0, float(image_size[0]), float(image_size[1])))


def _regions(detections: Sequence[Detection]) -> list[DetailRegion]:
    """One per thing; parents are the photo and, smallest first, the larger things that hold four fifths of it."""
    found = []
    for number, one in enumerate(detections, 1):
        holders = sorted(
            (area(other.box), f"user-{place}")
            for place, other in enumerate(detections, 1)
            if area(other.box) > area(one.box) and share_inside(one.box, other.box) >= 0.8
        )
        parents = ("global", *(name for _, name in holders))
        found.append(DetailRegion(f"user-{number}", "user", one.box, one.mask, parents, one.name))
    return found
