"""Answers kept on disk, so that nothing is asked twice: not by a run that was stopped, nor by the next one.

Knows: files, named by what was asked. Does NOT know: models, servers, photos, how processes wait for one another
(`turns`); it never sees a key of a server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchioner.base.errors import DetailError
from patchioner.base.files import atomic_path
from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.retry import Sleeper
from patchioner.detail.clients.turns import Turns

_FORMAT = 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheCounts:
    """How often an answer was there, and how often not."""

    hits: int = 0
    misses: int = 0


class CallCache:
    """A folder of answers: `ab/abcd….json` for the question whose key is abcd….

    Threads and processes may share one folder: every file is whole or absent, also after a power cut or a kill. A file
    that is damaged all the same counts as absent, with a warning, and is written anew. Threads and processes that ask
    the same question at the same time ask it once: the others wait for the answer, in `asking/` of the folder.

    The server's address is no part of a question: a model of the same name on two servers is taken for one. Give each
    its own folder where it is not.

    Args:
        folder: made when the first question is asked; one that is read-only still gives the answers that it has.

    Example:
        >>> cache = CallCache("runs/answers")  # doctest: +SKIP
        >>> cache.answer(question, ask_the_model).text  # doctest: +SKIP
        'A red bus.'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._hits = self._misses = 0
        self._turns = Turns(self.folder / "asking")

    @property
    def counts(self) -> CacheCounts:
        """So far, of this object alone."""
        with self._lock:
            return CacheCounts(self._hits, self._misses)

    def get(self, question: Question) -> Answer | None:
        """The kept answer, or None; counted either way."""
        found = self._read(question)
        with self._lock:
            self._hits += found is not None
            self._misses += found is None
        return found

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            DetailError: the folder cannot be written.
        """
        entry = {
            "format": _FORMAT,
            "question": question.as_json(),
            "answer": {"text": answer.text, "log_prob": answer.log_prob},
            "check": _check(answer),
        }
        try:
            with atomic_path(self.path(question)) as temporary:
                temporary.write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise DetailError(
                f"{self.folder}: the answer cannot be kept ({error.strerror}); make room or choose another folder"
            ) from error

    def answer(
        self, question: Question, ask: Callable[[], Answer], *, pause: Sleeper = time.sleep
    ) -> Answer:
        """The kept answer, or that of `ask()`, which is then kept. An exception of `ask` keeps nothing.

        Args:
            question: what is asked.
            ask: asks it; called by one thread of one process at a time.
            pause: see `in_turn`.
        """
        found = self.get(question)
        if found is None:
            with self.in_turn([question], pause=pause) as since:
                found = since.get(question.key)
                if found is None:
                    found = ask()
                    self.put(question, found)
        return found

    @contextmanager
    def in_turn(
        self, questions: Sequence[Question], *, pause: Sleeper = time.sleep
    ) -> Iterator[dict[str, Answer]]:
        """Ask several questions that had no answer, while no other thread and no other process asks any of them.

        Args:
            questions: for which `get` gave None.
            pause: waits that many seconds while another process asks; what it raises ends the wait.

        Yields:
            Answers that have come since, by key of their question: these need not be asked any more.

        Example:
            >>> with cache.in_turn([question]) as since:  # doctest: +SKIP
            ...     if question.key not in since:
            ...         cache.put(question, ask_the_model())
        """
        by_key = {question.key: question for question in questions}
        with self._turns.take(by_key, pause=pause):
            looked = {key: self._read(question) for key, question in by_key.items()}
            since = {key: answer for key, answer in looked.items() if answer is not None}
            with self._lock:
                self._hits += len(since)
                self._misses -= len(since)
            yield since

    def path(self, question: Question) -> Path:
        """Where the answer to a question is, or would be."""
        key = question.key
        return self.folder / key[:2] / f"{key}.json"

    def _read(self, question: Question) -> Answer | None:
        path = self.path(question)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            _LOG.warning("%s cannot be read (%s); asking again", path, error)
            return None
        try:
            return _answer_of(json.loads(text), question)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            _LOG.warning("%s is damaged (%s); asking again", path, error)
            return None


def _check(answer: Answer) -> str:
    return hashlib.sha256(json.dumps([answer.text, answer.log_prob]).encode()).hexdigest()[:16]


def _answer_of(entry: object, question: Question) -> Answer:
    """The answer in a file's JSON; ValueError, KeyError or TypeError where it is not what `put` wrote."""
    if not isinstance(entry, dict) or entry["format"] != _FORMAT:
        raise ValueError("not of this format")
    # Through JSON, as the file went: tuples are lists there.
    if entry["question"] != json.loads(json.dumps(question.as_json())):
        raise ValueError("the answer to another question")
    text, log_prob = entry["answer"]["text"], entry["answer"]["log_prob"]
    if not isinstance(text, str) or not (log_prob is None or isinstance(log_prob, (int, float))):
        raise ValueError("no text")
    answer = Answer(text, log_prob)
    if entry["check"] != _check(answer):
        raise ValueError("contents differ from their sum")
    return answer
