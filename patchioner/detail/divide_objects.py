"""Things found in the captioner's own dense features: class-agnostic, without a detector, without a download.

Neighbouring patches that look most alike are merged, pair after pair, into a tree (Ward 1963, restricted to neighbours
on the grid: the two go first whose union adds least to the sum of squared distances from the mean). Its nodes are
connected by construction; the most salient ones are things.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.detail.divide import Detection, DiscoverySettings, share_inside
from patchioner.detail.text import noun_phrases
from patchioner.geometry import ImageGeometry
from patchioner.regions import Mask

if TYPE_CHECKING:
    from patchioner.backbones import PatchFeatures
    from patchioner.model import Patchioner

Vectors = npt.NDArray[np.floating]
Cells = npt.NDArray[np.bool_]

_SPARE = 2  # times more candidates are named than things are wanted
_RING = 2  # patches: width of the surroundings that a segment's attention is compared with


def discover_objects(
    features: PatchFeatures,
    model: Patchioner | None = None,
    settings: DiscoverySettings | None = None,
) -> list[Detection]:
    """Find what looks like things in one photo's features."""
    settings = settings or DiscoverySettings()
    if model is None or settings.names == "none":
        return _found(features, settings)
    # Parts that go by the name of their whole make room for others.
    found = _found(features, replace(settings, limit=_SPARE * settings.limit))
    captions = model.caption(features, [one.region for one in found]) if found else []
    named = [
        replace(one, name=next((phrase.name for phrase in noun_phrases(caption.text)), None))
        for one, caption in zip(found, captions, strict=True)
    ]
    return without_parts(named, settings.part)[: settings.limit]


def _found(features: PatchFeatures, settings: DiscoverySettings) -> list[Detection]:
    tokens = features.tokens.detach().float().cpu().numpy()
    attention = features.attention
    mean = None if attention is None else attention.detach().float().mean(0).cpu().numpy()
    segments = salient_segments(tokens, mean, settings)
    found: list[Detection] = []
    for segment in segments:
        pixels = cells_to_pixels(segment.cells, features.geometry)
        if pixels.any():
            mask = Mask(pixels)
            left, top, right, bottom = (float(edge) for edge in mask.bounds)
            share = segment.score / segments[0].score
            found.append(Detection((left, top, right, bottom), None, share, mask.array))
    return found


def without_parts(found: Sequence[Detection], inside: float) -> list[Detection]:
    """Drop what lies, by more than a share of its mask, in a more salient thing of the same name; 1 drops none."""
    kept: list[Detection] = []
    for one in found:
        wholes = [other for other in kept if one.name is not None and other.name == one.name]
        if all(_share_of_mask(one, other) <= inside for other in wholes):
            kept.append(one)
    return kept


def _share_of_mask(one: Detection, other: Detection) -> float:
    if one.mask is None or other.mask is None:
        return share_inside(one.box, other.box)
    return float(np.count_nonzero(one.mask & other.mask) / np.count_nonzero(one.mask))


def cells_to_pixels(cells: Cells, geometry: ImageGeometry) -> npt.NDArray[np.bool_]:
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
    centres: npt.NDArray[np.float64], cells: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(seen pixels, cells) float32 weights, and which pixels are seen; outside their centres the outer cells count."""
    seen = np.flatnonzero((centres >= 0.0) & (centres <= cells))
    place = np.clip(centres[seen] - 0.5, 0.0, cells - 1.0)
    apart = np.abs(place[:, None] - np.arange(cells))
    return np.maximum(1.0 - apart, 0.0).astype(np.float32), seen.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Segment:
    """A connected set of patches, (rows, columns) bool, and how salient it is within its photo."""

    cells: Cells
    score: float


def salient_segments(
    tokens: Vectors,
    attention: npt.NDArray[np.floating] | None = None,
    settings: DiscoverySettings | None = None,
) -> list[Segment]:
    """At most ``settings.limit`` segments that look most like things, best first; none where all patches are alike.

    Unit tokens, less their mean over the photo and made unit again, are merged into a tree. A node scores the product
    of four numbers: its persistence (how much dearer the union that takes it up is than itself), its compactness (share
    of its bounding box that it fills), the share of the photo's frame that it does not touch, and its mean attention
    over that of its surroundings. Of nodes that overlap more than the settings allow, the best stays.
    """
    settings = settings or DiscoverySettings()
    units = _unit(np.asarray(tokens, dtype=np.float64))
    tree = merge_tree(_unit(units - units.mean(axis=(0, 1))))
    count = tokens.shape[0] * tokens.shape[1]
    lowest, highest = settings.least_area * count, settings.most_area * count
    candidates = [
        _segment(tree, node, attention)
        for node in range(count, 2 * count - 2)  # cells are too small, the root is the photo
        if lowest <= tree.size[node] <= highest
    ]
    kept: list[Segment] = []
    for one in sorted(candidates, key=lambda segment: -segment.score):
        if len(kept) == settings.limit or one.score <= 0.0:
            break
        if all(_cell_iou(one.cells, other.cells) <= settings.overlap for other in kept):
            kept.append(one)
    return kept


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Rounding noise about the mean of equal tokens is no direction.
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0.0)


def _segment(tree: MergeTree, node: int, attention: npt.NDArray[np.floating] | None) -> Segment:
    cells = tree.cells(node)
    persistence = float(tree.height[tree.parent[node]] - tree.height[node])
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    frame = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    score = persistence * float(cells.sum() / box) * (1.0 - float(frame.mean()))
    if attention is not None:
        ring = _dilated(cells, _RING) & ~cells
        outside = float(attention[ring].mean()) if ring.any() else 0.0
        score *= float(attention[cells].mean()) / outside if outside > 0 else 1.0
    return Segment(cells, score)


def _dilated(cells: Cells, width: int) -> Cells:
    """All cells within `width` rows and columns of a true one."""
    rows, columns = cells.shape
    padded = np.pad(cells, width)
    grown = np.zeros_like(cells)
    for down in range(2 * width + 1):
        for right in range(2 * width + 1):
            grown |= padded[down : down + rows, right : right + columns]
    return grown


def _cell_iou(one: Cells, two: Cells) -> float:
    return float(np.count_nonzero(one & two) / np.count_nonzero(one | two))


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Nodes 0 .. n-1 are the cells of the grid, row by row; n .. 2n-2 the unions in the order in which they came.

    Attributes:
        grid: (rows, columns).
        children: (n-1, 2) int, the two nodes that each union was made of.
        parent: (2n-1,) int, the union that took a node up; -1 of the root.
        size: (2n-1,) int, cells in a node.
        height: (2n-1,) float, what the union cost, never less than that of its children; 0 of a cell.
    """

    grid: tuple[int, int]
    children: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    height: npt.NDArray[np.float64]

    def cells(self, node: int) -> Cells:
        """(rows, columns) bool, where a node lies."""
        count = self.grid[0] * self.grid[1]
        inside = np.zeros(count, dtype=np.bool_)
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current < count:
                inside[current] = True
            else:
                waiting.extend(self.children[current - count].tolist())
        return inside.reshape(self.grid)


def merge_tree(vectors: Vectors) -> MergeTree:
    """Merge neighbouring cells of (rows, columns, dim) finite vectors until one node is left.

    Equal costs are settled by the lower numbers, so that the same vectors give the same tree.
    """
    rows, columns, dim = vectors.shape
    count = rows * columns
    total = 2 * count - 1
    means = np.zeros((total, dim), dtype=np.float64)
    means[:count] = vectors.reshape(count, dim)
    size = np.ones(total, dtype=np.int64)
    height = np.zeros(total, dtype=np.float64)
    parent = np.full(total, -1, dtype=np.int64)
    children = np.zeros((count - 1, 2), dtype=np.int64)
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
        children[made - count] = one, two
        parent[[one, two]] = made
        around[made] = (around.pop(one) | around.pop(two)) - {one, two}
        for other in around[made]:
            around[other] = around[other] - {one, two} | {made}
        for other, new in _costs(means, size, made, sorted(around[made])):
            heapq.heappush(waiting, (new, other, made))
    return MergeTree((rows, columns), children, parent, size, height)


def _neighbours(rows: int, columns: int) -> dict[int, set[int]]:
    number = np.arange(rows * columns).reshape(rows, columns)
    around: dict[int, set[int]] = {node: set() for node in range(rows * columns)}
    beside = zip(number[:, :-1].ravel().tolist(), number[:, 1:].ravel().tolist(), strict=True)
    below = zip(number[:-1].ravel().tolist(), number[1:].ravel().tolist(), strict=True)
    for one, two in [*beside, *below]:
        around[one].add(two)
        around[two].add(one)
    return around


def _costs(
    means: npt.NDArray[np.float64], size: npt.NDArray[np.int64], node: int, others: list[int]
) -> list[tuple[int, float]]:
    """What each union would add to the sum of squared distances from the mean."""
    if not others:
        return []
    apart = means[others] - means[node]
    weight = size[others] * size[node] / (size[others] + size[node])
    squared = np.einsum("ij,ij->i", apart, apart)
    return list(zip(others, (weight * squared).tolist(), strict=True))
