"""Regions of an image: values in pixels of the original image, numpy only.

Knows: every region kind, and the formats that they come from. Does NOT know weightings
(``patchioner.aggregate``), files of regions (``patchioner.region_files``), images or networks.
"""

from __future__ import annotations

from patchioner.regions.base import Region, Shape
from patchioner.regions.box import Box
from patchioner.regions.formats import from_coco, from_sam
from patchioner.regions.mask import Mask
from patchioner.regions.places import Patch, Point, WholeImage
from patchioner.regions.polygon import Polygon
from patchioner.regions.sets import RegionSet
from patchioner.regions.trace import Trace

__all__ = [
    "Box",
    "Mask",
    "Patch",
    "Point",
    "Polygon",
    "Region",
    "RegionSet",
    "Shape",
    "Trace",
    "WholeImage",
    "from_coco",
    "from_sam",
]
