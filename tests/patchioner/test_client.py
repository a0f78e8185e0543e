"""Our client against a real server of our API: both say what the library says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchioner import Box, Patchioner, Point
from patchioner.base.errors import ImageError, ServerError
from patchioner.client import Client
from tests.patchioner.serve.conftest import Gated, held
from tests.support.chat_server import ChatServer, Reaction
from tests.support.server import picture_bytes, running
from tests.support.tiny import noise_photo, tiny_parts

REGIONS = [Box(3, 4, 50, 60), Point(70, 20)]
BAD = {"box": [900, 1, 910, 2]}
TOKEN = "a-long-secret"
NAMES = ["a red cat", "a blue bus"]


@pytest.fixture(scope="module")
def client(model: Patchioner) -> Iterator[Client]:
    with running(model, token=TOKEN) as url:
        yield Client(url, TOKEN)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes(noise_photo()))
    return path


def test_captions_labels_and_choices(client: Client, model: Patchioner, photo: Path) -> None:
    features = model.encode(noise_photo())
    *captions, bad = client.caption(photo, [*REGIONS, BAD])
    expected = [one.text for one in model.caption(features, REGIONS)]
    assert [one["text"] for one in captions] == expected
    assert bad["error"]["type"] == "bad_region"
    labels = [one.to_dict() for one in model.label(features, REGIONS, NAMES)]
    assert client.label(photo, REGIONS, NAMES) == labels
    assert client.label(photo, REGIONS, NAMES, threshold=1.0)[0]["text"] is None
    chosen = client.caption(photo, REGIONS, candidates=NAMES)
    assert [one["text"] for one in chosen] == [one["text"] for one in labels]
    assert client.models()[0]["id"] == "tiny" and client.encode(photo)["width"] == 96


def test_reasons_embeddings_and_words(client: Client, model: Patchioner, photo: Path) -> None:
    features = model.encode(noise_photo())
    row, bad = client.embed(photo, [REGIONS[0], BAD])
    np.testing.assert_allclose(row, model.embed_regions(features, REGIONS[:1])[0], atol=1e-5)
    assert "error" in bad
    found, expected = client.explain(photo, REGIONS[0], 3), model.explain(features, REGIONS[0], 3)
    assert [one["text"] for one in found["texts"]] == list(expected.texts)
    assert sum(one["weight"] for one in found["texts"]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found["weights"], expected.weights, atol=1e-5)
    words, tokens = model.embed_text(["a red cat"])[0].numpy(), features.tokens.numpy()
    cosines = tokens @ words / np.linalg.norm(tokens, axis=2) / np.linalg.norm(words)
    np.testing.assert_allclose(client.find(photo, "a red cat"), cosines, atol=1e-4)
    for ask in (lambda: client.explain(photo, BAD), lambda: list(client.detail(photo))):
        with pytest.raises(ServerError) as error:  # a region off the photo; no calibration
            ask()
        assert error.value.kind in ("bad_region", "bad_option")


def test_photos_that_the_server_forgot_are_sent_again(model: Patchioner) -> None:
    with running(model, cache_bytes=30_000) as url:
        client = Client(url)
        photos = [picture_bytes(noise_photo(seed=seed)) for seed in range(4)]
        first, second = ([client.caption(one)[0]["text"] for one in photos] for _ in range(2))
    assert first == second


def test_a_busy_server_is_asked_again() -> None:
    gated, photo = Gated(tiny_parts(), device="cpu"), picture_bytes(noise_photo())
    with held(gated, queue=1) as url, ThreadPoolExecutor(2) as pool:
        found = [pool.submit(Client(url).caption, photo) for _ in range(2)]
        assert gated.reached.wait(60)
        gated.gate.set()
    assert found[0].result() == found[1].result()


def test_what_goes_wrong_is_one_error(client: Client, model: Patchioner, photo: Path) -> None:
    def kind(other: Client, source: Any = photo) -> str:
        with pytest.raises(ServerError) as error:
            other.caption(source)
        return error.value.kind

    with pytest.raises(ImageError):
        client.caption("none.jpg")
    assert kind(client, b"no photo") == "bad_image"
    with running(model, token=TOKEN) as url:
        assert kind(Client(url)) == "unauthorized"
    assert kind(Client(url)) == "unreachable"  # it has stopped
    with ChatServer(then=lambda request: Reaction(b"<html>", 502)) as other:
        assert kind(Client(other.url)) == "failed"
