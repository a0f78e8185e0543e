"""A region with the name that its file gives it. Does NOT know formats."""

from __future__ import annotations

from dataclasses import dataclass

from patchioner.regions import Region


@dataclass(frozen=True)
class NamedRegion:
    """One region of a file.

    Attributes:
        region: in pixels of the original image (a trace may count in 0..1).
        label: what the file calls it (our ``label``, COCO's category), or None.
    """

    region: Region
    label: str | None = None
