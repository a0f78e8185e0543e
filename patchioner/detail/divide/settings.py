"""How photos are divided, as values. Knows numbers and their bounds; does not know how anything is divided."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from patchioner.base.errors import OptionError

Spatial = Literal["quadrants", "grid", "none"]
Objects = Literal["each", "union", "none"]


@dataclass(frozen=True)
class DiscoverySettings:
    """How objects are found in dense features (`discover_objects`).

    Attributes:
        limit: most objects of a photo.
        least_area, most_area: of an object, as shares of the photo.
        overlap: of two candidates with an IoU above this, the lesser is dropped; parts inside wholes may stay.
        names: "caption" names an object by what its caption is about; "none" leaves it without a name.
        part: share of a thing that lies in a more salient one of the same name for it to be a part of that, which is
            dropped: the leg of a zebra is named "zebra" as well; 1 drops none.

    Raises:
        OptionError: a value outside of its range.
    """

    limit: int = 8
    least_area: float = 0.012
    most_area: float = 0.7
    overlap: float = 0.5
    names: Literal["caption", "none"] = "caption"
    part: float = 0.6

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise OptionError(
                f"limit {self.limit} finds nothing: give 1 or more, or objects='none'"
            )
        if not 0 <= self.least_area < self.most_area <= 1:
            raise OptionError(
                f"least_area {self.least_area} and most_area {self.most_area} are shares of the photo: "
                "0 <= least_area < most_area <= 1"
            )
        _share("overlap", self.overlap)
        _share("part", self.part)
        if self.names not in ("caption", "none"):
            raise OptionError(f"names {self.names!r} is unknown: use 'caption' or 'none'")


@dataclass(frozen=True)
class DivideSettings:
    """Which regions a photo is divided into, besides the whole of it.

    Attributes:
        spatial: "quadrants", "grid", or "none".
        rows, columns, overlap: of the grid, see `grid`.
        grow: quadrants grow by boxes of which more than this share lies in them; None leaves them as they are.
        growing_area: boxes larger than this share of the photo grow nothing; 1 lets all.
        merge_iou: boxes with IoU above this are united before quadrants grow by them.
        objects: "each" box, mask or found object is a region; "union": the one box around those that the caption of
            the whole photo names, as published; or "none".
        union_coverage: the "union" is skipped where its IoU with the photo is above this.
        least_score: detections at or below this are not used ...
        fallback: ... but if none is above it, the first so many are.
        discovery: how objects are found when none are given.

    Raises:
        OptionError: a value outside of its range.
    """

    spatial: Spatial = "quadrants"
    rows: int = 3
    columns: int = 3
    overlap: float = 0.0
    grow: float | None = 0.3
    growing_area: float = 0.25
    merge_iou: float = 0.5
    objects: Objects = "each"
    union_coverage: float = 0.4
    least_score: float = 0.3
    fallback: int = 2
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("spatial", self.spatial, get_args(Spatial)),
            ("objects", self.objects, get_args(Objects)),
        ):
            if value not in known:
                raise OptionError(f"{name} {value!r} is unknown: use one of {known}")
        if self.rows < 1 or self.columns < 1 or self.fallback < 0:
            raise OptionError(
                f"rows {self.rows} and columns {self.columns} must be 1 or more, fallback {self.fallback} 0 or more"
            )
        if not 0 <= self.overlap < 1:
            raise OptionError(f"overlap {self.overlap} must be 0 or more, and below 1")
        for name in ("growing_area", "merge_iou", "union_coverage", "least_score"):
            _share(name, getattr(self, name))
        if self.grow is not None:
            _share("grow", self.grow)


def _share(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise OptionError(f"{name} {value} is a share: give 0 to 1")
