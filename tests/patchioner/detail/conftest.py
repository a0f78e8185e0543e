from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.detail.calibrate import calibrate_model
from patchioner.detail.score import Calibration
from patchioner.detail.values import DetailRegion, Photo, open_photo
from tests.support.tiny import TEXTS, noise_photo


@pytest.fixture(scope="session")
def pairs() -> list[tuple[object, tuple[str, ...]]]:
    """Photos of noise, each with two captions that share their thing."""
    return [(noise_photo(seed=seed), (TEXTS[seed], TEXTS[(seed + 6) % 30])) for seed in range(12)]


@pytest.fixture(scope="session")
def calibration(model: Patchioner, pairs: list[tuple[object, tuple[str, ...]]]) -> Calibration:
    return calibrate_model(model, pairs)


@pytest.fixture(scope="session")
def calibrated(model: Patchioner, calibration: Calibration) -> Patchioner:
    settings = replace(model.settings, calibration={"detail": calibration.to_json()})
    return Patchioner(replace(model.parts, settings=settings), device="cpu")


@pytest.fixture(scope="session")
def photo(model: Patchioner) -> Photo:
    return open_photo(noise_photo(seed=3), model)


@pytest.fixture(scope="session")
def regions() -> list[DetailRegion]:
    return [
        DetailRegion("global", "global", (0.0, 0.0, 96.0, 64.0)),
        DetailRegion("spatial-1", "spatial", (0.0, 0.0, 48.0, 32.0)),
        DetailRegion("spatial-4", "spatial", (48.0, 32.0, 96.0, 64.0)),
    ]


REGIONS = (
    DetailRegion("global", "global", (0.0, 0.0, 90.0, 60.0)),
    DetailRegion("spatial-1", "spatial", (0.0, 0.0, 45.0, 40.0)),
    DetailRegion("spatial-2", "spatial", (30.0, 20.0, 90.0, 60.0)),
)


def noise(seed: int = 0) -> Photo:
    """A photo of 90 x 60 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    return open_photo(Image.fromarray(pixels), name="noise.png")
