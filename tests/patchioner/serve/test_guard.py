from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from patchioner import Patchioner
from tests.patchioner.serve.conftest import Gated, held
from tests.support.server import running

TOKEN = "a-long-secret"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"someone:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (basic(TOKEN), 200),
        ("Bearer wrong", 401),
        (basic("wrong"), 401),
        ("Bearer \xe9", 401),
        ("Basic ???", 401),
        (TOKEN, 401),
        (None, 401),
    ],
)
def test_the_token_is_asked_for(model: Patchioner, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with running(model, token=TOKEN) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/models", headers=headers).status_code == status
        assert client.get("/metrics", headers=headers).status_code == status
        assert client.post("/v1/images/x/embed", json={}, headers=headers).status_code in (404, 401)
        for path in ("/health", "/ready", "/"):
            assert client.get(path).status_code == 200


def test_pages_of_other_sites_are_refused(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for headers, status in (
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": own}, 200),
    ):
        answer = client.get("/v1/models", headers=headers)
        assert answer.status_code == status
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_page_may_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_large_requests_are_refused(model: Patchioner) -> None:
    with running(model, max_bytes=8000) as url, httpx.Client(base_url=url) as client:
        chunks = (b"x" * 1000 for _ in range(9))
        for body in (b"x" * 8001, chunks):
            answer = client.post("/v1/images", content=body)
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")
        assert client.post("/v1/images/a/embed", content=b"x" * 1001).status_code == 413
        assert client.post("/v1/images/a/embed", json={}).status_code == 404


def post(url: str, photo: bytes, found: list[httpx.Response]) -> threading.Thread:
    body = {"image": base64.b64encode(photo).decode()}
    thread = threading.Thread(
        target=lambda: found.append(httpx.post(f"{url}/v1/caption", json=body, timeout=60))
    )
    thread.start()
    return thread


def test_a_full_queue_says_when_to_come_back_before_a_photo_is_looked_at(
    gated: Gated, photo: bytes
) -> None:
    found: list[httpx.Response] = []
    with held(gated, queue=1) as url:
        thread = post(url, photo, found)
        assert gated.reached.wait(60)
        refused = httpx.post(f"{url}/v1/images", files={"file": b"no photo at all"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 200
        gated.gate.set()
        thread.join()
        assert found[0].status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 200


def test_large_requests_share_a_bound(gated: Gated, photo: bytes) -> None:
    """Room for sixteen of the largest size: a seventeenth is told to come back."""
    most = len(base64.b64encode(photo)) + 20
    found: list[httpx.Response] = []
    with held(gated, max_bytes=most) as url:
        threads = [post(url, photo, found) for _ in range(17)]
        assert gated.reached.wait(60)
        for _ in range(600):
            if found:
                break
            threading.Event().wait(0.1)
        gated.gate.set()
        for thread in threads:
            thread.join()
    assert sorted({one.status_code for one in found}) == [200, 429]
    assert found[0].status_code == 429


def test_a_deadline_ends_a_request(gated: Gated, photo: bytes) -> None:
    found: list[httpx.Response] = []
    with held(gated, deadline=1.0) as url:
        post(url, photo, found).join()
        assert (found[0].status_code, found[0].json()["error"]["type"]) == (504, "deadline")


def test_a_client_that_leaves_leaves_the_batch(gated: Gated, photo: bytes) -> None:
    """Behind one that is under way wait two others; one leaves, and the next batch is without it."""
    found: list[httpx.Response] = []
    with held(gated) as url:
        first = post(url, photo, found)
        assert gated.reached.wait(60)
        body = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
        address = urlsplit(url)
        head = f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        leaving = socket.create_connection((address.hostname, address.port or 80))
        leaving.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        wait_until(url, "patchioner_waiting_rows 1.0")
        leaving.close()
        wait_until(url, "patchioner_waiting_rows 0.0")
        second = post(url, photo, found)
        wait_until(url, "patchioner_waiting_rows 1.0")
        gated.gate.set()
        first.join()
        second.join()
        log = httpx.get(f"{url}/metrics").text
    assert [one.status_code for one in found] == [200, 200]
    assert gated.batches == [1, 1]
    assert 'status="499"' in log


def wait_until(url: str, line: str) -> None:
    for _ in range(600):
        if line in httpx.get(f"{url}/metrics").text:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"no {line!r}")


def test_a_stop_finishes_what_is_under_way(gated: Gated, photo: bytes) -> None:
    found: list[httpx.Response] = []
    with held(gated) as url:
        thread = post(url, photo, found)
        assert gated.reached.wait(60)
        threading.Timer(0.2, gated.gate.set).start()
    thread.join()
    assert found[0].status_code == 200


class Broken(Patchioner):
    def caption_many(self, items: Any, **how: Any) -> Any:
        raise ZeroDivisionError("secret of a library")


def test_a_defect_is_told_in_our_words(
    model: Patchioner, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[httpx.Response] = []
    with caplog.at_level(logging.CRITICAL), running(Broken(model.parts, device="cpu")) as url:
        post(url, photo, found).join()
    assert found[0].status_code == 500 and "secret" not in found[0].text


def test_the_log_has_no_content(
    client: httpx.Client, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "patchioner.serve"):
        answer = client.post("/v1/images", files={"file": ("secret.png", photo)})
        name = answer.json()["id"]
        client.post(f"/v1/images/{name}/labels", json={"names": ["secret", "words"]})
        client.get("/health")
        wanted, entries = {"/v1/images", "/v1/images/{id}/labels"}, list[dict[str, Any]]()
        end = time.monotonic() + 60
        while not wanted <= {entry["path"] for entry in entries} and time.monotonic() < end:
            time.sleep(0.01)  # a line is written once its answer has left
            entries = [json.loads(record.getMessage()) for record in list(caplog.records)]
    assert wanted <= {entry["path"] for entry in entries}
    assert all(entry.keys() == {"id", "method", "path", "status", "ms"} for entry in entries)
    assert name not in caplog.text and "secret" not in caplog.text
    assert answer.headers["x-request-id"] in {entry["id"] for entry in entries}


def test_metrics(client: httpx.Client, photo: bytes) -> None:
    client.post("/v1/images", files={"file": photo})
    text = client.get("/metrics").text
    for name in ("requests_total", "request_seconds_sum", "stage_seconds_sum", "batch_rows_sum",
                 "active_requests", "waiting_rows", "cache_bytes", "cache_hits"):  # fmt: skip
        assert f"patchioner_{name}" in text
