"""Two processes on one folder of answers: what one is asking, the other waits for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_server import ChatServer, Reaction, says
from tests.support.tiny import noise_photo

pytest.importorskip("openai")


def slowly(request: dict[str, Any]) -> Reaction:
    """Gives time to ask the same meanwhile; tells pictures apart."""
    time.sleep(0.15)
    content = json.dumps(request["messages"][-1]["content"])
    name = hashlib.sha256(content.encode()).hexdigest()[:4]
    return says(*[f"A red bus stands near sign {name}."] * request.get("n", 1))


def test_two_runs_at_once_ask_everything_once_together(tmp_path: Path) -> None:
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    photos.mkdir()
    for number in range(3):
        noise_photo(seed=number).save(photos / f"{number}.png")
    environment = {**os.environ, "OPENAI_API_KEY": "sk-of-the-test", "OMP_NUM_THREADS": "1"}
    with ChatServer(then=slowly) as server:
        running = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "patchioner", "detail", str(photos), "--out", str(tmp_path / f"{name}.jsonl"),
                    "--cache", str(cache), "--model", "none", "--scorer", "none", "--grid", "2x2", "--samples", "2",
                    "--describer", "openai:tiny", "--fuser", "openai:tiny", "--base-url", server.url,
                    "--concurrency", "2",
                ],
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for name in ("one", "two")
        ]  # fmt: skip
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    asked = [json.dumps([one["messages"], one.get("seed")]) for one in server.requests]
    assert len(set(asked)) == len(asked)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert not list((cache / "asking").iterdir())
