"""One thread of one process per question: whoever dies frees it, and nothing is left behind."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from patchioner.detail.clients import turns
from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.cache import CacheCounts, CallCache
from patchioner.detail.clients.turns import Turns
from tests.support.chat_server import ChatServer, Reaction, echo

ROOT = Path(__file__).resolve().parents[4]

ASKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.chat import ChatClient
from patchioner.detail.clients.remote_text import RemoteTextModel
model = RemoteTextModel(ChatClient("tiny", base_url=sys.argv[2]), cache=CallCache(sys.argv[1]))
def ask(number):
    return model.ask("", f"question {number}", temperature=0.0, max_tokens=5, seed=number)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(3) as pool:
    print(*pool.map(ask, range(9)), sep="|")
"""

HOLDER = """
import sys, time
from pathlib import Path
from patchioner.detail.clients.turns import Turns
with Turns(Path(sys.argv[1])).take(["a"]):
    print("ready", flush=True)
    time.sleep(60)
"""


class GaveUp(Exception):
    """Raised in place of a wait."""


def give_up(seconds: float) -> None:
    raise GaveUp


@contextmanager
def process(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready; it is gone in the end."""
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-of-the-test"},
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
    finally:
        running.kill()
        running.communicate()


def test_two_processes_ask_each_question_once(tmp_path: Path) -> None:
    pytest.importorskip("openai")

    def slowly(request: dict[str, Any]) -> Reaction:
        time.sleep(0.1)
        return echo(request)

    with (
        ChatServer(then=slowly) as server,
        process(ASKER, str(tmp_path), server.url) as one,
        process(ASKER, str(tmp_path), server.url) as two,
    ):
        for asker in (one, two):
            assert asker.stdin is not None
            asker.stdin.write("\n")
            asker.stdin.flush()
        said = [asker.communicate(timeout=60)[0] for asker in (one, two)]
    assert said[0] == said[1] != ""
    asked = sorted(request["messages"][-1]["content"] for request in server.requests)
    assert asked == [f"question {number}" for number in range(9)]
    assert not list((tmp_path / "asking").iterdir())


def test_a_process_that_dies_frees_its_question_and_its_file_goes(tmp_path: Path) -> None:
    with process(HOLDER, str(tmp_path)) as holder:
        with pytest.raises(GaveUp), Turns(tmp_path).take(["a"], pause=give_up):
            raise AssertionError("taken from its holder")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    with Turns(tmp_path).take(["a"], pause=give_up):
        pass
    assert not list(tmp_path.iterdir())


def test_different_questions_do_not_wait_for_one_another(tmp_path: Path) -> None:
    one, two = Turns(tmp_path), Turns(tmp_path)
    with one.take(["a", "b", "a"]), two.take([f"c{place}" for place in range(600)], pause=give_up):
        assert len(list(tmp_path.iterdir())) == 602
    assert not list(tmp_path.iterdir())


def test_one_of_several_that_is_held_gives_the_others_back(tmp_path: Path) -> None:
    one, two = Turns(tmp_path), Turns(tmp_path)
    with one.take(["b"]):
        with pytest.raises(GaveUp), two.take(["a", "b", "c"], pause=give_up):
            raise AssertionError("taken from its holder")
        with one.take(["a", "c"], pause=give_up):
            pass
    assert not two._asking


def test_what_another_process_has_answered_meanwhile_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question("fuse", "m", "one")
    mine, other = CallCache(tmp_path), CallCache(tmp_path)

    def ask() -> Answer:
        raise AssertionError("asked again")

    # The answer comes between the first look and the turn.
    original = mine.get

    def look(question: Question) -> Answer | None:
        found = original(question)
        other.put(question, Answer("yes"))
        return found

    monkeypatch.setattr(mine, "get", look)
    assert mine.answer(question, ask) == Answer("yes")
    assert mine.counts == CacheCounts(hits=1, misses=0)


def test_where_nothing_can_be_locked_questions_are_asked_and_answers_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(self: object, timeout: float) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    question = Question("fuse", "m", "one")
    CallCache(tmp_path).put(question, Answer("kept"))
    monkeypatch.setattr(FileLock, "acquire", read_only)
    with caplog.at_level(logging.INFO):
        cache = CallCache(tmp_path)
        assert cache.answer(question, lambda: Answer("asked")).text == "kept"
        assert "cannot be locked" not in caplog.text
        with cache.in_turn([Question("fuse", "m", "two")], pause=give_up) as since:
            assert since == {}
    assert "Read-only file system" in caplog.text


def test_a_holder_beyond_all_patience_is_not_waited_for_and_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "_LONGEST", -1.0)
    with Turns(tmp_path).take(["a"]):
        with Turns(tmp_path).take(["a"], pause=give_up):
            pass
        assert (tmp_path / "a.lock").exists()
    assert "asking as well" in caplog.text
