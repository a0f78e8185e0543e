"""A question to a model, the cleaned answer, and a folder of answers, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import BaseFileLock, FileLock, Timeout
from PIL import Image

from patchioner.base.errors import DetailError, OptionError, PatchionerError
from patchioner.base.files import atomic_path

_LOG = logging.getLogger(__name__)
LONGEST_ANSWER = 50_000
"""Characters of an answer that are kept; a paragraph has a thousand."""
_POLL, _LONGEST_WAIT = 0.05, 900.0  # seconds

# Control characters but for tab and line feed, and the marks that reverse or hide the text around them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# <think>...</think>; the same without its opening tag; the channels of harmony; marks of chat templates.
_NO_ANSWER = (
    re.compile(
        r"\A(\s*<think(ing)?>.*?(</think(ing)?>|\Z)|((?!<think(ing)?>).)*?</think(ing)?>)+",
        re.DOTALL | re.IGNORECASE,
    ),
    re.compile(
        r"\A.*<\|channel\|>final<\|message\|>|\A\s*(<\|start\|>assistant)?<\|channel\|>.*",
        re.DOTALL,
    ),
    re.compile(
        r"\A\s*<\|(im_start|start)\|>assistant|<\|(end|return|im_end|eot_id|endoftext)\|>.*",
        re.DOTALL,
    ),
)


def clean_answer(text: str, *, limit: int = LONGEST_ANSWER) -> str:
    """A model's text without what could harm a file, a page or a terminal; its words stay as they are.

    Removed: control characters, invisible marks that reorder text, lone surrogates, reasoning ahead of the answer (or
    instead of it, where it never ends), marks of chat templates, white space at both ends, and what comes after `limit`
    characters.
    """
    text = text[: 4 * limit].replace("\r\n", "\n")
    for pattern in _NO_ANSWER:
        text = pattern.sub("", text)
    text = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNFIT.sub("", text))
    return text.strip()[:limit].rstrip()


@dataclass(frozen=True)
class Question:
    """All that decides an answer. Two equal questions are asked once; keys and other secrets are no part of it.

    Attributes:
        stage: who asks: "describe", "fuse".
        model: its id, with the contents of its files where they are known; not its server's address.
        user, system: what it is asked, and was told beforehand, word for word.
        sampling: "temperature", "max_tokens" and the like.
        seed, sample: of the run; which of several answers to the same words.
        shown: what tells the picture that is shown, in JSON values.
    """

    stage: str
    model: str
    user: str
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    sample: int = 0
    shown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Sha256 (hex) of the canonical JSON; `OptionError` for a value that JSON cannot express."""
        try:
            text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OptionError(f"a question cannot be written as JSON: {error}") from error
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


def mask_digest(mask: npt.NDArray[np.bool_] | None) -> str | None:
    """Sha256 (hex) of shape and pixels of an (height, width) bool mask; None of None."""
    if mask is None:
        return None
    shape = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(shape + b":" + np.packbits(mask).tobytes()).hexdigest()


class CallCache:
    """A folder of answers: `ab/abcd….json` for the question whose key is abcd…; made when the first is kept.

    Threads and processes may share one: every file is whole or absent, also after a kill; a damaged one counts as
    absent, with a warning. A read-only folder still gives its answers. A model of the same name on two servers is taken
    for one: give each its own folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, question: Question) -> Path:
        """Where the answer to a question is, or would be."""
        key = question.key
        return self.folder / key[:2] / f"{key}.json"

    def get(self, question: Question) -> Answer | None:
        """The kept answer, or None."""
        path = self.path(question)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            answer = Answer(entry["answer"]["text"], entry["answer"]["log_prob"])
            if entry != _entry(question, answer):
                raise ValueError("not what was written")
            return answer
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _LOG.warning("%s is damaged (%s); asking again", path, error)
            return None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer; `DetailError` where the folder cannot be written."""
        text = json.dumps(_entry(question, answer), ensure_ascii=False) + "\n"
        try:
            with atomic_path(self.path(question)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DetailError(
                f"{self.folder}: the answer cannot be kept ({error.strerror}); make room or choose another folder"
            ) from error

    @contextmanager
    def asking(
        self, questions: Iterable[Question], given_up: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Hold the locks of questions while they are asked: who wants the same waits for the answer.

        `DetailError` once `given_up`. A lock that cannot be had, or is kept beyond all patience, is gone without.
        """
        with ExitStack() as held:
            for key in sorted({one.key for one in questions}):  # so that nobody waits in a circle
                lock = FileLock(self.folder / "asking" / f"{key}.lock")
                try:
                    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                    lock.acquire(_LONGEST_WAIT, _POLL, cancel_check=given_up)
                except Timeout:
                    if given_up():
                        raise DetailError("interrupted while others ask the same") from None
                    _LOG.warning("%s is still locked; asking as well", lock.lock_file)
                except (OSError, NotImplementedError) as error:
                    _LOG.info("%s cannot be locked (%s)", lock.lock_file, error)
                else:
                    held.callback(_let_go, lock)
            yield


def _let_go(lock: BaseFileLock) -> None:
    # The file goes first: who has opened it already finds it gone, and makes a new one.
    with suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release()


def _entry(question: Question, answer: Answer) -> dict[str, Any]:
    check = hashlib.sha256(json.dumps([answer.text, answer.log_prob]).encode()).hexdigest()[:16]
    entry = {"question": asdict(question), "answer": asdict(answer), "check": check}
    plain: dict[str, Any] = json.loads(json.dumps(entry))  # as the file has it: tuples are lists
    return plain


Asked = tuple[Question, Callable[[], Image.Image] | None]
"""A question, and what makes the picture that it is about."""
Take = Callable[[Question, Answer | PatchionerError], None]


class AskedModel(ABC):
    """A model that is asked, unless the answer is in its cache already . Threads may share it."""

    cache: CallCache | None
    sampling: Mapping[str, Any] = {}
    """What else decides its answers."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Its name in questions."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Names, ready for JSON; no secrets."""

    @abstractmethod
    def write(self, asked: Sequence[Asked], take: Take) -> None:
        """Answer different questions; `take` each answer, or why there is none, as soon as it is there."""

    def given_up(self) -> Callable[[], bool]:
        """What tells, while others are asked the same, whether the calls under way now were interrupted."""
        return lambda: False

    def answers(self, asked: Iterable[Asked]) -> dict[str, Answer | PatchionerError]:
        """The answer to each question, or why there is none, by the question's key; kept as they come."""
        cache, by_key = self.cache, {one[0].key: one for one in asked}
        found: dict[str, Answer | PatchionerError] = {}

        def take(question: Question, answer: Answer | PatchionerError) -> None:
            if cache is not None and isinstance(answer, Answer):
                cache.put(question, answer)
            found[question.key] = answer

        def missing() -> list[Asked]:
            for key, (question, _) in by_key.items():
                if cache is not None and (known := cache.get(question)) is not None:
                    found[key] = known
            return [one for key, one in by_key.items() if key not in found]

        if (left := missing()) and cache is not None:
            with cache.asking([question for question, _ in left], self.given_up()):
                self.write(missing(), take)  # without what others have answered meanwhile
        elif left:
            self.write(left, take)
        return {key: found[key] for key in by_key}

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """One answer's text, never empty; a `PatchionerError` says why there is none."""
        sampling = {"temperature": temperature, "max_tokens": max_tokens, **self.sampling}
        question = Question("fuse", self.identity, user, system, sampling, seed)
        (answer,) = self.answers([(question, None)]).values()
        if isinstance(answer, PatchionerError):
            raise answer
        return answer.text
