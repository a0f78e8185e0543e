from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import DetailError, FutileError
from patchioner.detail.clients.budget import Budget
from patchioner.detail.clients.cache import CacheCounts, CallCache
from patchioner.detail.clients.chat import ChatClient
from patchioner.detail.clients.retry import RetryPolicy
from patchioner.detail.describe.asking import VisionSettings
from patchioner.detail.describe.remote import RemoteDescriber
from tests.support.chat_server import ChatServer, Reaction, echo, fails, once, says
from tests.support.photos import REGIONS, noise_photo

PHOTO = noise_photo()
Make = Callable[..., RemoteDescriber]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret123")
    made: list[ChatClient] = []

    def describer(
        server: ChatServer, *, cache: Path | None = None, **options: Any
    ) -> RemoteDescriber:
        options = {"timeout": 5.0, "retry": RetryPolicy(attempts=2), **options}
        made.append(ChatClient("tiny", base_url=server.url, sleep=lambda _: None, **options))
        return RemoteDescriber(
            made[-1], VisionSettings(), cache=CallCache(cache) if cache else None
        )

    yield describer
    for one in made:
        one.close()


def test_every_region_is_asked_about_with_its_own_picture(make: Make) -> None:
    with ChatServer() as server:
        said = make(server).describe(PHOTO, REGIONS)
    assert [(one.region_id, one.sample) for one in said] == [
        ("global", 0), *((name, i) for name in ("spatial-1", "spatial-2") for i in range(3))
    ]  # fmt: skip
    assert len(server.requests) == 3  # the samples of a region are one request
    sizes = set()
    for request in server.requests:
        shown, words = request["messages"][0]["content"]
        data = shown["image_url"]["url"].partition(",")[2]
        sizes.add(Image.open(io.BytesIO(base64.b64decode(data))).size)
        assert words["text"].startswith("Describe what can be seen")
        assert (request.get("n", 1), request["temperature"]) in {(1, 0.2), (3, 0.7)}
    assert sizes == {(90, 60), (45, 40), (60, 40)}


def test_a_server_that_ignores_n_is_asked_again_with_other_seeds(make: Make) -> None:
    with ChatServer(then=once) as server:
        said = make(server).describe(PHOTO, REGIONS)
    assert len(said) == 7 == len({one.text for one in said})
    assert len(server.requests) == 7
    assert len({request["seed"] for request in server.requests}) == 7


def test_a_server_that_refuses_n_is_asked_one_by_one(make: Make) -> None:
    def picky(request: dict[str, Any]) -> Reaction:
        return (
            fails(400, "Only one completion choice is allowed") if "n" in request else once(request)
        )

    with ChatServer(then=picky) as server:
        assert len(make(server, concurrency=1).describe(PHOTO, REGIONS)) == 7
    assert sum("n" in request for request in server.requests) == 1


def test_nothing_is_asked_twice_after_a_stop(make: Make, tmp_path: Path) -> None:
    with ChatServer(then=once) as server:
        with pytest.raises(FutileError, match="budget"):
            make(server, cache=tmp_path, budget=Budget(max_calls=4)).describe(PHOTO, REGIONS)
        assert len(server.requests) == 4
        restarted = make(server, cache=tmp_path)
        said = restarted.describe(PHOTO, REGIONS)
        assert len(server.requests) == 7
        assert restarted.cache is not None
        assert restarted.cache.counts == CacheCounts(hits=4, misses=3)
        again = make(server, cache=tmp_path)
        assert again.describe(PHOTO, REGIONS) == said
        assert len(server.requests) == 7 == len({request["seed"] for request in server.requests})
        assert again.client.usage.calls == 0
    with ChatServer(then=once) as other:
        assert make(other).describe(PHOTO, REGIONS) == said  # as without a stop
        make(other, cache=tmp_path).describe(noise_photo(1), REGIONS)
        assert len(other.requests) == 14  # another photo is another question


def test_a_sample_that_is_empty_or_refused_is_left_out(make: Make) -> None:
    calls: list[int] = []

    def sometimes(request: dict[str, Any]) -> Reaction:
        calls.append(1)
        return says("") if request["temperature"] == 0.7 and len(calls) % 3 == 0 else once(request)

    with ChatServer(then=sometimes) as server:
        said = make(server, concurrency=1).describe(PHOTO, REGIONS)
    assert len(said) == 5
    assert {one.region_id for one in said} == {region.id for region in REGIONS}


def test_a_region_without_any_answer_is_an_error_of_the_photo_and_the_others_are_kept(
    make: Make, tmp_path: Path
) -> None:
    with ChatServer(then=lambda request: fails(500) if "n" in request else echo(request)) as server:
        describer = make(server, cache=tmp_path)
        with pytest.raises(
            DetailError, match=r"noise\.png, region 'spatial-1'.*HTTP 500"
        ) as caught:
            describer.describe(PHOTO, REGIONS)
        assert not isinstance(caught.value, FutileError)
        assert len(list(tmp_path.rglob("*.json"))) == 1
        assert len(describer.describe(PHOTO, REGIONS[:1])) == 1  # the next photo goes on


def test_a_refused_key_ends_it_at_once(make: Make) -> None:
    with (
        ChatServer(then=lambda _: fails(401, "bad key sk-verysecret123")) as server,
        pytest.raises(FutileError, match=r"bad key \*\*\*") as caught,
    ):
        make(server, concurrency=1).describe(PHOTO, REGIONS)
    assert len(server.requests) <= len(REGIONS)
    assert "verysecret" not in str(caught.value)


def test_settings_and_files_hold_no_key(make: Make, tmp_path: Path) -> None:
    with ChatServer() as server:
        describer = make(server, cache=tmp_path)
        describer.describe(PHOTO, REGIONS)
    text = str(describer.settings) + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "verysecret" not in text and "authorization" not in text.lower()
    assert describer.settings["model"] == "tiny" and describer.settings["samples"] == 3


def test_the_photo_is_not_changed(make: Make) -> None:
    before = np.asarray(PHOTO.image).copy()
    with ChatServer() as server:
        make(server).describe(PHOTO, REGIONS)
    np.testing.assert_array_equal(np.asarray(PHOTO.image), before)
