"""A photo of noise and some regions of it, as the stages of a detailed description hand them on."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from patchioner.detail.values import DetailRegion, Photo

REGIONS = (
    DetailRegion("global", "global", (0.0, 0.0, 90.0, 60.0)),
    DetailRegion("spatial-1", "spatial", (0.0, 0.0, 45.0, 40.0)),
    DetailRegion("spatial-2", "spatial", (30.0, 20.0, 90.0, 60.0)),
)


def noise_photo(seed: int = 0, *, name: str = "noise.png") -> Photo:
    """90 x 60 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    return Photo(name, Image.fromarray(pixels), hashlib.sha256(pixels.tobytes()).hexdigest())
