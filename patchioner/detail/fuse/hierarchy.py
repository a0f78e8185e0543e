"""The tree in which regions are fused: each alone, then those that overlap, then the whole photo.

Knows: boxes, and folding drafts that say the same. Does NOT know: wording, order, length.

The published system fuses adjacent quadrants in pairs and never a pair with a pair ("Patch Matters", CVPR 2025, 3.3);
here regions that overlap, directly or through others, become one group, so that no region is lost or told twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchioner.detail.fuse.drafts import Draft
from patchioner.detail.fuse.settings import FuseSettings
from patchioner.detail.text import similarity_matrix
from patchioner.detail.values import DetailRegion

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Node:
    """A group of regions that are fused together.

    Attributes:
        level: "region", "overlap" or "global".
        region_ids: of all regions in it, in their order.
        children: of the level below; none for a region.
    """

    level: str
    region_ids: tuple[str, ...]
    children: tuple[Node, ...] = ()


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where both are empty.

    Example:
        >>> box_iou((0, 0, 2, 2), (0, 0, 2, 1))
        0.5
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    either = _area(first) + _area(second) - shared
    return shared / either if either > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def region_tree(regions: Sequence[DetailRegion], overlap_iou: float) -> Node:
    """Group regions: leaves are single regions, then groups of overlapping ones, the root is the whole photo.

    Regions overlap when the intersection over union of their boxes exceeds `overlap_iou`; a group holds all that
    overlap directly or through others. Global regions are children of the root at once.

    Example:
        >>> halves = [DetailRegion("a", "grid", (0, 0, 6, 9)), DetailRegion("b", "grid", (2, 0, 8, 9))]
        >>> [child.region_ids for child in region_tree(halves, 0.4).children]
        [('a', 'b')]
    """
    groups: list[list[DetailRegion]] = []
    for region in regions:
        near = [group for group in groups if _touches(region, group, overlap_iou)]
        merged = [*(one for group in near for one in group), region]
        groups = [group for group in groups if not any(group is other for other in near)]
        groups.append(merged)
    places = {region.id: place for place, region in enumerate(regions)}
    ordered = sorted(
        (sorted((one.id for one in group), key=places.__getitem__) for group in groups),
        key=lambda ids: places[ids[0]],
    )
    children = tuple(
        Node("overlap", tuple(ids), tuple(Node("region", (name,)) for name in ids))
        if len(ids) > 1
        else Node("region", tuple(ids))
        for ids in ordered
    )
    return Node("global", tuple(region.id for region in regions), children)


def _touches(region: DetailRegion, group: Iterable[DetailRegion], overlap_iou: float) -> bool:
    return region.kind != "global" and any(
        other.kind != "global" and box_iou(region.box, other.box) > overlap_iou for other in group
    )


def fold_tree(drafts: Sequence[Draft], tree: Node, settings: FuseSettings) -> list[Draft]:
    """Fold drafts that say the same, from the leaves of the tree up.

    Args:
        drafts: n, in any order.
        tree: of all their regions.
        settings: `duplicate` and `duplicate_apart`.

    Returns:
        The drafts that stay, in the order given, each with what was folded into it.
    """
    alike = similarity_matrix([draft.text for draft in drafts])
    stays = _fold_node(list(enumerate(drafts)), tree, alike, settings)
    return [draft for _, draft in sorted(stays, key=lambda pair: pair[0])]


def _fold_node(
    drafts: list[tuple[int, Draft]],
    node: Node,
    alike: npt.NDArray[np.float64],
    settings: FuseSettings,
) -> list[tuple[int, Draft]]:
    inside = [pair for pair in drafts if pair[1].region.id in node.region_ids]
    if node.children:
        inside = [
            pair for child in node.children for pair in _fold_node(inside, child, alike, settings)
        ]
    return _fold(inside, alike, settings, near=node.level != "global")


def _fold(
    drafts: list[tuple[int, Draft]],
    alike: npt.NDArray[np.float64],
    settings: FuseSettings,
    *,
    near: bool,
) -> list[tuple[int, Draft]]:
    """Best first, each taking in what is like it: about the whole photo, then said by most, then fullest."""
    order = sorted(drafts, key=lambda pair: (_rank(pair[1]), pair[0]))
    stays: list[tuple[int, Draft]] = []
    for place, draft in order:
        for at, (other_place, other) in enumerate(stays):
            close = near or "global" in (draft.region.kind, other.region.kind)
            close = close or draft.region.id == other.region.id
            if alike[place, other_place] >= (
                settings.duplicate if close else settings.duplicate_apart
            ):
                stays[at] = (other_place, other.fold(draft))
                break
        else:
            stays.append((place, draft))
    return stays


def _rank(draft: Draft) -> tuple[int, int, int]:
    return (-int(draft.region.kind == "global"), -draft.voices, -len(draft.text))
