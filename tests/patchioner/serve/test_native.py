import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from patchioner import Patch, Patchioner
from tests.patchioner.serve.conftest import cases
from tests.support.server import running
from tests.support.tiny import noise_photo

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def image(client: httpx.Client, photo: bytes) -> str:
    answer = client.post("/v1/images", files={"file": ("../<b>.png", photo)})
    assert answer.status_code == 200, answer.text
    return f"/v1/images/{answer.json()['id']}"


def test_a_photo_has_one_id_however_it_is_sent(client: httpx.Client, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    body = json.dumps({"image": text})
    quoted = text.replace("/", "%2F").replace("+", "-")
    heads = ("DATA:;base64,", "data:image/png;charset=utf-8;base64,")
    forms: list[dict[str, Any]] = [
        {"files": {"file": photo}}, {"content": photo, "headers": {"Content-Type": "image/png"}},
        *({"json": {"image": head + quoted}} for head in heads),
        *({"content": body.encode(name), "headers": JSON} for name in ("utf-8-sig", "utf-16")),
    ]  # fmt: skip
    first, *others = (client.post("/v1/images", **form).json() for form in forms)
    assert others == [first] * 5
    assert first.keys() == {"id", "width", "height", "grid", "origin", "cell"}
    assert (first["width"], first["height"]) == (96, 64)
    wide = client.post("/v1/caption", content=body.encode("utf-16"), headers=JSON).json()
    assert wide.items() >= first.items()


def test_patches(client: httpx.Client, image: str, model: Patchioner) -> None:
    cells = client.post(f"{image}/patches", json={"cells": [[1, 2], [0, 0]]}).json()["captions"]
    expected = model.caption(noise_photo(), [Patch(1, 2), Patch(0, 0)])
    assert [one["text"] for one in cells] == [one.text for one in expected]


MORE = [
    ("{}/captions", "bad_option", {"banned_words": ["a"] * 101}),
    ("{}/labels", "bad_text", {"names": ["a", "b" * 9999]}),
]


def test_bad_requests_are_named(client: httpx.Client, image: str) -> None:
    for path, kind, body in (*cases("bad_requests"), *MORE):
        answer = client.post(path.format(image), json=body)
        assert answer.status_code == (400 if "bad" in kind else 404), (body, answer.text)
        assert answer.json()["error"]["type"] == kind, (body, answer.text)
        assert "pydantic" not in answer.text and "Traceback" not in answer.text


def test_what_is_wrong_with_a_form_a_verb_or_json_is_told(client: httpx.Client, image: str, photo: bytes) -> None:
    boundary = {"Content-Type": "multipart/form-data"}
    for answer, status, said in (
        (client.post("/v1/images", files={"file": (None, photo)}), 400, "'file'"),
        (client.post("/v1/images", content=b"x", headers=boundary), 400, "cannot be read"),
        (client.get("/v1/caption"), 405, "POST"),
    ):
        assert answer.status_code == status and said in answer.json()["error"]["message"]
    for path in ("/v1/images", f"{image}/captions", "/v1/chat/completions", "/api/chat"):
        for body in (b"", b"{", b"\xff\xfe", b"[" * 10_000):
            answer = client.post(path, content=body, headers=JSON)
            assert answer.status_code == 400, (path, body[:9], answer.text)


def test_photos_of_the_folder_are_listed_and_given_and_nothing_else(
    client: httpx.Client, model: Patchioner, photo: bytes, tmp_path: Path
) -> None:
    for name in ("root/b/c.png", "root/a.png", "root/secret.txt", "out.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo)
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "out.png")
    with running(model, root=tmp_path / "root") as url, httpx.Client(base_url=url) as other:
        assert other.get("/v1/photos").json() == {"photos": ["a.png", "b/c.png"]}
        assert other.get("/v1/photos/b/c.png").content == photo
        for name in ("secret.txt", "%2e%2e/out.png", "link.png"):
            assert other.get(f"/v1/photos/{name}").status_code == 400
    assert client.get("/v1/photos").json() == {"photos": []}
