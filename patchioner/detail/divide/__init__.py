"""Photo -> regions: by place (quadrants, grids), by what was given, or by what the features show.

Knows: photos as `stages.Photo`, detections, patch features. Does not know: what is said of a region afterwards.
"""

from __future__ import annotations

from patchioner.detail.divide.detections import Detection, Given, as_detection, trusted
from patchioner.detail.divide.discover import discover_objects
from patchioner.detail.divide.dividers import PhotoDivider, whole_photo
from patchioner.detail.divide.rectangles import Rectangle, iou, merge_overlapping
from patchioner.detail.divide.semantic import union_of_named
from patchioner.detail.divide.settings import DiscoverySettings, DivideSettings
from patchioner.detail.divide.spatial import grid, grow, quadrants

__all__ = [
    "Detection",
    "DiscoverySettings",
    "DivideSettings",
    "Given",
    "PhotoDivider",
    "Rectangle",
    "as_detection",
    "discover_objects",
    "grid",
    "grow",
    "iou",
    "merge_overlapping",
    "quadrants",
    "trusted",
    "union_of_named",
    "whole_photo",
]
