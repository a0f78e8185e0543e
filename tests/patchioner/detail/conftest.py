import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from patchioner import Patchioner
from patchioner.detail import DetailRegion, Photo, open_photo
from patchioner.detail.client import ChatClient
from patchioner.detail.score import Calibration, calibrate_model
from patchioner.guidance import Captioned
from tests.support import MonkeyPatch
from tests.support.chat_server import ChatServer
from tests.support.tiny import TEXTS, noise_photo

KEY = "sk-verysecret123"
CASES = json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))
"""What models and servers of all kinds answer, and what is to become of it."""
Make = Callable[..., ChatClient]
PHOTO = open_photo(noise_photo(), name="noise.png")
REGIONS = (
    DetailRegion("global", "global", (0.0, 0.0, 96.0, 64.0)),
    DetailRegion("spatial-1", "spatial", (0.0, 0.0, 48.0, 40.0)),
    DetailRegion("spatial-2", "spatial", (30.0, 20.0, 96.0, 64.0)),
)


@pytest.fixture(scope="session")
def pairs() -> list[Captioned]:
    """Photos of noise, each with two captions that share their thing."""
    return [(noise_photo(seed=seed), (TEXTS[seed], TEXTS[(seed + 6) % 30])) for seed in range(12)]


@pytest.fixture(scope="session")
def calibration(model: Patchioner, pairs: list[Captioned]) -> Calibration:
    return calibrate_model(model, pairs)


@pytest.fixture(scope="session")
def calibrated(model: Patchioner, calibration: Calibration) -> Patchioner:
    settings = replace(model.settings, calibration={"detail": calibration.to_json()})
    return Patchioner(replace(model.parts, settings=settings), device="cpu")


@pytest.fixture(scope="session")
def photo(model: Patchioner) -> Photo:
    return open_photo(noise_photo(seed=3), model)


@pytest.fixture
def waits() -> list[float]:
    """Seconds that clients of `make` would have paused."""
    return []


@pytest.fixture
def make(monkeypatch: MonkeyPatch, waits: list[float]) -> Iterator[Make]:
    """Makes clients of a `ChatServer` that have a key and do not really wait, and closes them."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(ChatClient, "_pause", lambda self, seconds, _: waits.append(seconds))
    with ExitStack() as stack:

        def client(server: ChatServer, **options: Any) -> ChatClient:
            options = {"base_url": server.url, "timeout": 5.0, "attempts": 3, **options}
            return stack.enter_context(closing(ChatClient("tiny", **options)))

        yield client
