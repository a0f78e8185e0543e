"""The order of a paragraph: the whole photo, then things, then parts of it in reading order.

Knows: kinds of regions and where their boxes are. Does NOT know: what the sentences say.
"""

from __future__ import annotations

from collections.abc import Sequence

from patchioner.detail.fuse.drafts import Draft
from patchioner.detail.fuse.locations import without_place
from patchioner.detail.values import REGION_KINDS, DetailRegion

_ROWS = 3  # centres in the same third of the photo's height are on one line, as a reader sees it


def reading_order(regions: Sequence[DetailRegion], size: tuple[int, int]) -> list[DetailRegion]:
    """Regions as a paragraph speaks of them: by kind (`REGION_KINDS`), then row by row, left to right.

    Args:
        regions: any.
        size: (width, height) of the photo in pixels.

    Example:
        >>> boxes = {"right": (50, 2, 99, 50), "left": (0, 0, 50, 50), "low": (0, 60, 40, 99)}
        >>> parts = [DetailRegion(name, "spatial", box) for name, box in boxes.items()]
        >>> [part.id for part in reading_order(parts, (100, 100))]
        ['left', 'right', 'low']
    """
    return sorted(regions, key=lambda region: (*_place(region, size), region.id))


def _place(region: DetailRegion, size: tuple[int, int]) -> tuple[int, int, float, float]:
    left, top, right, bottom = region.box
    row = int(_ROWS * (top + bottom) / 2 / max(size[1], 1))
    return REGION_KINDS.index(region.kind), row, left + right, top + bottom


def in_order(
    drafts: Sequence[Draft], regions: Sequence[DetailRegion], size: tuple[int, int]
) -> list[Draft]:
    """Drafts in the order of the paragraph: by region, then by place in their text, then by sample."""
    rank = {region.id: place for place, region in enumerate(reading_order(regions, size))}
    return sorted(
        drafts,
        key=lambda draft: (
            rank[draft.region.id],
            draft.verdict.claim.place,
            draft.verdict.claim.sample,
            draft.verdict.claim.id,
        ),
    )


def opener_first(drafts: Sequence[Draft]) -> list[Draft]:
    """Drafts in their order, but one that can open the paragraph before the others.

    A paragraph does not open with a place ("At the top, ..."). Where the first has one, the first of those that have
    none is brought forward; where all have, they stay as they are.
    """
    place = next((place for place, draft in enumerate(drafts) if _opens(draft)), 0)
    return [*drafts[place : place + 1], *drafts[:place], *drafts[place + 1 :]]


def _opens(draft: Draft) -> bool:
    return draft.place is None and without_place(draft.text) == draft.text
