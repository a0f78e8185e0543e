from __future__ import annotations

from pathlib import Path

import httpx

from patchioner import Patchioner
from tests.support.server import running


def test_photos_of_the_folder_are_listed_and_given_and_nothing_else(
    model: Patchioner, photo: bytes, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for name in ("b/c.png", "a.png", "secret.txt", "../out.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo)
    (root / "link.png").symlink_to(tmp_path / "out.png")
    with running(model, root=root) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/photos").json() == {"photos": ["a.png", "b/c.png"]}
        assert client.get("/v1/photos/b/c.png").content == photo
        for name in ("secret.txt", "%2e%2e/out.png", "link.png", "none.png", "b"):
            assert client.get(f"/v1/photos/{name}").status_code == 400


def test_there_is_no_list_without_a_folder(client: httpx.Client) -> None:
    assert client.get("/v1/photos").json() == {"photos": []}
    assert client.get("/v1/photos/a.png").status_code == 400
