"""A small model with the public face of the real one, and photos on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import UnknownNameError
from patchioner.geometry import ImageGeometry, fit_image
from patchioner.regions import Patch, Region
from patchioner.results import Label


@dataclass(frozen=True)
class FakeCaption:
    """Like `patchioner.Caption`."""

    text: str
    score: float
    region: Region


@dataclass(frozen=True)
class FakeFeatures:
    """Like `PatchFeatures`, without tokens."""

    geometry: ImageGeometry


@dataclass
class FakeModel:
    """Says of each region what kind it is; refuses regions off the photo as the real one does."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    encoded: int = 0
    loaded: tuple[str | None, ...] = ()
    kept: bool | None = None

    def encode(self, images: Any, *, keep_image: bool | None = None) -> FakeFeatures:
        """Only the geometry of a photo."""
        self.encoded += 1
        self.kept = keep_image
        return FakeFeatures(fit_image(images.size, mode="stretch", size=56, patch_size=14))

    def caption_many(
        self, items: Any, *, weighting: Any = None, options: Any = None, crop: Any = None
    ) -> list[list[FakeCaption]]:
        """A caption per region."""
        self.calls.append(
            {"photos": len(items), "weighting": weighting, "options": options, "crop": crop}
        )
        return [
            [self._caption(region, features) for region in regions] for features, regions in items
        ]

    def label_many(
        self, items: Any, texts: Any, *, weighting: Any = None, crop: Any = None
    ) -> list[list[Label]]:
        """The last of the texts, with 3/4; the first has the rest."""
        self.calls.append(
            {"photos": len(items), "texts": texts, "weighting": weighting, "crop": crop}
        )
        shares = (0.25, *[0.0] * (len(texts) - 2), 0.75)
        return [
            [
                Label(texts[-1], 0.75, shares, shares, self._caption(region, features).region)
                for region in regions
            ]
            for features, regions in items
        ]

    def _caption(self, region: Region, features: FakeFeatures) -> FakeCaption:
        region.patch_weights(features.geometry)
        text = f"a {type(region).__name__.lower()}"
        if isinstance(region, Patch):
            text = "left" if region.col < 2 else "right"
        return FakeCaption(text, -0.5, region)


@pytest.fixture
def model() -> FakeModel:
    """The model that `run` uses."""
    return FakeModel()


@pytest.fixture
def run(model: FakeModel) -> Callable[..., int]:
    """`run("caption", ...)` calls the command line with the small model."""
    from patchioner.cli.main import main

    def load(name: str, device: str | None, bank: str | None) -> FakeModel:
        if name == "patchioner-minni":
            raise UnknownNameError.among("model", name, ["patchioner-mini"])
        model.loaded = (name, device, bank)
        return model

    return lambda *argv: main([str(word) for word in argv], load_model=load)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of 80 x 60 pixels."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
