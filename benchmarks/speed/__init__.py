"""Command: times a model, and our engine against the published way of doing the same work.

    python -m benchmarks.speed --rounds 5 --json speed.json        # a model: backbone pass, captions, starts
    python -m benchmarks.speed --suite cpu --check                 # against the naive twin, at published shapes
    python -m benchmarks.speed --suite gpu                         # ours on a GPU, in bfloat16

Knows: which suite has which home. Does NOT know: clocks and processes (`benchmarks.timing`).
"""

from __future__ import annotations

from benchmarks.speed.command import main
from benchmarks.speed.model import REGION_COUNTS, Row, Starts, table, time_model, time_starts
from benchmarks.speed.scene import make_photo, random_boxes

__all__ = [
    "REGION_COUNTS",
    "Row",
    "Starts",
    "main",
    "make_photo",
    "random_boxes",
    "table",
    "time_model",
    "time_starts",
]
