"""Pictures of results: regions with their captions, and the map of what every patch shows.

Knows: photos, regions, geometry, and anything with a `region` and a `text`. Does not know: models,
decoders, files, the command line. Needs Pillow and numpy only.
"""

from __future__ import annotations

from patchioner.drawing.canvas import Display
from patchioner.drawing.clusters import Cluster, cluster_captions
from patchioner.drawing.overlay import draw_overlay
from patchioner.drawing.patch_map import draw_patch_map

__all__ = ["Cluster", "Display", "cluster_captions", "draw_overlay", "draw_patch_map"]
