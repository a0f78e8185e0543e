"""A batch that asks a server, stopped in every way: it ends like one that was not, and asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchioner.cli.main import main
from tests.support.chat_server import ChatServer, Reaction, says
from tests.support.tiny import noise_photo

pytest.importorskip("openai")

PHOTOS = 6
SENTENCES = (
    "A red bus stands at a kerb.",
    "A small dog lies on a green bench.",
    "Two people cross a wet street.",
    "A wooden table holds a white cup.",
    "There is a blue kite above a beach.",
)


def text_of(request: dict[str, Any]) -> tuple[str, bool]:
    """(the question, whether a picture is shown)."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return content, False
    return json.dumps(content), True


def slowly(request: dict[str, Any]) -> Reaction:
    """Says of a picture always the same; to the fuser nothing that it can use."""
    time.sleep(0.05)
    question, picture = text_of(request)
    number = int(hashlib.sha256(question.encode()).hexdigest(), 16)
    text = SENTENCES[number % len(SENTENCES)] if picture else "I would rather not."
    return says(*[text] * request.get("n", 1))


def identity(request: dict[str, Any]) -> tuple[str, object]:
    """Tells questions apart as the cache does: the seed of a description is its own."""
    question, picture = text_of(request)
    return ("describe", request["seed"]) if picture else ("fuse", question)


def answered(cache: Path) -> set[tuple[str, object]]:
    """Identities of what is in the cache."""
    found: set[tuple[str, object]] = set()
    for file in cache.rglob("*.json"):
        question = json.loads(file.read_text())["question"]
        own = int(file.stem[:8], 16) >> 1
        describes = question["stage"] == "describe"
        found.add(("describe", own) if describes else ("fuse", question["user"]))
    return found


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(then=slowly) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(PHOTOS):
        noise_photo(seed=number).save(photos / f"{number}.png")
    return photos


def words(server: ChatServer, folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "detail", str(folder), "--out", str(out), "--model", "none", "--scorer", "none", "--grid", "1x2",
        "--samples", "2", "--describer", "openai:tiny", "--fuser", "openai:tiny", "--base-url", server.url,
        "--concurrency", "2", *more,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OPENAI_API_KEY": "sk-secret-of-the-test", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "patchioner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=environment,
    )


def wait_for(server: ChatServer, requests: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(server.requests) < requests and process.poll() is None:
        assert time.monotonic() < deadline, "the server was not asked"
        time.sleep(0.002)


def test_stopped_and_killed_it_ends_the_same(
    server: ChatServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main(words(server, folder, whole)) == 0
    asked = len(server.requests)
    identities = [identity(request) for request in server.requests]
    assert len(set(identities)) == asked, "a run that was not stopped asked twice"

    cache = Path(f"{out}.cache")
    seen = asked
    for kind, after in ((signal.SIGINT, 7), (signal.SIGKILL, 11)):
        process = start(words(server, folder, out))
        known = answered(cache)
        wait_for(server, seen + after, process)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL), errors
        assert "Traceback" not in errors
        assert not known & {identity(request) for request in server.requests[seen:]}
        seen = len(server.requests)
    assert seen < 2 * asked, "both were stopped too late to tell anything"

    known = answered(cache)
    assert main(words(server, folder, out)) == 0
    assert not known & {identity(request) for request in server.requests[seen:]}
    assert out.read_bytes() == whole.read_bytes()
    # What was asked again had no answer yet when the process died: at most what was under way.
    assert len(server.requests) - 2 * asked <= 2 * 2
    for file in (out, *cache.rglob("*.json")):
        assert "sk-secret" not in file.read_text()


def test_a_spent_budget_stops_with_a_reason(
    server: ChatServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    plain = [word for word in words(server, folder, out) if word != "openai:tiny"]
    plain.remove("--fuser")
    plain.insert(plain.index("--describer") + 1, "openai:tiny")
    priced = ["--price-in", "10", "--price-out", "20"]
    assert main([*plain, *priced, "--max-calls", "8"]) == 1
    errors = capsys.readouterr().err
    assert "stopped: " in errors
    assert "budget of 8 calls is spent" in errors
    assert "asked 8 times, 8 answered; tokens: 800 sent, 80 came back; price: 0.0096" in errors
    assert len(server.requests) == 8
    finished = out.read_text().splitlines() if out.exists() else []
    assert main(plain) == 0
    assert len({identity(request) for request in server.requests}) == len(server.requests)
    assert set(finished) <= set(out.read_text().splitlines())
    assert len(out.read_text().splitlines()) == PHOTOS


def test_photos_go_side_by_side_within_bounds(
    server: ChatServer, folder: Path, tmp_path: Path
) -> None:
    assert main(words(server, folder, tmp_path / "out.jsonl")) == 0
    assert server.most == 2


def test_a_refused_key_stops_at_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.chat_server import fails

    with ChatServer(then=lambda request: fails(401, "who are you")) as server:
        assert main(words(server, folder, tmp_path / "out.jsonl")) == 1
        assert len(server.requests) <= 2 * 3
    assert "stopped: " in capsys.readouterr().err
    workers = [
        one.name for one in threading.enumerate() if one.name.startswith(("patchioner", "chat"))
    ]
    assert workers == []


def test_without_a_file_a_stop_is_told_once_with_what_is_lost(
    server: ChatServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = words(server, folder, tmp_path / "unused.jsonl")
    at = plain.index("--out")
    del plain[at : at + 2]
    assert main([*plain, "--max-calls", "2"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("budget of 2 calls is spent") == 1
    assert f"0 of {PHOTOS} photos described" in errors
    assert "--cache would keep them" in errors
    assert main([*plain, "--max-calls", "2", "--cache", str(tmp_path / "kept")]) == 1
    assert "are lost" not in capsys.readouterr().err
    assert list((tmp_path / "kept").rglob("*.json"))


def test_a_stop_does_not_wait_for_a_server_that_asks_to_come_back_later(
    folder: Path, tmp_path: Path
) -> None:
    from tests.support.chat_server import fails

    out, well = tmp_path / "out.jsonl", threading.Event()

    def react(request: dict[str, Any]) -> Reaction:
        if len(asked.requests) > 8 and not well.is_set():
            return fails(429, "too many", headers={"Retry-After": "50"})
        return slowly(request)

    asked = ChatServer(then=react)
    with asked as server:
        plain = words(server, folder, out)
        plain[plain.index("--fuser") + 1] = "patchioner"
        process = start(plain)
        wait_for(server, 10, process)
        process.send_signal(signal.SIGINT)
        # In time although it was asked to wait for 50 s.
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        finished = out.read_text().splitlines()
        assert finished
        known, seen = answered(Path(f"{out}.cache")), len(server.requests)
        well.set()
        assert main(plain) == 0
        assert not known & {identity(request) for request in server.requests[seen:]}
    assert set(finished) <= set(out.read_text().splitlines())
    assert len(out.read_text().splitlines()) == PHOTOS


@pytest.mark.parametrize(("code", "stops"), [("content_filter", False), ("access_denied", True)])
def test_a_forbidden_photo_is_one_photo_and_a_forbidden_key_is_all(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, stops: bool
) -> None:
    from tests.support.chat_server import fails

    refused: list[str] = []

    def react(request: dict[str, Any]) -> Reaction:
        shown = json.dumps(request["messages"][-1]["content"])
        refused.extend([] if refused else [shown])
        return fails(403, "this is not for you", code=code) if shown in refused else slowly(request)

    out = tmp_path / "out.jsonl"
    with ChatServer(then=react) as server:
        plain = words(server, folder, out)
        plain[plain.index("--fuser") + 1] = "patchioner"
        assert main(plain) == 1
    errors = capsys.readouterr().err
    described = out.read_text().splitlines() if out.exists() else []
    assert ("stopped: " in errors) == stops
    assert ("check the key" in errors) == stops
    if not stops:
        assert len(described) == PHOTOS - 1
        lines = [line for line in errors.splitlines() if "HTTP 403" in line]
        assert len(lines) == 1
        assert ".png" in lines[0] and "this is not for you" in lines[0]
        assert "the server refuses this content" in lines[0]
