"""Photo -> regions: the whole, things that were given or found, and parts by place (quadrants, grids).

Boxes are (left, top, right, bottom), float pixels of the original photo.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from decoders.scene_graph.phrases import noun_phrases
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.text import canonical
from patchioner.detail.values import DetailRegion, Photo, Rectangle, check
from patchioner.geometry import ImageGeometry
from patchioner.regions import Box, Mask, NamedRegion, Polygon, Region

if TYPE_CHECKING:
    from patchioner.model import Patchioner

Floats = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_]
Size = tuple[int, int]

_LEAST_AREA, _MOST_AREA = 0.012, 0.7  # of a thing that is found, as shares of the photo
_OVERLAP = 0.5  # of two candidates with an IoU above this, the lesser is dropped
_PART = 0.6  # share of a thing inside a more salient one of the same name that makes it a part
_RING = 2  # patches: width of the surroundings that a segment's attention is compared with
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

    @property
    def region(self) -> Region:
        """As `Patchioner.caption` takes it."""
        return Box(*self.box) if self.mask is None else Mask(self.mask)


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
            return _of_mask(given)
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


def _of_mask(mask: Mask, score: float = 1.0) -> Detection:
    left, top, right, bottom = map(float, mask.bounds)
    return Detection((left, top, right, bottom), None, score, mask.array)


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
    """Which regions a photo is divided into, besides the whole of it.

    Attributes:
        spatial: "quadrants", "grid", or "none".
        rows, columns: of the grid.
        grow: quadrants grow by boxes of which more than this share lies in them; None leaves them as they are.
        growing_area: boxes larger than this share of the photo grow nothing.
        merge_iou: boxes with IoU above this are united before quadrants grow by them.
        objects: "each" thing is a region; "union": the one box around those that the caption of the whole photo
            names, as published; or "none".
        most_objects: that are found where none are given.
    """

    spatial: Literal["quadrants", "grid", "none"] = "quadrants"
    rows: int = 3
    columns: int = 3
    grow: float | None = 0.3
    growing_area: float = 0.25
    merge_iou: float = 0.5
    objects: Literal["each", "union", "none"] = "each"
    most_objects: int = 8

    def __post_init__(self) -> None:
        check(self, objects=("each", "union", "none"), spatial=("quadrants", "grid", "none"))
        check(self, rows=(1, 1000), columns=(1, 1000), most_objects=(1, 10_000))
        check(self, grow=(0, 1), growing_area=(0, 1), merge_iou=(0, 1))


class PhotoDivider:
    """Divide a photo into the whole, things in it, and parts by place.

    `OptionError`: a "union" without a model, which captions the whole photo; it names what is found, too.
    """

    def __init__(
        self, settings: DivideSettings | None = None, *, model: Patchioner | None = None
    ) -> None:
        self._settings, self._model = settings or DivideSettings(), model
        if self._settings.objects == "union" and model is None:
            raise OptionError("objects='union' goes by a caption: give a model, or objects='each'")

    @property
    def settings(self) -> dict[str, object]:
        """Those of `DivideSettings`."""
        return asdict(self._settings)

    def divide(self, photo: Photo, given: Sequence[Given] | None = None) -> list[DetailRegion]:
        """The whole photo first, then things (those given, or found), then parts by place in reading order.

        Parts that the model sees nothing of (where its preprocessing crops) are left out. Nothing is random.
        """
        found = self._things(photo, given)
        regions = [whole_photo(photo.size), *self._semantic(found, photo, given is not None)]
        regions += self._spatial(found, regions, photo.size)
        if photo.features is None:
            return regions
        visible = photo.features.geometry.visible
        return [one for one in regions if shared_area(one.box, visible) > 0]

    def _things(self, photo: Photo, given: Sequence[Given] | None) -> list[Detection]:
        settings = self._settings
        if given is not None:
            return trusted([as_detection(one, photo.size) for one in given])
        growing = settings.spatial == "quadrants" and settings.grow is not None
        if settings.objects == "none" and not growing:
            return []
        return discover_objects(_features(photo), self._model, settings.most_objects)

    def _semantic(self, found: list[Detection], photo: Photo, given: bool) -> list[DetailRegion]:
        if self._settings.objects == "each":
            return _regions(found, "user" if given else "semantic")
        if self._settings.objects == "none" or self._model is None or not found:
            return []
        caption = self._model.caption(_features(photo))[0].text or ""
        box = union_of_named(found, caption, photo.size)
        return [] if box is None else _regions([Detection(box)], "semantic")

    def _spatial(
        self, found: list[Detection], regions: list[DetailRegion], size: Size
    ) -> list[DetailRegion]:
        settings = self._settings
        if settings.spatial == "none":
            return []
        if settings.spatial == "grid":
            cells = grid(size, settings.rows, settings.columns)
            return [
                DetailRegion(f"grid-{number}", "grid", box, parents=("global",))
                for number, box in enumerate(cells, 1)
            ]
        largest, grow = settings.growing_area * size[0] * size[1], settings.grow
        growing = [one.box for one in found if grow is not None and area(one.box) <= largest]
        merged = merge_overlapping(growing, settings.merge_iou)
        parts = []
        for number, part in enumerate(quadrants(size), 1):
            joined = [box for box in merged if share_inside(box, part) > (grow or 0.0)]
            inside = (
                one.id
                for one in regions[1:]
                if any(share_inside(one.box, box) >= 1 for box in joined)
            )
            box, parents = bounding_union([part, *joined]), ("global", *inside)
            parts.append(DetailRegion(f"spatial-{number}", "spatial", box, parents=parents))
        return parts


def whole_photo(image_size: Size) -> DetailRegion:
    """The region that is the whole photo, "global"."""
    return DetailRegion("global", "global", (0.0, 0.0, float(image_size[0]), float(image_size[1])))


def _regions(
    detections: Sequence[Detection], kind: Literal["semantic", "user"]
) -> list[DetailRegion]:
    """One per thing; parents are the photo and, smallest first, the larger things that hold four fifths of it."""
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


def _features(photo: Photo) -> PatchFeatures:
    if photo.features is None:
        remedy = "open it with a model, give regions, or divide with objects='none' and grow=None"
        raise OptionError(f"{photo.name!r} has no features to find objects in: {remedy}")
    return photo.features


def discover_objects(
    features: PatchFeatures, model: Patchioner | None = None, limit: int = 8
) -> list[Detection]:
    """Things in the captioner's own features, best first: class-agnostic, without a detector; a model names them."""
    # Parts that go by the name of their whole make room for others.
    segments = salient_segments(
        features.tokens.detach().float().cpu().numpy(),
        None if features.attention is None else features.attention.float().mean(0).cpu().numpy(),
        limit if model is None else 2 * limit,
    )
    pixels = [(score, cells_to_pixels(cells, features.geometry)) for score, cells in segments]
    found = [_of_mask(Mask(seen), score / segments[0][0]) for score, seen in pixels if seen.any()]
    if model is None or not found:
        return found
    captions = model.caption(features, [one.region for one in found])
    named = [
        replace(one, name=next((phrase.name for phrase in noun_phrases(caption.text)), None))
        for one, caption in zip(found, captions, strict=True)
    ]
    return without_parts(named)[:limit]


def without_parts(found: Sequence[Detection]) -> list[Detection]:
    """Drop what lies, by more than 0.6 of its mask, in a more salient thing of the same name."""
    kept: list[Detection] = []
    for one in found:
        wholes = [other for other in kept if one.name is not None and other.name == one.name]
        own = np.asarray(one.mask)
        if all((own & other.mask).sum() <= _PART * own.sum() for other in wholes):
            kept.append(one)
    return kept


def cells_to_pixels(cells: Cells, geometry: ImageGeometry) -> Cells:
    """(rows, columns) bool patches -> (height, width) bool pixels of the original photo, with smoothed outlines.

    True where the bilinear interpolation of the cells between their centres is at least one half; False where the model
    sees nothing of the photo.
    """
    width, height = geometry.image_size
    pixels = np.zeros((height, width), dtype=np.bool_)
    longest = np.arange(max(width, height)) + 0.5
    centres = geometry.to_grid(np.stack([longest, longest], axis=1))
    across, columns = _interpolation(centres[:width, 0], cells.shape[1])
    down, rows = _interpolation(centres[:height, 1], cells.shape[0])
    if len(rows) and len(columns):
        soft = down @ cells.astype(np.float32) @ across.T
        pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = soft >= 0.5 - 1e-6
    return pixels


def _interpolation(
    centres: Floats, cells: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """(seen pixels, cells) weights, and which pixels are seen; outside their centres the outer cells count."""
    seen = np.flatnonzero((centres >= 0.0) & (centres <= cells))
    place = np.clip(centres[seen] - 0.5, 0.0, cells - 1.0)
    return np.maximum(1.0 - np.abs(place[:, None] - np.arange(cells)), 0.0).astype("f4"), seen


def salient_segments(
    tokens: npt.NDArray[np.floating],
    attention: npt.NDArray[np.floating] | None = None,
    limit: int = 8,
) -> list[tuple[float, Cells]]:
    """At most `limit` (score, (rows, columns) bool) that look most like things, best first; none where all is alike.

    Unit tokens, less their mean over the photo and made unit again, are merged into a tree. A node scores the product
    of four numbers: its persistence (how much dearer the union that takes it up is than itself), its compactness (share
    of its bounding box that it fills), the share of the photo's frame that it does not touch, and its mean attention
    over that of its surroundings. Of nodes that overlap more than half, the best stays.
    """
    units = _unit(np.asarray(tokens, dtype=np.float64))
    tree, parent, height = merge_tree(_unit(units - units.mean(axis=(0, 1))))
    count = len(tree) // 2 + 1
    share = tree.mean(axis=(1, 2))
    candidates = [
        ((height[parent[node]] - height[node]) * _salience(tree[node], attention), tree[node])
        for node in range(count, 2 * count - 2)  # cells are too small, the root is the photo
        if _LEAST_AREA <= share[node] <= _MOST_AREA
    ]
    kept: list[tuple[float, Cells]] = []
    for score, cells in sorted(candidates, key=lambda one: -one[0]):
        if len(kept) == limit or score <= 0.0:
            break
        if all((cells & other).sum() <= _OVERLAP * (cells | other).sum() for _, other in kept):
            kept.append((float(score), cells))
    return kept


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Rounding noise about the mean of equal tokens is no direction.
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0.0)


def _salience(cells: Cells, attention: npt.NDArray[np.floating] | None) -> float:
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    frame = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    score = float(cells.sum() / box) * (1.0 - float(frame.mean()))
    if attention is not None:
        side = 2 * _RING + 1
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(cells, _RING), (side, side))
        ring = windows.any(axis=(2, 3)) & ~cells
        outside = float(attention[ring].mean()) if ring.any() else 0.0
        score *= float(attention[cells].mean()) / outside if outside > 0 else 1.0
    return score


def merge_tree(vectors: Floats) -> tuple[Cells, npt.NDArray[np.int64], Floats]:
    """Merge neighbouring cells of (rows, columns, dim) finite vectors, pair after pair, until one node is left.

    The two go first whose union adds least to the sum of squared distances from the mean (Ward 1963, restricted to
    neighbours on the grid). Equal costs are settled by the lower numbers.

    Returns:
        Of the 2n-1 nodes (n cells row by row, then the unions as they came): the (rows, columns) bool that each holds,
        the union that took it up (-1 of the root), and what the union cost, never less than that of its children.
    """
    rows, columns, dim = vectors.shape
    count = rows * columns
    total = 2 * count - 1
    means = np.zeros((total, dim))
    means[:count] = vectors.reshape(count, dim)
    size, height = np.ones(total, dtype=np.int64), np.zeros(total)
    parent = np.full(total, -1, dtype=np.int64)
    holds = np.zeros((total, count), dtype=np.bool_)
    holds[:count] = np.eye(count, dtype=np.bool_)
    around = _neighbours(rows, columns)
    waiting = [
        (cost, node, other)
        for node in range(count)
        for other, cost in _costs(means, size, node, sorted(n for n in around[node] if n > node))
    ]
    heapq.heapify(waiting)
    for made in range(count, total):
        cost, one, two = heapq.heappop(waiting)
        while one not in around or two not in around:  # taken up by another union meanwhile
            cost, one, two = heapq.heappop(waiting)
        size[made] = size[one] + size[two]
        means[made] = (means[one] * size[one] + means[two] * size[two]) / size[made]
        height[made] = max(cost, height[one], height[two])
        holds[made] = holds[one] | holds[two]
        parent[[one, two]] = made
        around[made] = (around.pop(one) | around.pop(two)) - {one, two}
        for other in around[made]:
            around[other] = around[other] - {one, two} | {made}
        for other, new in _costs(means, size, made, sorted(around[made])):
            heapq.heappush(waiting, (new, other, made))
    return holds.reshape(total, rows, columns), parent, height


def _neighbours(rows: int, columns: int) -> dict[int, set[int]]:
    number = np.arange(rows * columns).reshape(rows, columns)
    around: dict[int, set[int]] = {node: set() for node in range(rows * columns)}
    for first, second in ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:])):
        for one, two in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            around[one].add(two)
            around[two].add(one)
    return around


def _costs(
    means: Floats, size: npt.NDArray[np.int64], node: int, others: list[int]
) -> list[tuple[int, float]]:
    """What each union would add to the sum of squared distances from the mean."""
    if not others:
        return []
    apart = means[others] - means[node]
    weight = size[others] * size[node] / (size[others] + size[node])
    squared = np.einsum("ij,ij->i", apart, apart)
    return list(zip(others, (weight * squared).tolist(), strict=True))
