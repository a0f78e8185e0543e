import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from patchioner import Patchioner
from tests.support.server import picture_bytes, running
from tests.support.tiny import noise_photo, tiny_parts


def cases(name: str) -> Any:
    """A table of inputs and outcomes, or a request as another tool sends it."""
    path = Path(__file__).with_name("cases") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


class Gated(Patchioner):
    """Captions wait at a gate; how many photos came in each batch is noted."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.gate, self.reached = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def caption_many(self, items: Any, **how: Any) -> Any:
        self.batches.append(len(items))
        self.reached.set()
        assert self.gate.wait(60)
        return super().caption_many(items, **how)


@pytest.fixture
def gated() -> Gated:
    return Gated(tiny_parts(), device="cpu")


@contextmanager
def held(model: Gated, **settings: Any) -> Iterator[str]:
    """The URL of its server, which the gate holds back until it is set, at the latest at the end."""
    with running(model, **settings) as url, ExitStack() as stack:
        stack.callback(model.gate.set)
        yield url


@pytest.fixture(scope="session")
def url(model: Patchioner) -> Iterator[str]:
    with running(model) as url:
        yield url


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def photo() -> bytes:
    return picture_bytes(noise_photo())
