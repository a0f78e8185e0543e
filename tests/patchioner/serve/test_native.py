from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from patchioner import Box, DecodeOptions, Mask, Patch, Patchioner, Point, WholeImage
from patchioner.images import load_image
from tests.support.server import picture_bytes, running
from tests.support.tiny import noise_photo

REGIONS = [Box(3, 4, 50, 60), Point(70, 20), Patch(1, 2), Mask(np.eye(64, 96, dtype=bool))]
BAD = {"box": [900, 0, 910, 9]}


@pytest.fixture
def image(client: httpx.Client, photo: bytes) -> str:
    answer = client.post("/v1/images", files={"file": ("../<b>.png", photo)})
    assert answer.status_code == 200, answer.text
    return f"/v1/images/{answer.json()['id']}"


def test_a_photo_has_one_id_however_it_is_sent(client: httpx.Client, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    forms = [text, f"data:image/png;base64,{text}"]
    found = [client.post("/v1/images", json={"image": form}).json() for form in forms]
    found.append(client.post("/v1/images", files={"file": photo}).json())
    plain = {"Content-Type": "image/png"}
    found.append(client.post("/v1/images", content=photo, headers=plain).json())
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0].keys() == {"id", "width", "height", "grid", "origin", "cell"}
    assert (found[0]["width"], found[0]["height"]) == (96, 64)


@pytest.mark.parametrize("options", [
    {}, {"strategy": "greedy"}, {"strategy": "sample", "seed": 5}, {"banned_words": ("a",)}
])  # fmt: skip
def test_captions_are_those_of_the_library(
    client: httpx.Client, image: str, photo: bytes, model: Patchioner, options: dict[str, Any]
) -> None:
    asked, beside = [region.to_json() for region in REGIONS], {"point": [5000, 5]}
    body = {"regions": [*asked, BAD, beside], **options}
    answer = client.post(f"{image}/captions", json=body).json()
    own = DecodeOptions(**{"max_tokens": 8, **options})
    expected = model.caption(load_image(photo), REGIONS, options=own)
    *captions, first, second = answer["captions"]
    assert [one["text"] for one in captions] == [one.text for one in expected]
    assert [one["region"] for one in captions] == asked
    assert captions[0].keys() == {"text", "score", "confidence", "reason", "region", "alt"}
    assert first["error"]["type"] == second["error"]["type"] == "bad_region"
    assert "Box" in first["error"]["message"] and "Point" in second["error"]["message"]


def test_patches(client: httpx.Client, image: str, model: Patchioner) -> None:
    cells = client.post(f"{image}/patches", json={"cells": [[1, 2], [0, 0]]}).json()["captions"]
    expected = model.caption(noise_photo(), [Patch(1, 2), Patch(0, 0)])
    assert [one["text"] for one in cells] == [one.text for one in expected]


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    parts = [part for part in answer.text.split("\n\n") if part and not part.startswith(":")]
    lines = [part.split("\n") for part in parts]
    return [(name[7:], json.loads(data[6:])) for name, data in lines]


def test_a_description_comes_sentence_by_sentence(shipped: Patchioner) -> None:
    skimage = pytest.importorskip("skimage.data", reason="the photo comes with scikit-image")
    photo = picture_bytes(load_image(skimage.coffee()).resize((150, 100)))
    with running(shipped) as url, httpx.Client(base_url=url, timeout=300) as client:
        name = client.post("/v1/images", files={"file": photo}).json()["id"]
        *sentences, (last, done) = events(client.post(f"/v1/images/{name}/detail", json={}))
    assert last == "done" and {kind for kind, _ in sentences} <= {"sentence"}
    assert done["text"] == " ".join(data["text"] for _, data in sentences)
    assert all(data["regions"] for _, data in sentences)
    assert sentences or done["reason"]


def test_a_description_that_takes_too_long_is_given_up(
    model: Patchioner, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*asked: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("patchioner.serve.engine.Engine.detail", never)
    with running(model, deadline=2.0) as url, httpx.Client(base_url=url, timeout=60) as client:
        name = client.post("/v1/images", files={"file": photo}).json()["id"]
        ((kind, data),) = events(client.post(f"/v1/images/{name}/detail", json={}))
    assert (kind, data["error"]["type"]) == ("error", "deadline")


@pytest.mark.parametrize(("path", "kind", "bodies"), [
    ("/v1/images/none/captions", "unknown_image", [{}]), ("/v1/nothing", "not_found", [{}]),
    ("/v1/images", "bad_image", [{"image": "http://a.b/c.jpg"}, {"path": "a.jpg"}]),
    ("/v1/images", "bad_request", [{}, []]), ("{}/captions", "bad_request", [{"region": []}, {"regions": 5}]),
    ("{}/captions", "bad_option", [
        {"max_tokens": 10**6}, {"strategy": "magic"}, {"strategy": "sample", "temperature": 1e300},
        {"strategy": "beam", "length_penalty": 1e308}, {"banned_words": ["a"] * 101}, {"weighting": "magic"},
        {"min_confidence": 0.5},
    ]),
    ("{}/labels", "bad_text", [{"names": ["one"]}, {"names": ["a", " "]}, {"names": ["a", "b" * 9999]}]),
    ("{}/labels", "bad_request", [{}]), ("{}/patches", "bad_request", [{}]),
    ("{}/patches", "bad_region", [{"cells": [[-1, 0]]}]),
    ("{}/explain", "bad_request", [{"region": {"whole": True}, "k": 0}]),
])  # fmt: skip
def test_bad_requests_are_named(
    client: httpx.Client, image: str, path: str, kind: str, bodies: list[Any]
) -> None:
    for body in bodies:
        answer = client.post(path.format(image), json=body)
        assert answer.status_code == (400 if "bad" in kind else 404), (body, answer.text)
        assert answer.json()["error"]["type"] == kind, (body, answer.text)
        assert "pydantic" not in answer.text and "Traceback" not in answer.text


def test_no_candidate_is_taken_below_the_confidence_that_is_asked(
    client: httpx.Client, image: str
) -> None:
    question = {"candidates": ["a cat", "a cat"], "min_confidence": 0.9}
    (found,) = client.post(f"{image}/captions", json=question).json()["captions"]
    assert found["text"] is None


def test_what_clients_send_in_other_ways(client: httpx.Client, photo: bytes) -> None:
    """Bodies as PowerShell encodes them; what is wrong with a form or a verb, and what to do."""
    body = json.dumps({"image": base64.b64encode(photo).decode()})
    for encoding in ("utf-8-sig", "utf-16"):
        for path in ("/v1/images", "/v1/caption"):
            content, kind = body.encode(encoding), {"Content-Type": "application/json"}
            assert client.post(path, content=content, headers=kind).status_code == 200
    boundary = {"Content-Type": "multipart/form-data"}
    for answer, status, said in (
        (client.post("/v1/images", files={"file": (None, photo)}), 400, "'file'"),
        (client.post("/v1/images", content=b"x", headers=boundary), 400, "cannot be read"),
        (client.get("/v1/caption"), 405, "POST"),
        (client.post("/v1//caption", json={}), 404, "openapi.json"),
    ):
        assert answer.status_code == status and said in answer.json()["error"]["message"]


def test_bodies_that_are_no_json(client: httpx.Client, image: str) -> None:
    for path in ("/v1/images", f"{image}/captions", "/v1/chat/completions", "/api/chat"):
        for body in (b"", b"{", b"\xff\xfe", b"[" * 10_000):
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, (path, body[:9], answer.text)


def test_many_clients_at_once(url: str, model: Patchioner) -> None:
    """Photos of many clients, good and bad, in any company: each has the answer that it has alone."""

    def photo(seed: int) -> Image.Image:
        return noise_photo(40 + 8 * (seed % 3), 64, seed % 5)

    def ask(seed: int) -> tuple[int, list[Any]]:
        regions = [Box(1, 2, 20 + seed, 40).to_json(), BAD, {"whole": True}]
        image = base64.b64encode(picture_bytes(photo(seed))).decode()
        body = {"image": image, "regions": regions}
        answer = httpx.post(f"{url}/v1/caption", json=body, timeout=120).json()
        return answer["width"], [one.get("text", "error") for one in answer["captions"]]

    def expected(seed: int) -> tuple[int, list[Any]]:
        first, whole = model.caption(photo(seed), [Box(1, 2, 20 + seed, 40), WholeImage()])
        return photo(seed).width, [first.text, "error", whole.text]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(24))) == [expected(seed) for seed in range(24)]


def test_no_photo_stops_the_server(client: httpx.Client, image: str) -> None:
    for photo, kind, length, status in (
        (Image.new("RGB", (1, 20_000)), "PNG", None, 200),
        (Image.new("1", (10_001, 10_000)), "PNG", None, 413),
        (Image.new("RGB", (300, 300)), "JPEG", 400, 400),
    ):
        data = picture_bytes(photo, kind)[:length]
        body = {"image": base64.b64encode(data).decode()}
        assert client.post("/v1/caption", json=body).status_code == status
        assert client.post(f"{image}/captions", json={}).status_code == 200


def test_photos_of_the_folder_are_listed_and_given_and_nothing_else(
    client: httpx.Client, model: Patchioner, photo: bytes, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for name in ("b/c.png", "a.png", "secret.txt", "../out.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo)
    (root / "link.png").symlink_to(tmp_path / "out.png")
    with running(model, root=root) as url, httpx.Client(base_url=url) as other:
        assert other.get("/v1/photos").json() == {"photos": ["a.png", "b/c.png"]}
        assert other.get("/v1/photos/b/c.png").content == photo
        for name in ("secret.txt", "%2e%2e/out.png", "link.png", "none.png", "b"):
            assert other.get(f"/v1/photos/{name}").status_code == 400
    assert client.get("/v1/photos").json() == {"photos": []}
    assert client.get("/v1/photos/a.png").status_code == 400
