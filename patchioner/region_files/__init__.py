"""Files of regions: this project's JSON, COCO annotations, SAM's masks.

Knows: files. Does NOT know weightings, images or networks.
"""

from __future__ import annotations

from patchioner.region_files.named import NamedRegion
from patchioner.region_files.reader import read_regions

__all__ = ["NamedRegion", "read_regions"]
