"""Pictures of results, from a photo and anything with a `region` and a `text`. Pillow and numpy only."""

from __future__ import annotations

from patchioner.drawing.overlay import draw_overlay
from patchioner.drawing.panel import Display
from patchioner.drawing.patch_map import Cluster, cluster_captions, draw_patch_map

__all__ = ["Cluster", "Display", "cluster_captions", "draw_overlay", "draw_patch_map"]
