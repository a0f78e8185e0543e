import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import pytest

from patchioner import Patchioner
from tests.patchioner.serve.conftest import Gated, held
from tests.support import Log, MonkeyPatch
from tests.support.server import running

TOKEN = "a-long-secret"
Ask = Callable[[str], Future[httpx.Response]]


@pytest.fixture
def ask(photo: bytes) -> Iterator[Ask]:
    body = {"image": base64.b64encode(photo).decode()}
    with ThreadPoolExecutor(17) as pool:
        yield lambda url: pool.submit(httpx.post, f"{url}/v1/caption", json=body, timeout=60)


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port or 80), 60)


def test_the_token_is_asked_for(model: Patchioner) -> None:
    basic = [f"Basic {base64.b64encode(f'me:{one}'.encode()).decode()}" for one in (TOKEN, "wrong")]
    right = (f"Bearer {TOKEN}", basic[0])
    wrong = ("Bearer wrong", basic[1], "Bearer \xe9", "Basic ???", TOKEN, "")
    with running(model, token=TOKEN) as url, httpx.Client(base_url=url) as client:
        for header in (*right, *wrong):
            headers: Any = {"Authorization": header.encode("latin-1")}
            status = 401 if header in wrong else 200
            assert client.get("/v1/models", headers=headers).status_code == status
            asked = client.post("/v1/images/x/embed", json={}, headers=headers)
            assert asked.status_code == (401 if header in wrong else 404)
        assert client.get("/metrics").status_code == 401
        for path in ("/health", "/ready", "/"):
            assert client.get(path).status_code == 200


def test_pages_of_other_sites_are_refused(client: httpx.Client) -> None:
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


def test_a_full_queue_says_when_to_come_back_and_a_stop_finishes_it(gated: Gated, ask: Ask) -> None:
    with held(gated, queue=1) as url:
        asked = ask(url)
        assert gated.reached.wait(60)
        refused = httpx.post(f"{url}/v1/images", files={"file": b"no photo at all"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 200
        threading.Timer(0.2, gated.gate.set).start()
    assert asked.result().status_code == 200


def test_large_requests_share_a_bound(gated: Gated, photo: bytes, ask: Ask) -> None:
    with held(gated, max_bytes=len(base64.b64encode(photo)) + 20) as url:
        asked = [ask(url) for _ in range(17)]
        early, _ = wait(asked, 60, FIRST_COMPLETED)
        assert {one.result().status_code for one in early} == {429}
        gated.gate.set()
        assert {one.result().status_code for one in asked} == {200, 429}


def test_a_deadline_ends_a_request(gated: Gated, ask: Ask) -> None:
    with held(gated, deadline=1.0) as url:
        found = ask(url).result()
        assert (found.status_code, found.json()["error"]["type"]) == (504, "deadline")


def test_a_defect_is_told(gated: Gated, ask: Ask, monkeypatch: MonkeyPatch, caplog: Log) -> None:
    defect = Mock(side_effect=ZeroDivisionError("secret of a library"))
    monkeypatch.setattr(gated, "caption_many", defect)
    with caplog.at_level(logging.CRITICAL), running(gated) as url:
        found = ask(url).result()
    assert found.status_code == 500 and "secret" not in found.text


def wait_until(url: str, line: str) -> None:
    for _ in range(600):
        if line in httpx.get(f"{url}/metrics").text:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {line!r}")


def test_a_client_that_leaves_leaves_the_batch(gated: Gated, photo: bytes, ask: Ask) -> None:
    body = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    head = f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with held(gated) as url:
        first = ask(url)
        assert gated.reached.wait(60)
        with connected(url) as leaving:
            leaving.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            wait_until(url, "patchioner_waiting_rows 1.0")
        wait_until(url, "patchioner_waiting_rows 0.0")
        second = ask(url)
        wait_until(url, "patchioner_waiting_rows 1.0")
        gated.gate.set()
        assert [one.result().status_code for one in (first, second)] == [200, 200]
        log = httpx.get(f"{url}/metrics").text
    assert gated.batches == [1, 1]
    assert 'status="499"' in log


def test_half_a_head_holds_no_connection(url: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("patchioner.serve.guard.PunctualProtocol.patience", 0.2)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for before in (b"", whole):
        with connected(url) as half:
            half.sendall(before + whole[:20])
            assert (b"UP" in b"".join(iter(lambda: half.recv(4096), b""))) == bool(before)


def test_log_and_metrics_have_no_content(client: httpx.Client, photo: bytes, caplog: Log) -> None:
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
    for name in ("requests_total", "stage_seconds_sum", "waiting_rows", "cache_hits"):
        assert f"patchioner_{name}" in text
