"""A question to a model, the cleaned answer, and a folder of answers, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from patchioner.base.errors import DetailError, OptionError
from patchioner.base.files import atomic_path

_LOG = logging.getLogger(__name__)
LONGEST_ANSWER = 50_000
"""Characters of an answer that are kept; a paragraph has a thousand."""
_FORMAT = 1
_POLL, _LONGEST_WAIT = 0.05, 900.0  # seconds

# Control characters but for tab and line feed, and the marks that reverse or hide the text around them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REASONING = re.compile(
    r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE
)


def clean_answer(text: str, *, limit: int = LONGEST_ANSWER) -> str:
    """A model's text without what could harm a file, a page or a terminal; its words stay as they are.

    Removed: control characters, invisible marks that reorder text, lone surrogates, reasoning in <think> tags ahead of
    the answer (or instead of it, where the tag is never closed), white space at both ends, and what comes after `limit`
    characters.
    """
    text = _REASONING.sub("", text[: 4 * limit].replace("\r\n", "\n"))
    text = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNFIT.sub("", text))
    return text.strip()[:limit].rstrip()


@dataclass(frozen=True)
class Question:
    """All that decides an answer. Two equal questions are asked once; keys and other secrets are no part of it.

    Attributes:
        stage: who asks: "describe", "fuse".
        model: its id, with revision or contents where they are known; not its server's address.
        user, system: what it is asked, and was told beforehand, word for word.
        prompt: id and version of the instruction, e.g. "detail/1".
        sampling: temperature, length and the like.
        seed, sample: of the run; which of several answers to the same words.
        photo: sha256 of the photo's pixels, if one is shown.
        box, mask, view: XYXY pixels and `mask_digest` of the region that is shown, and how.
    """

    stage: str
    model: str
    user: str
    system: str = ""
    prompt: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    sample: int = 0
    photo: str | None = None
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    view: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """JSON values; numbers in a box become plain floats, so that 1 and 1.0 are one."""
        box = None if self.box is None else [float(value) for value in self.box]
        return {**asdict(self), "seed": int(self.seed), "sample": int(self.sample), "box": box}

    @property
    def key(self) -> str:
        """Sha256 (hex) of the canonical JSON; `OptionError` for a value that JSON cannot express."""
        try:
            text = json.dumps(
                self.as_json(), sort_keys=True, separators=(",", ":"), allow_nan=False
            )
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"a question has a value that JSON cannot express: {error}"
            ) from error
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def own_seed(self) -> int:
        """A seed (31 bits) for this question alone, so that an answer does not depend on what is asked beside it."""
        return int(self.key[:8], 16) >> 1


@dataclass(frozen=True)
class Answer:
    """What a model said, cleaned, and its mean log-probability per token, where it is known."""

    text: str
    log_prob: float | None = None

    def __post_init__(self) -> None:
        if self.log_prob is not None and not math.isfinite(self.log_prob):
            object.__setattr__(self, "log_prob", None)


def mask_digest(mask: npt.NDArray[np.bool_] | None) -> str | None:
    """Sha256 (hex) of shape and pixels of an (height, width) bool mask; None of None."""
    if mask is None:
        return None
    shape = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(shape + b":" + np.packbits(mask).tobytes()).hexdigest()


class CallCache:
    """A folder of answers: `ab/abcd….json` for the question whose key is abcd…; made when the first is kept.

    Threads and processes may share one: every file is whole or absent, also after a kill; a damaged one counts as
    absent, with a warning. Who asks what another thread or process is asking waits for its answer (a lock per key, in
    `asking/`; the operating system frees that of a process that dies). A read-only folder still gives its answers.

    A model of the same name on two servers is taken for one: give each its own folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, question: Question) -> Answer | None:
        """The kept answer, or None."""
        path = self.path(question)
        try:
            return _answer_of(json.loads(path.read_text(encoding="utf-8")), question)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _LOG.warning("%s is damaged (%s); asking again", path, error)
            return None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer; `DetailError` where the folder cannot be written."""
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
        self,
        question: Question,
        ask: Callable[[], Answer],
        *,
        pause: Callable[[float], object] = time.sleep,
    ) -> Answer:
        """The kept answer, or that of `ask()`, which is then kept; see `asking` for `pause`."""
        found = self.get(question)
        if found is None:
            with self.asking([question], pause=pause) as since:
                found = since.get(question.key)
                if found is None:
                    found = ask()
                    self.put(question, found)
        return found

    @contextmanager
    def asking(
        self, questions: Sequence[Question], *, pause: Callable[[float], object] = time.sleep
    ) -> Iterator[dict[str, Answer]]:
        """Hold the locks of several questions while they are asked."""
        by_key = {question.key: question for question in questions}
        with ExitStack() as held:
            for key in sorted(by_key):  # everybody in the same order: nobody waits in a circle
                held.enter_context(_locked(self.folder / "asking" / f"{key}.lock", pause))
            found = {key: self.get(question) for key, question in by_key.items()}
            yield {key: answer for key, answer in found.items() if answer is not None}

    def path(self, question: Question) -> Path:
        """Where the answer to a question is, or would be."""
        key = question.key
        return self.folder / key[:2] / f"{key}.json"


@contextmanager
def _locked(path: Path, pause: Callable[[float], object]) -> Iterator[None]:
    """Hold a lock file; without a lock where there can be none, or its holder keeps it beyond all patience."""
    lock = FileLock(path)
    begun = time.monotonic()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            break
        except Timeout:
            if time.monotonic() - begun > _LONGEST_WAIT:
                _LOG.warning("%s has been locked for %.0f s; asking as well", path, _LONGEST_WAIT)
                break
            pause(_POLL)
        except (OSError, NotImplementedError) as error:
            _LOG.info("%s cannot be locked (%s); others may ask the same", path, error)
            break
    try:
        yield
    finally:
        if lock.is_locked:
            # Ahead of the release: who has opened this file already finds it gone, and makes a new one.
            with suppress(OSError):
                path.unlink()
            lock.release()


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
