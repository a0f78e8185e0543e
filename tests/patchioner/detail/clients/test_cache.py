from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchioner.base.errors import DetailError
from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.cache import CacheCounts, CallCache

ONE, TWO = Question("fuse", "m", "one"), Question("fuse", "m", "two", box=(0, 1.5, 2, 3))


def no_call() -> Answer:
    raise AssertionError("asked again")


def test_what_was_answered_is_not_asked_again_not_even_by_another_process(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "a")
    assert cache.answer(ONE, lambda: Answer("yes", -0.5)) == Answer("yes", -0.5)
    assert cache.answer(TWO, lambda: Answer("Ümläut 橋")).text == "Ümläut 橋"
    assert cache.counts == CacheCounts(hits=0, misses=2)
    again = CallCache(tmp_path / "a")
    assert again.answer(ONE, no_call) == Answer("yes", -0.5)
    assert again.answer(TWO, no_call) == Answer("Ümläut 橋")
    assert again.counts == CacheCounts(hits=2, misses=0)


def test_an_exception_keeps_nothing(tmp_path: Path) -> None:
    def broken() -> Answer:
        raise DetailError("down")

    cache = CallCache(tmp_path)
    with pytest.raises(DetailError, match="down"):
        cache.answer(ONE, broken)
    assert not list(tmp_path.rglob("*.json"))
    assert cache.answer(ONE, lambda: Answer("up")).text == "up"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: text.replace('"yes"', '"no"'),
        lambda text: text.replace('"yes"', "7"),
        lambda text: text.replace('"user": "one"', '"user": "two"'),
        lambda text: text.replace('"format": 1', '"format": 9'),
        lambda text: "null",
        lambda text: "\x00\x00\x00",
    ],
)
def test_a_damaged_file_is_a_miss_with_a_warning(
    tmp_path: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CallCache(tmp_path)
    cache.put(ONE, Answer("yes"))
    path = cache.path(ONE)
    path.write_text(spoil(path.read_text()))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert cache.get(ONE) is None
    assert path.name in caplog.text and "damaged" in caplog.text
    cache.put(ONE, Answer("yes"))
    assert cache.get(ONE) == Answer("yes")


def test_bytes_that_are_no_text_are_a_miss_too(tmp_path: Path) -> None:
    cache = CallCache(tmp_path)
    cache.put(ONE, Answer("yes"))
    cache.path(ONE).write_bytes(b"\xff\xfe\x00")
    assert cache.get(ONE) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetailError, match="cannot be kept"):
        CallCache(tmp_path / "file").put(ONE, Answer("yes"))


def test_threads_that_ask_the_same_at_once_ask_once(tmp_path: Path) -> None:
    cache = CallCache(tmp_path)
    calls: list[int] = []
    begun, go = threading.Barrier(8), threading.Event()

    def ask() -> Answer:
        calls.append(1)
        go.wait(5)
        return Answer("yes")

    def worker(_: int) -> str:
        if begun.wait(5) == 0:
            go.set()
        return cache.answer(ONE, ask).text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(worker, range(8))) == {"yes"}
    assert len(calls) == 1
    assert not cache._turns._asking
    assert cache.counts == CacheCounts(hits=7, misses=1)


WRITER = """
import sys
from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.cache import CallCache
cache = CallCache(sys.argv[1])
print("ready", flush=True)
for turn in range(10**9):
    cache.put(Question("fuse", "m", f"q{turn % 5}"), Answer("word " * 20_000))
"""


def test_files_are_whole_after_a_kill_and_while_several_processes_write(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[4]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=root,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    cache = CallCache(tmp_path)
    questions = [Question("fuse", "m", f"q{turn}") for turn in range(5)]
    while any(cache.get(question) is None for question in questions):
        assert all(writer.poll() is None for writer in writers)
    for _ in range(40):
        assert all(cache.get(question) is not None for question in questions)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())
    assert all(cache.get(question) is not None for question in questions)
