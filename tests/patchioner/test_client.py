from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchioner import Box, Patchioner, Point
from patchioner.base.errors import ImageError, ServerError
from patchioner.client import Client
from tests.patchioner.serve.conftest import Gated, held
from tests.support.chat_server import ChatServer, Reaction
from tests.support.server import picture_bytes, running
from tests.support.tiny import noise_photo, tiny_parts

REGIONS = [Box(3, 4, 50, 60), Point(70, 20)]


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture(scope="module")
def client(model: Patchioner) -> Iterator[Client]:
    with running(model, token="a-long-secret") as url:
        yield Client(url, "a-long-secret")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes(noise_photo()))
    return path


def test_it_asks_as_the_library_does(client: Client, model: Patchioner, photo: Path) -> None:
    features = model.encode(noise_photo())
    captions = client.caption(photo, REGIONS)
    assert [one["text"] for one in captions] == [
        one.text for one in model.caption(features, REGIONS)
    ]
    assert client.caption(photo, [{"box": [900, 1, 910, 2]}])[0]["error"]["type"] == "bad_region"
    names = ["a red cat", "a blue bus"]
    assert client.label(photo, REGIONS, names) == [
        one.to_dict() for one in model.label(features, REGIONS, names)
    ]
    assert client.caption(photo, None, candidates=names)[0]["text"] in names
    assert len(client.embed(photo, REGIONS)) == 2
    found = client.explain(photo, REGIONS[0], 3)
    assert [one["text"] for one in found["texts"]] == list(
        model.explain(features, REGIONS[0], 3).texts
    )
    assert len(client.find(photo, "a cat")) == features.geometry.grid[0]
    assert client.models()[0]["id"] == "tiny"
    assert client.encode(photo)["width"] == 96
    with pytest.raises(ServerError) as error:
        next(client.detail(photo))
    assert error.value.kind == "bad_option"


def test_photos_that_the_server_forgot_are_sent_again(model: Patchioner) -> None:
    with running(model, cache_bytes=30_000) as url:
        client = Client(url)
        photos = [picture_bytes(noise_photo(seed=seed)) for seed in range(4)]
        first, second = ([client.caption(one)[0]["text"] for one in photos] for _ in range(2))
    assert first == second


def test_a_busy_server_is_asked_again() -> None:
    gated, photo = Gated(tiny_parts(), device="cpu"), picture_bytes(noise_photo())
    with held(gated, queue=1) as url:
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(Client(url).caption(photo)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert gated.reached.wait(60)
        gated.gate.set()
        for thread in threads:
            thread.join()
    assert found[0] == found[1]


def test_what_goes_wrong_is_one_error(client: Client, model: Patchioner, photo: Path) -> None:
    with pytest.raises(ImageError):
        client.caption("none.jpg")
    with pytest.raises(ServerError) as error:
        client.caption(b"no photo")
    assert error.value.kind == "bad_image"
    with running(model, token="a-long-secret") as url, pytest.raises(ServerError) as error:
        Client(url).caption(photo)
    assert error.value.kind == "unauthorized"
    with pytest.raises(ServerError) as error:
        Client(url).caption(photo)  # it has stopped
    assert error.value.kind == "unreachable"
    with (
        ChatServer(then=lambda request: Reaction(b"<html>", 502)) as other,
        pytest.raises(ServerError) as error,
    ):
        Client(other.url).caption(photo)
    assert error.value.kind == "failed"
