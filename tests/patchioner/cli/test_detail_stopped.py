"""A batch that asks a server, stopped in every way: it ends like one that was not, and asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchioner.cli.main import main
from tests.support import Capture, MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction, fails, says
from tests.support.tiny import noise_photo

pytest.importorskip("openai")
PHOTOS, KEY = 6, "sk-secret-of-the-test"
SENTENCES = (
    "A red bus stands at a kerb.",
    "A small dog lies on a green bench.",
    "Two people cross a wet street.",
    "A wooden table holds a white cup.",
    "There is a blue kite above a beach.",
)


def speak(request: dict[str, Any]) -> Reaction:
    """Says of a picture always the same; to the fuser nothing that it can use."""
    stage, question = identity(request)
    number = int(hashlib.sha256(str(question).encode()).hexdigest(), 16)
    text = SENTENCES[number % len(SENTENCES)] if stage == "describe" else "I would rather not."
    return says(*[text] * request.get("n", 1))


def identity(request: dict[str, Any]) -> tuple[str, object]:
    """Tells questions apart as the cache does: the seed of a description is its own."""
    content = request["messages"][-1]["content"]
    return ("fuse", content) if isinstance(content, str) else ("describe", request["seed"])


def answered(cache: Path) -> set[tuple[str, object]]:
    """Identities of what is in the cache."""
    found: set[tuple[str, object]] = set()
    for file in cache.rglob("*.json"):
        question = json.loads(file.read_text())["question"]
        own, describes = int(file.stem[:8], 16) >> 1, question["stage"] == "describe"
        found.add(("describe", own) if describes else ("fuse", question["user"]))
    return found


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(then=speak) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(PHOTOS):
        noise_photo(seed=number).save(photos / f"{number}.png")
    return photos


def words(
    server: ChatServer, folder: Path, out: Path | None, fuser: str = "openai:tiny"
) -> list[str]:
    return [
        "detail", str(folder), *(("--out", str(out)) if out else ()), "--model", "none", "--scorer", "none",
        "--grid", "1x2", "--samples", "2", "--describer", "openai:tiny", "--fuser", fuser, "--base-url", server.url,
        "--concurrency", "2",
    ]  # fmt: skip


def stopped(arguments: list[str], kind: signal.Signals, reached: threading.Event) -> str:
    """Runs the command, stops it once the server has been `reached` often enough; what it says of errors."""
    process = subprocess.Popen(
        [sys.executable, "-m", "patchioner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert reached.wait(120), "the server was not asked"
    process.send_signal(kind)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == (130 if kind == signal.SIGINT else -kind), errors
    assert "Traceback" not in errors
    return errors


def test_stopped_and_killed_it_ends_the_same(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C while the server asks to come back in 50 s, which is not waited for; then a kill while it answers."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    cache, reached, limit = Path(f"{out}.cache"), threading.Event(), 10**9
    then = fails(429, "too many", headers={"Retry-After": "50"})

    def react(request: dict[str, Any]) -> Reaction:
        if len(server.requests) < limit:
            return speak(request)
        reached.set()
        return then

    with ChatServer(then=react) as server:
        assert main(words(server, folder, whole)) == 0
        asked = len(server.requests)
        assert len(set(map(identity, server.requests))) == asked and server.most <= 2
        known: set[tuple[str, object]] = set()
        for kind in (signal.SIGINT, signal.SIGKILL):
            seen, limit = len(server.requests), len(server.requests) + 10
            reached.clear()
            stopped(words(server, folder, out), kind, reached)
            then = Reaction(hang=True)
            assert not known & set(map(identity, server.requests[seen:]))
            known = answered(cache)
            assert known
        assert len(known) < asked, "both were stopped too late to tell anything"
        seen, limit = len(server.requests), 10**9
        assert main(words(server, folder, out)) == 0
        assert not known & set(map(identity, server.requests[seen:]))
    assert out.read_bytes() == whole.read_bytes()
    for file in (out, *cache.rglob("*.json")):
        assert KEY not in file.read_text()


def test_a_spent_budget(server: ChatServer, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.jsonl"
    plain = words(server, folder, out, "patchioner")
    priced = ["--price-in", "10", "--price-out", "20"]
    assert main([*plain, *priced, "--max-calls", "8"]) == 1
    errors = capsys.readouterr().err
    assert "stopped: " in errors and "budget of 8 calls is spent" in errors
    assert "asked 8 times, 8 answered; tokens: 800 sent, 80 came back; price: 0.0096" in errors
    assert len(server.requests) == 8
    finished = out.read_text().splitlines() if out.exists() else []
    assert main(plain) == 0
    assert len(set(map(identity, server.requests))) == len(server.requests)
    lines = out.read_text().splitlines()
    assert set(finished) <= set(lines) and len(lines) == PHOTOS


def test_without_a_file(server: ChatServer, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    plain = [*words(server, folder, None), "--max-calls", "2"]
    assert main(plain) == 1
    errors = capsys.readouterr().err
    assert errors.count("budget of 2 calls is spent") == 1
    assert f"0 of {PHOTOS} photos described" in errors and "--cache would keep them" in errors
    assert main([*plain, "--cache", str(tmp_path / "kept")]) == 1
    assert "are lost" not in capsys.readouterr().err
    assert list((tmp_path / "kept").rglob("*.json"))


@pytest.mark.parametrize(("code", "stops"), [("content_filter", False), ("access_denied", True)])
def test_a_forbidden_photo_is_one_photo_and_a_forbidden_key_is_all(
    folder: Path, tmp_path: Path, capsys: Capture, code: str, stops: bool
) -> None:
    refused: list[str] = []

    def react(request: dict[str, Any]) -> Reaction:
        shown = json.dumps(request["messages"][-1]["content"])
        refused.extend([] if refused else [shown])
        return fails(403, "not for you", code=code) if shown in refused else speak(request)

    out = tmp_path / "out.jsonl"
    with ChatServer(then=react) as server:
        assert main(words(server, folder, out, "patchioner")) == 1
    errors = capsys.readouterr().err
    assert ("stopped: " in errors) == ("check the key" in errors) == stops
    if not stops:
        assert len(out.read_text().splitlines()) == PHOTOS - 1
        (line,) = [line for line in errors.splitlines() if "HTTP 403" in line]
        assert ".png" in line and "not for you" in line
        assert "the server refuses this content" in line
    workers = [one.name for one in threading.enumerate()]
    assert not [name for name in workers if name.startswith(("patchioner", "chat"))]
