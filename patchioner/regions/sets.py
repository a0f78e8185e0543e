"""Several regions that are captioned as one. Of the kinds it knows only boxes, for an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Shape
from patchioner.regions.box import Box
from patchioner.regions.values import items_of, numbers


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

    members: tuple[Region, ...]

    def __init__(self, members: Iterable[Region]) -> None:
        if isinstance(members, (Region, str)) or not isinstance(members, Iterable):
            raise RegionError(f"a RegionSet takes a list of regions, not {members!r:.80}")
        collected = tuple(members)
        if not collected:
            raise RegionError("the RegionSet is empty; give at least one region")
        for index, member in enumerate(collected):
            if not isinstance(member, Region):
                raise RegionError(
                    f"member {index} of the RegionSet is {member!r:.80}, no region; "
                    "wrap it, as in Box(x1, y1, x2, y2)"
                )
        object.__setattr__(self, "members", collected)

    @classmethod
    def from_xywh(cls, boxes: object) -> Self:
        """A set of boxes from rows of left, top, width, height in pixels, padding left out.

        Args:
            boxes: (n, 4) list, array or tensor; rows of four negative numbers, such as the
                published [-1, -1, -1, -1], only fill a batch and are skipped.

        Raises:
            RegionError: a row is no box, or none is left; the published code answers NaN then.

        Example:
            >>> RegionSet.from_xywh([[0, 0, 10, 10], [-1, -1, -1, -1]])
            RegionSet(Box(x1=0.0, y1=0.0, x2=10.0, y2=10.0))
        """
        rows = [
            numbers(row, 4, f"box {index} of the RegionSet")
            for index, row in enumerate(items_of(boxes, "boxes of the RegionSet"))
        ]
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
