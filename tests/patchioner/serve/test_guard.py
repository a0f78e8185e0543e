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


def test_the_token_is_asked_for(model: Patchioner) -> None:
    right = (f"Bearer {TOKEN}", basic(TOKEN))
    wrong = ("Bearer wrong", basic("wrong"), "Bearer \xe9", "Basic ???", TOKEN, None)
    with running(model, token=TOKEN) as url, httpx.Client(base_url=url) as client:
        for header in (*right, *wrong):
            known, status = header in right, 200 if header in right else 401
            headers: Any = {} if header is None else {"Authorization": header.encode("latin-1")}
            for path in ("/v1/models", "/metrics"):
                assert client.get(path, headers=headers).status_code == status
            asked = client.post("/v1/images/x/embed", json={}, headers=headers)
            assert asked.status_code == (404 if known else 401)
        for path in ("/health", "/ready", "/"):
            assert client.get(path).status_code == 200


def test_pages_of_other_sites_are_refused_and_ours_loads_nothing_of_theirs(
    client: httpx.Client,
) -> None:
    own = str(client.base_url).rstrip("/")
    for name, value, status in (
        ("Host", "evil.example", 403), ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403), ("Origin", own, 200),
    ):  # fmt: skip
        answer = client.get("/v1/models", headers={name: value})
        assert answer.status_code == status
        assert not any(name.startswith("access-control") for name in answer.headers)
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


class Asker(threading.Thread):
    """Asks for a caption of a photo."""

    def __init__(self, url: str, photo: bytes) -> None:
        super().__init__()
        self._url, self._body = url, {"image": base64.b64encode(photo).decode()}
        self.start()

    def run(self) -> None:
        self._found = httpx.post(f"{self._url}/v1/caption", json=self._body, timeout=60)

    def answer(self) -> httpx.Response:
        self.join()
        return self._found


def test_a_full_queue_says_when_to_come_back_before_a_photo_is_looked_at(
    gated: Gated, photo: bytes
) -> None:
    with held(gated, queue=1) as url:
        asker = Asker(url, photo)
        assert gated.reached.wait(60)
        refused = httpx.post(f"{url}/v1/images", files={"file": b"no photo at all"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 200
        gated.gate.set()
        assert asker.answer().status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 200


def test_large_requests_share_a_bound(gated: Gated, photo: bytes) -> None:
    """Room for sixteen of the largest size: a seventeenth is told to come back."""
    with held(gated, max_bytes=len(base64.b64encode(photo)) + 20) as url:
        askers = [Asker(url, photo) for _ in range(17)]
        assert gated.reached.wait(60)
        for _ in range(600):
            if not all(one.is_alive() for one in askers):
                break
            time.sleep(0.1)
        early = [one.answer().status_code for one in askers if not one.is_alive()]
        gated.gate.set()
        assert set(early) == {429}
        assert {one.answer().status_code for one in askers} == {200, 429}


def test_a_deadline_ends_a_request(gated: Gated, photo: bytes) -> None:
    with held(gated, deadline=1.0) as url:
        found = Asker(url, photo).answer()
        assert (found.status_code, found.json()["error"]["type"]) == (504, "deadline")


def wait_until(url: str, line: str) -> None:
    for _ in range(600):
        if line in httpx.get(f"{url}/metrics").text:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {line!r}")


def test_a_client_that_leaves_leaves_the_batch(gated: Gated, photo: bytes) -> None:
    """Behind one that is under way wait two others; one leaves, and the next batch is without it."""
    with held(gated) as url:
        first = Asker(url, photo)
        assert gated.reached.wait(60)
        body = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
        address = urlsplit(url)
        head = f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        leaving = socket.create_connection((address.hostname, address.port or 80))
        leaving.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        wait_until(url, "patchioner_waiting_rows 1.0")
        leaving.close()
        wait_until(url, "patchioner_waiting_rows 0.0")
        second = Asker(url, photo)
        wait_until(url, "patchioner_waiting_rows 1.0")
        gated.gate.set()
        assert [one.answer().status_code for one in (first, second)] == [200, 200]
        log = httpx.get(f"{url}/metrics").text
    assert gated.batches == [1, 1]
    assert 'status="499"' in log


def test_nobody_holds_a_connection_with_half_a_head(
    url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchioner.serve.guard.PunctualProtocol.patience", 0.2)
    address = urlsplit(url)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for before in (b"", whole):
        with socket.create_connection((address.hostname, address.port or 80), 60) as half:
            half.sendall(before + whole[:20])
            assert (b"UP" in b"".join(iter(lambda: half.recv(4096), b""))) == bool(before)


def test_a_stop_finishes_what_is_under_way(gated: Gated, photo: bytes) -> None:
    with held(gated) as url:
        asker = Asker(url, photo)
        assert gated.reached.wait(60)
        threading.Timer(0.2, gated.gate.set).start()
    assert asker.answer().status_code == 200


class Broken(Patchioner):
    def caption_many(self, items: Any, **how: Any) -> Any:
        raise ZeroDivisionError("secret of a library")


def test_a_defect_is_told_in_our_words(
    model: Patchioner, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), running(Broken(model.parts, device="cpu")) as url:
        found = Asker(url, photo).answer()
    assert found.status_code == 500 and "secret" not in found.text


def test_the_log_and_the_metrics_have_no_content(
    client: httpx.Client, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "patchioner.serve"):
        answer = client.post("/v1/images", files={"file": ("secret.png", photo)})
        name = answer.json()["id"]
        client.post(f"/v1/images/{name}/labels", json={"names": ["secret", "words"]})
        wanted, entries = {"/v1/images", "/v1/images/{id}/labels"}, list[dict[str, Any]]()
        end = time.monotonic() + 60
        while not wanted <= {entry["path"] for entry in entries} and time.monotonic() < end:
            time.sleep(0.01)  # a line is written once its answer has left
            entries = [json.loads(record.getMessage()) for record in list(caplog.records)]
    assert wanted <= {entry["path"] for entry in entries}
    assert all(entry.keys() == {"id", "method", "path", "status", "ms"} for entry in entries)
    text = client.get("/metrics").text
    assert not any(word in log for word in (name, "secret") for log in (caplog.text, text))
    assert answer.headers["x-request-id"] in {entry["id"] for entry in entries}
    for name in ("requests_total", "request_seconds_sum", "stage_seconds_sum", "batch_rows_sum",
                 "active_requests", "waiting_rows", "cache_bytes", "cache_hits"):  # fmt: skip
        assert f"patchioner_{name}" in text
