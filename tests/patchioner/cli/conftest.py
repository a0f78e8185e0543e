"""A tiny model and a photo on disk, and the command that uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.cli.main import main


@pytest.fixture
def run(checkpoint: Path) -> Callable[..., int]:
    """`run(photo, ...)` is `patchioner caption` with the tiny model."""
    return lambda *words: main(["caption", *map(str, words), "--model", str(checkpoint)])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of 80 x 60 pixels."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
