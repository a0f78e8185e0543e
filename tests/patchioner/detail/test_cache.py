"""A folder of answers: nothing is asked twice, whoever dies frees its question, and nothing half is left behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail import clean_answer
from patchioner.detail.models import Answer, AskedModel, CallCache, Question, Take, mask_digest
from tests.support.chat_server import ChatServer, Reaction, echo

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = Question("fuse", "m", "one"), Question("fuse", "m", "two", shown={"box": (0, 1.5, 2, 3)})
OTHER: dict[str, Any] = {
    "stage": "describe", "model": "n", "user": "u", "system": "s", "sampling": {"temperature": 0.1}, "seed": 1,
    "sample": 1, "shown": {"photo": "ab"},
}  # fmt: skip


class Model(AskedModel):
    """Answers with what it is told to; counts."""

    identity, settings = "m", {}  # type: ignore[assignment]

    def __init__(self, folder: Path | None, say: Callable[[], Answer]) -> None:
        self.cache = None if folder is None else CallCache(folder)
        self.say, self.asked = say, []  # type: ignore[var-annotated]

    def write(self, asked: Sequence[Any], take: Take) -> None:
        for question, _ in asked:
            self.asked.append(question)
            take(question, self.say())

    def text(self, question: Question = ONE) -> object:
        return self.answers([(question, None)])[question.key]


def test_every_field_is_part_of_the_key_and_what_json_cannot_express_has_none() -> None:
    assert OTHER.keys() == {field.name for field in fields(Question)}
    keys = {ONE.key, *(replace(ONE, **{name: value}).key for name, value in OTHER.items())}
    assert len(keys) == len(OTHER) + 1
    one = replace(ONE, sampling={"a": 1, "b": 2})
    assert one.key == replace(ONE, sampling={"b": 2, "a": 1}).key
    with pytest.raises(OptionError):
        _ = replace(ONE, sampling={"temperature": float("nan")}).key


def test_masks_are_told_apart_by_shape_and_pixels() -> None:
    flat = np.zeros((2, 8), dtype=bool)
    other = flat.copy()
    other[0, 0] = True
    digests = [mask_digest(one) for one in (flat, flat.reshape(8, 2), other, None)]
    assert len(set(digests)) == 4 and digests[3] is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (" A bus.\r\n\tRed. ", "A bus.\n\tRed."),
        ("a\x00b\x1b[31mc\x7f\x9b", "ab[31mc"),
        ("\ufeffto \u202eright\u202c\u200b", "to right"),
        ("<think>so\nmuch</think>\nA bus.", "A bus."),
        ("<THINKING>never closed", ""),
        ("Hmm, a cat.\n</think>\n\nA bus.", "A bus."),
        ("<think>a</think><think>b</think>A bus.", "A bus."),
        ("a <think>b</think>", "a <think>b</think>"),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A bus.", "A bus."),
        ("<|channel|>analysis<|message|>never at an end", ""),
        ("<|im_start|>assistant\nA bus.<|im_end|>\n<|im_start|>user", "A bus."),
        ("A bus, 5 < 6 | 7 > 3.", "A bus, 5 < 6 | 7 > 3."),
        ("\ud800", "\ufffd"),
    ],
)  # fmt: skip
def test_answers_are_cleaned(text: str, left: str) -> None:
    assert clean_answer(text) == left


@given(st.text(max_size=60))
def test_a_cleaned_answer_is_short_writable_and_clean(text: str) -> None:
    cleaned = clean_answer(text, limit=20)
    assert len(cleaned) <= 20 and clean_answer(cleaned, limit=20) == cleaned
    cleaned.encode()


def test_what_was_answered_is_not_asked_again_and_an_error_is(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", lambda: Answer("Ümläut 橋", -0.5))
    assert model.text() == model.text() == model.text(TWO) == Answer("Ümläut 橋", -0.5)
    again = Model(tmp_path / "a", lambda: Answer("no"))
    assert again.text(TWO) == Answer("Ümläut 橋", -0.5)
    assert (model.asked, again.asked) == ([ONE, TWO], [])
    failing = Model(tmp_path / "b", lambda: DetailError("down"))  # type: ignore[return-value, arg-type]
    for _ in range(2):
        with pytest.raises(DetailError, match="down"):
            failing.ask("", "one", temperature=0.0, max_tokens=5)
    assert len(failing.asked) == 2 and not list((tmp_path / "b").rglob("*.json"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: b"[" * 100_000,
        lambda text: text.replace(b'"yes"', b'"no"'),
        lambda text: text.replace(b'"yes"', b"7"),
        lambda text: text.replace(b'"user": "one"', b'"user": "two"'),
        lambda text: b"null",
        lambda text: b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_is_a_miss_with_a_warning(
    tmp_path: Path, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache = CallCache(tmp_path)
    cache.put(ONE, Answer("yes"))
    path = cache.path(ONE)
    path.write_bytes(spoil(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cache.get(ONE) is None
    assert path.name in caplog.text
    cache.put(ONE, Answer("yes"))
    assert cache.get(ONE) == Answer("yes")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetailError, match="file"):
        CallCache(tmp_path / "file").put(ONE, Answer("yes"))


def test_threads_that_ask_the_same_at_once_ask_once(tmp_path: Path) -> None:
    begun = threading.Barrier(8)

    def slowly() -> Answer:
        time.sleep(0.1)
        return Answer("yes")

    model = Model(tmp_path, slowly)

    def worker(_: int) -> object:
        begun.wait(5)
        return model.text()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(worker, range(8))) == {Answer("yes")}
    assert model.asked == [ONE]
    assert not list((tmp_path / "asking").iterdir())


@contextmanager
def process(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready; it is gone in the end."""
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words],
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


WRITER = """
import sys
from patchioner.detail.models import Answer, CallCache, Question
cache = CallCache(sys.argv[1])
print("ready", flush=True)
for turn in range(10**9):
    cache.put(Question("fuse", "m", f"q{turn % 5}"), Answer("word " * 20_000))
"""


def test_files_are_whole_after_a_kill_and_while_several_processes_write(tmp_path: Path) -> None:
    cache = CallCache(tmp_path)
    questions = [Question("fuse", "m", f"q{turn}") for turn in range(5)]
    with process(WRITER, str(tmp_path)), process(WRITER, str(tmp_path)):
        while any(cache.get(question) is None for question in questions):
            time.sleep(0.01)
        for _ in range(40):
            assert all(cache.get(question) is not None for question in questions)
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())


ASKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from patchioner.detail.models import CallCache
from patchioner.detail.client import ChatClient
client = ChatClient("tiny", base_url=sys.argv[2], cache=CallCache(sys.argv[1]))
def ask(number):
    return client.ask("", f"question {number}", temperature=0.0, max_tokens=5, seed=number)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(3) as pool:
    print(*pool.map(ask, range(9)), sep="|")
"""


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


def give_up() -> bool:
    return True


HOLDER = """
import sys, time
from patchioner.detail.models import CallCache, Question
with CallCache(sys.argv[1]).asking([Question("fuse", "m", "one")]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_process_that_dies_frees_its_question_and_its_file_goes(tmp_path: Path) -> None:
    cache = CallCache(tmp_path)
    with process(HOLDER, str(tmp_path)) as holder:
        with pytest.raises(DetailError, match="others"), cache.asking([ONE, TWO], give_up):
            raise AssertionError("taken from its holder")
        with cache.asking([TWO]):  # given back, and waits for nobody
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert [path.stem for path in (tmp_path / "asking").iterdir()] == [ONE.key]
    with cache.asking([ONE, ONE]):
        pass
    assert not list((tmp_path / "asking").iterdir())


def test_what_has_been_answered_while_waiting_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path, lambda: pytest.fail("asked again"))
    assert model.cache is not None
    original = model.cache.get

    def look(question: Question) -> Answer | None:
        found = original(question)
        CallCache(tmp_path).put(question, Answer("yes"))
        return found

    monkeypatch.setattr(model.cache, "get", look)
    assert model.text() == Answer("yes")


def test_where_nothing_can_be_locked_answers_are_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(self: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    with caplog.at_level(logging.INFO):
        assert Model(tmp_path, lambda: Answer("yes")).text() == Answer("yes")
    assert "Read-only file system" in caplog.text
