"""A tiny model and a photo on disk, and the command that uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from patchioner.cli.main import main
from tests.support.tiny import noise_photo


@pytest.fixture
def run(checkpoint: Path) -> Callable[..., int]:
    """`run(photo, ...)` is `patchioner caption` with the tiny model."""
    return lambda *words: main(["caption", *map(str, words), "--model", str(checkpoint)])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of 80 x 60 pixels."""
    noise_photo(80, 60).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
