"""A client of OpenAI-compatible chat servers: vLLM, Ollama, llama.cpp, and the paid ones.

Knows: how to send a request, how many at once, what it may cost and what to do when it fails. Does NOT know: what is
asked, or where answers are kept. Connections, proxies and TLS are left to the `openai` package.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.base.optional import require
from patchioner.detail.clients.budget import Budget, Usage
from patchioner.detail.clients.failures import EmptyAnswerError, Failure
from patchioner.detail.clients.protocol import (
    Reply,
    adapted,
    judge,
    messages,
    read_reply,
    refused_parameter,
)
from patchioner.detail.clients.retry import RetryPolicy, Sleeper, call_with_retry
from patchioner.detail.clients.server import Server

T = TypeVar("T")
R = TypeVar("R")
EXTRA = "api"
_LOG = logging.getLogger(__name__)


class ChatClient:
    """Asks one model of one server. Threads may share it.

    The key comes from the environment (see `Server`) and is in no message, setting, log or file; should a server send
    it back, it is blotted out. After a failure that no other call would survive (a refused key, no such model) nothing
    is sent any more: later calls fail with the same words.

    Args:
        model: its id, as the server calls it.
        base_url: see `Server`.
        key_env: see `Server`.
        timeout: seconds for one attempt.
        concurrency: most requests under way at once, whoever sends them. A call that waits to try again keeps its
            place, so that a busy server is pressed less.
        retry: how often, and how long between.
        budget: counts and limits; None counts without limits.
        sleep: waits that many seconds; for tests. None: really waits, until `interrupt`.

    Raises:
        OptionError: no model, a timeout or concurrency that is not positive; and as `Server`.
        MissingExtraError: without the extra `api`.

    Example:
        >>> client = ChatClient("qwen2.5vl:7b", base_url="http://localhost:11434/v1")  # doctest: +SKIP
        >>> client.ask("", "Name a colour.", temperature=0.0, max_tokens=5)  # doctest: +SKIP
        ['Red']
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_env: str | None = None,
        timeout: float = 120.0,
        concurrency: int = 4,
        retry: RetryPolicy | None = None,
        budget: Budget | None = None,
        sleep: Sleeper | None = None,
    ) -> None:
        if not model:
            raise OptionError("no model is named; give its id, as in openai:gpt-4o-mini")
        if not timeout > 0:
            raise OptionError(f"timeout is {timeout!r}; it must be more than 0 seconds")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise OptionError(
                f"concurrency is {concurrency!r}; it must be a whole number, at least 1"
            )
        self.model, self.concurrency = model, concurrency
        self.server = Server(base_url, key_env=key_env)
        self.budget = budget or Budget()
        self._retry, self._sleep = retry or RetryPolicy(), sleep
        self._final: Failure | None = None
        self._left = threading.Event()
        self._stopped = False
        self._places = threading.BoundedSemaphore(concurrency)
        self._refused: tuple[str, ...] = ()
        self._lock = threading.Lock()
        library = require("openai", EXTRA)
        # Its own retries are off: they know neither the budget nor a limit on Retry-After.
        self._client: Any = library.OpenAI(
            **self.server.credentials(), timeout=timeout, max_retries=0
        )

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, base_url={self.server.url!r})"

    @property
    def settings(self) -> dict[str, object]:
        """Model and address, ready for JSON; no secrets."""
        return {"model": self.model, "base_url": self.server.url}

    @property
    def usage(self) -> Usage:
        """Calls, tokens and price so far, of the budget that this client draws on."""
        return self.budget.usage

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def interrupt(self) -> None:
        """Let the calls under way fail after the attempt that they are at; later calls are not concerned."""
        with self._lock:
            left, self._left = self._left, threading.Event()
            if self._stopped:
                self._left.set()
        left.set()

    def stop(self) -> None:
        """Send nothing any more: pauses end, requests under way are the last, later calls raise `FutileError`."""
        with self._lock:
            self._stopped = True
            self._left.set()

    def pauses(self) -> Sleeper:
        """What waits that many seconds, and raises `DetailError` once the calls that are under way now are interrupted.

        For waits that belong to a call without being part of `ask`, such as one for another process.
        """
        left = self._left

        def pause(seconds: float) -> None:
            if left.wait(seconds):
                raise self._interrupted().error(f"{self._what}: ")

        return pause

    @property
    def _what(self) -> str:
        return f"{self.model} at {self.server.url}"

    def _interrupted(self) -> Failure:
        return Failure("interrupted", futile=self._stopped)

    def ask(
        self,
        system: str,
        user: str,
        *,
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        seed: int | None = None,
        picture: str | None = None,
        n: int = 1,
    ) -> list[str]:
        """At most `n` answers; fewer where the server takes no `n`, or some were empty.

        Args:
            system: what the model is told; "" for nothing.
            user: what it is asked.
            temperature, max_tokens, top_p, seed: of the sampling, sent where the server takes them.
            picture: data URL (`protocol.data_url`).
            n: answers wanted.

        Raises:
            DetailError: no answer; `EmptyAnswerError` where it holds no text, `FutileError` where no other call would
                fare better: budget, key, model.
        """
        request: dict[str, Any] = {
            "model": self.model,
            "messages": messages(system, user, picture),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        request |= {"top_p": top_p} if top_p < 1 else {}
        request |= {} if seed is None else {"seed": seed}
        request |= {"n": n} if n > 1 else {}
        what, left = self._what, self._left
        with self._places:
            reply = call_with_retry(
                lambda: self._attempt(request, left),
                self._retry,
                what=what,
                who=str(seed),
                sleep=self._sleep or left.wait,
            )
        if not reply.texts:
            raise EmptyAnswerError(
                f"{what}: the answer is empty ({self.server.hide(reply.finish)}); raise max_tokens, or ask another "
                "model"
            )
        return [self.server.hide(text) for text in reply.texts[:n]]

    def map(self, action: Callable[[T], R], items: Iterable[T]) -> list[R | DetailError]:
        """`action` on every item, as many at once as requests may be; results in order, a `DetailError` in its place.

        Raises:
            FutileError: of the first item that met one; what has not begun by then is left undone, what has begun is
                finished. After Ctrl-C, requests under way are waited for, and not tried again.
        """
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="chat") as pool:
            futures = [pool.submit(_caught, action, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException as error:
                if not isinstance(error, FutileError):
                    self.interrupt()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _attempt(self, request: dict[str, Any], left: threading.Event) -> Reply | Failure:
        """One request; sent again at once, without it, when the server refuses an optional parameter."""
        while True:
            if left.is_set():
                return self._interrupted()
            with self._lock:
                refused, final = self._refused, self._final
            if final is not None:
                return final
            sent = adapted(request, refused)
            self.budget.reserve()
            outcome = self._send(sent)
            if not isinstance(outcome, str):
                break
            with self._lock:
                if outcome not in self._refused:
                    self._refused += (outcome,)
                    _LOG.warning("%s takes no %r; asking without it", self, outcome)
        if isinstance(outcome, Reply):
            self.budget.record(
                tokens_in=outcome.tokens_in,
                tokens_out=outcome.tokens_out,
                estimated=outcome.estimated,
            )
        elif outcome.futile:
            with self._lock:
                self._final = outcome
        return outcome

    def _send(self, request: dict[str, Any]) -> Reply | Failure | str:
        """The reply, why there is none, or the name of a parameter to leave out."""
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
            return read_reply(raw.text, request)
        except Exception as error:
            parameter = refused_parameter(error, request)
            failure = judge(error)
            if failure is None:
                raise
        # Outside the except block: the library's exception, which may quote the key, is not to hang on to ours.
        if parameter is not None:
            return parameter
        reason = self.server.hide(failure.reason)
        return Failure(reason, failure.retry, failure.wait, failure.futile)


def _caught(action: Callable[[T], R], item: T) -> R | DetailError:
    try:
        return action(item)
    except FutileError:
        raise
    except DetailError as error:
        return error
