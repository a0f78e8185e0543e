"""Regions of an image, in pixels of the original, and their weights over patches; torch for `pool_regions` alone."""

from __future__ import annotations

from patchioner.regions.base import (
    Bounds,
    Kind,
    Outline,
    Region,
    Shape,
    Weighting,
    feature_weights,
    pool_regions,
    region_kinds,
    region_weights,
)
from patchioner.regions.files import RegionFile, read_regions, read_trace
from patchioner.regions.formats import from_coco, from_sam
from patchioner.regions.items import NamedRegion
from patchioner.regions.mask import Mask, decode_rle, encode_rle
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Patch, Point, RegionSet, WholeImage

__all__ = [
    "Bounds", "Box", "Kind", "Mask", "NamedRegion", "Outline", "Patch", "Point", "Polygon", "Region", "RegionFile",
    "RegionSet", "Shape", "Trace", "Weighting", "WholeImage", "decode_rle", "encode_rle", "feature_weights",
    "from_coco", "from_sam", "pool_regions", "read_regions", "read_trace", "region_kinds", "region_weights",
]  # fmt: skip
