"""Which segments of a photo look like things: what stands out, holds together and does not hug the frame.

Knows: a tree of segments, patch attention. Does not know: pixels, names, captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchioner.detail.divide.merging import Cells, MergeTree, Vectors, merge_tree
from patchioner.detail.divide.settings import DiscoverySettings

_RING = 2
"""Width in patches of the surroundings that a segment's attention is compared with."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A connected set of patches that may be a thing.

    Attributes:
        cells: (rows, columns) bool.
        score: comparable within a photo, higher is better.
    """

    cells: Cells
    score: float


def salient_segments(
    tokens: Vectors,
    attention: npt.NDArray[np.floating] | None = None,
    settings: DiscoverySettings | None = None,
) -> list[Segment]:
    """The segments that look most like things, best first.

    Unit tokens, less their mean over the photo and made unit again, are merged into a tree (`merge_tree`). A node
    scores the product of four numbers: its persistence (how much dearer the union that takes it up is than itself), its
    compactness (share of its bounding box that it fills), the share of the photo's frame that it does not touch, and
    its mean attention over that of its surroundings, two patches wide. Of nodes that overlap more than the settings
    allow, the best stays.

    Args:
        tokens: (rows, columns, dim) patch tokens.
        attention: (rows, columns) of the global token, not negative; None leaves that factor out.
        settings: limits on number, area and overlap.

    Returns:
        At most ``settings.limit`` segments; none where all patches are alike. No random choice.

    Example:
        >>> found = salient_segments(features.tokens.numpy(), features.attention.mean(0).numpy())  # doctest: +SKIP
    """
    settings = settings or DiscoverySettings()
    tree = merge_tree(_contrasts(tokens))
    count = tokens.shape[0] * tokens.shape[1]
    lowest, highest = settings.least_area * count, settings.most_area * count
    nodes = [
        node
        for node in range(count, 2 * count - 2)  # cells are too small, the root is the photo
        if lowest <= tree.size[node] <= highest
    ]
    candidates = [_segment(tree, node, attention) for node in nodes]
    candidates.sort(key=lambda segment: -segment.score)
    return _distinct(candidates, settings)


def _contrasts(tokens: Vectors) -> Vectors:
    """Unit differences from the photo's mean token; a patch that has none is zero."""
    units = _unit(np.asarray(tokens, dtype=np.float64))
    return _unit(units - units.mean(axis=(0, 1)))


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
    return Segment(cells, score * (1.0 if attention is None else _standing_out(cells, attention)))


def _standing_out(cells: Cells, attention: npt.NDArray[np.floating]) -> float:
    """Mean attention inside over that in the surroundings; 1 where there are none."""
    ring = _dilated(cells, _RING) & ~cells
    outside = float(attention[ring].mean()) if ring.any() else 0.0
    return float(attention[cells].mean()) / outside if outside > 0 else 1.0


def _dilated(cells: Cells, width: int) -> Cells:
    """All cells within `width` rows and columns of a true one."""
    rows, columns = cells.shape
    padded = np.pad(cells, width)
    grown = np.zeros_like(cells)
    for down in range(2 * width + 1):
        for right in range(2 * width + 1):
            grown |= padded[down : down + rows, right : right + columns]
    return grown


def _distinct(candidates: list[Segment], settings: DiscoverySettings) -> list[Segment]:
    kept: list[Segment] = []
    for segment in candidates:
        if len(kept) == settings.limit or segment.score <= 0.0:
            break
        if all(_cell_iou(segment.cells, other.cells) <= settings.overlap for other in kept):
            kept.append(segment)
    return kept


def _cell_iou(one: Cells, two: Cells) -> float:
    return float(np.count_nonzero(one & two) / np.count_nonzero(one | two))
