import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Box, DecodeOptions, Mask, Patch, Patchioner, Point, WholeImage
from patchioner.base.errors import ImageError, ServerError
from patchioner.client import Client
from patchioner.serve.engine import Engine
from tests.patchioner.serve.conftest import Gated, held
from tests.support import MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction
from tests.support.server import picture_bytes, running
from tests.support.tiny import noise_photo, tiny_parts

REGIONS = [Box(3, 4, 50, 60), Point(70, 20), Patch(1, 2), Mask(np.eye(64, 96, dtype=bool))]
BAD = {"box": [900, 1, 910, 2]}
TOKEN = "a-long-secret"
NAMES = ["a red cat", "a blue bus"]
PHOTO = picture_bytes(noise_photo())


@pytest.fixture(scope="module")
def client(model: Patchioner) -> Iterator[Client]:
    with running(model, token=TOKEN) as url:
        yield Client(url, TOKEN)


@pytest.mark.parametrize("options", [
    {}, {"strategy": "greedy"}, {"strategy": "sample", "seed": 5}, {"banned_words": ("a",)}
])  # fmt: skip
def test_captions(client: Client, model: Patchioner, options: dict[str, Any]) -> None:
    *captions, first, second = client.caption(PHOTO, [*REGIONS, BAD, Point(5000, 5)], **options)
    own = DecodeOptions(**{"max_tokens": 8, **options})
    expected = model.caption(noise_photo(), REGIONS, options=own)
    assert [one["text"] for one in captions] == [one.text for one in expected]
    assert [one["region"] for one in captions] == [region.to_json() for region in REGIONS]
    assert captions[0].keys() == {"text", "score", "confidence", "reason", "region", "alt"}
    assert first["error"]["type"] == second["error"]["type"] == "bad_region"
    assert "Box" in first["error"]["message"] and "Point" in second["error"]["message"]


def test_labels_and_choices(client: Client, model: Patchioner, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PHOTO)
    labels = [one.to_dict() for one in model.label(noise_photo(), REGIONS, NAMES)]
    assert client.label(photo, REGIONS, NAMES) == labels
    assert client.label(photo, REGIONS, NAMES, threshold=1.0)[0]["text"] is None
    chosen = client.caption(photo, REGIONS, candidates=NAMES)
    assert [one["text"] for one in chosen] == [one["text"] for one in labels]
    unsure = client.caption(photo, candidates=["a cat", "a cat"], min_confidence=0.9)
    assert unsure[0]["text"] is None
    assert client.models()[0]["id"] == "tiny" and client.encode(photo)["width"] == 96


def test_many_clients_at_once(client: Client, model: Patchioner) -> None:
    """Photos of many clients, good and bad, in any company: each has the answer that it has alone."""

    def photo(seed: int) -> Image.Image:
        return noise_photo(40 + 8 * (seed % 3), 64, seed % 5)

    def ask(seed: int) -> list[Any]:
        regions: list[Any] = [Box(1, 2, 20 + seed, 40), BAD, WholeImage()]
        found = client.caption(picture_bytes(photo(seed)), regions)
        return [one.get("text", "error") for one in found]

    def expected(seed: int) -> list[Any]:
        first, whole = model.caption(photo(seed), [Box(1, 2, 20 + seed, 40), WholeImage()])
        return [first.text, "error", whole.text]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(24))) == [expected(seed) for seed in range(24)]


def test_a_description_comes_sentence_by_sentence(calibrated: Patchioner) -> None:
    with running(calibrated) as url:
        sentences = list(Client(url).detail(PHOTO))
    assert sentences
    for sentence in sentences:
        assert sentence.keys() == {"text", "support", "agreement", "regions"}
        assert sentence["text"] and all(one["region"]["box"] for one in sentence["regions"])


def test_reasons_embeddings_and_words(client: Client, model: Patchioner) -> None:
    features = model.encode(noise_photo())
    row, bad = client.embed(PHOTO, [REGIONS[0], BAD])
    np.testing.assert_allclose(row, model.embed_regions(features, REGIONS[:1])[0], atol=1e-5)
    assert "error" in bad
    found, expected = client.explain(PHOTO, REGIONS[0], 3), model.explain(features, REGIONS[0], 3)
    assert [one["text"] for one in found["texts"]] == list(expected.texts)
    assert sum(one["weight"] for one in found["texts"]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found["weights"], expected.weights, atol=1e-5)
    words, tokens = model.embed_text(["a red cat"])[0].numpy(), features.tokens.numpy()
    cosines = tokens @ words / np.linalg.norm(tokens, axis=2) / np.linalg.norm(words)
    np.testing.assert_allclose(client.find(PHOTO, "a red cat"), cosines, atol=1e-4)


def test_photos_that_the_server_forgot_are_sent_again(model: Patchioner) -> None:
    with running(model, cache_bytes=30_000) as url:
        photos = [picture_bytes(noise_photo(seed=seed)) for seed in range(4)]
        first, second = ([Client(url).caption(one) for one in photos] for _ in range(2))
    assert first == second


def test_a_busy_server_is_asked_again() -> None:
    gated = Gated(tiny_parts(), device="cpu")
    with held(gated, queue=1) as url, ThreadPoolExecutor(2) as pool:
        found = [pool.submit(Client(url).caption, PHOTO) for _ in range(2)]
        assert gated.reached.wait(60)
        gated.gate.set()
    assert found[0].result() == found[1].result()


def test_what_goes_wrong_is_one_error(client: Client, model: Patchioner, monkeypatch: MonkeyPatch) -> None:
    def kind(ask: Any, *given: Any) -> str:
        with pytest.raises(ServerError) as error:
            list(ask(*given))
        return error.value.kind

    async def never(*asked: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ImageError):
        client.caption("none.jpg")
    assert kind(client.caption, b"no photo") == "bad_image"
    assert kind(client.explain, PHOTO, BAD) == "bad_region"
    assert kind(client.detail, PHOTO) == "bad_option"  # it has no calibration
    monkeypatch.setattr(Engine, "detail", never)
    with running(model, token=TOKEN, deadline=2.0) as url:
        assert kind(Client(url).caption, PHOTO) == "unauthorized"
        assert kind(Client(url, TOKEN).detail, PHOTO) == "deadline"
    assert kind(Client(url).caption, PHOTO) == "unreachable"  # it has stopped
    with ChatServer(then=lambda request: Reaction(b"<html>", 502)) as other:
        assert kind(Client(other.url).caption, PHOTO) == "failed"
