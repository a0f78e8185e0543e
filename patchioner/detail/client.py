"""A client of OpenAI-compatible chat servers: vLLM, Ollama, llama.cpp, and the paid ones.

Connections, proxies, TLS and the kinds of error are the `openai` package's. Its own retries are off: they would escape
the budget, could not be interrupted, and do not know a reply that is no chat completion.
"""

from __future__ import annotations

import base64
import email.utils
import io
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from PIL import Image

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.base.optional import require
from patchioner.detail.cache import Answer, CallCache, Question, clean_answer

T = TypeVar("T")
R = TypeVar("R")
_LOG = logging.getLogger(__name__)

DEFAULT_URL, DEFAULT_KEY_VARIABLE = "https://api.openai.com/v1", "OPENAI_API_KEY"
_SHORTEST_KEY = 6  # shorter ones are placeholders; hiding "x" would spoil every text
# What may be left out, or be put another way, when a server says that it does not know it.
_OPTIONAL = ("n", "seed", "top_p", "temperature", "max_tokens")
_PICTURE_TOKENS = 1_000  # about what the paid servers count for a photo of a thousand pixels


class EmptyAnswerError(DetailError):
    """A model answered, and said nothing; another sample may say something."""


@dataclass(frozen=True)
class Usage:
    """What was used: requests sent, and answered; tokens, for `estimated` calls estimated; the price."""

    calls: int = 0
    answered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: int = 0
    cost: float = 0.0


class Budget:
    """Counts, and refuses the call that would go over. Threads may share one; answers from a cache are free.

    Calls are counted when they are sent, so `max_calls` (tries again included) is never exceeded; the price, per
    million tokens sent and that came back, is known when a call is answered, so `max_cost` can be exceeded by the calls
    that were under way when it was reached.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        *,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        limits = {"max_calls": max_calls, "max_cost": max_cost}
        prices = {"price_in": price_in, "price_out": price_out}
        for name, value in (limits | prices).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name} is {value!r}; it must be a number, 0 or more")
        if max_cost is not None and not (price_in or price_out):
            raise OptionError(f"max_cost is {max_cost!r}: give the price per million tokens")
        self.max_calls, self.max_cost, self._prices = max_calls, max_cost, (price_in, price_out)
        self.usage = Usage()
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Count a call that is about to be sent; `FutileError` where the budget is spent."""
        with self._lock:
            used = self.usage
            if self.max_calls is not None and used.calls >= self.max_calls:
                raise FutileError(
                    f"the budget of {self.max_calls} calls is spent; raise max_calls (--max-calls) to go on"
                )
            if self.max_cost is not None and used.cost >= self.max_cost:
                raise FutileError(
                    f"the budget is spent: {used.cost:.4f} of {self.max_cost:.4f} after {used.calls} calls; "
                    "raise max_cost (--max-cost) to go on"
                )
            self.usage = replace(used, calls=used.calls + 1)

    def record(self, tokens_in: int, tokens_out: int, *, estimated: bool = False) -> None:
        """Count what a call that was answered took."""
        with self._lock:
            used = self.usage
            self.usage = Usage(
                used.calls,
                used.answered + 1,
                used.tokens_in + tokens_in,
                used.tokens_out + tokens_out,
                used.estimated + estimated,
                used.cost + (self._prices[0] * tokens_in + self._prices[1] * tokens_out) / 1e6,
            )


@dataclass(frozen=True)
class Reply:
    """What one request gave: cleaned texts without the empty ones; why those are empty, in the server's words; tokens
    as counted by the server, or `estimated`."""

    texts: tuple[str, ...]
    finish: str
    tokens_in: int
    tokens_out: int
    estimated: bool


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: in words; whether the same may succeed later, in how many seconds by the server; whether
    no other request would fare better."""

    reason: str
    retry: bool = False
    wait: float | None = None
    futile: bool = False

    def error(self, prefix: str) -> DetailError:
        """The exception that says so."""
        return (FutileError if self.futile else DetailError)(prefix + self.reason)


def data_url(image: Image.Image, *, max_side: int = 1024, quality: int = 90) -> str:
    """A photo as a JPEG in a data URL, its longer side brought down to `max_side` pixels, never up."""
    fitted = image.convert("RGB")
    fitted.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    fitted.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def read_reply(body: str, request: Mapping[str, Any]) -> Reply | Failure:
    """The texts in the JSON of /chat/completions, or a failure that may pass where `body` is no such reply.

    The request's messages tell how many tokens were sent where the reply does not.
    """
    try:
        reply = json.loads(body)
        read = [_text_of(choice) for choice in reply["choices"]]
        finish = ", ".join(sorted({_finish_of(choice) for choice in reply["choices"]}))
        usage = reply.get("usage")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = f"{type(error).__name__}: {str(error)[:80]}"
        return Failure(f"the reply is not a chat completion ({kind})", retry=True)
    if not read:
        return Failure("the reply has no choices", retry=True)
    texts = tuple(text for text in map(clean_answer, read) if text)
    used = usage if isinstance(usage, dict) else {}
    counts = [used.get("prompt_tokens"), used.get("completion_tokens", 0)]
    if all(type(one) is int and one >= 0 for one in counts):
        return Reply(texts, finish or "no reason given", counts[0], counts[1], False)
    # Four characters are about a token; pictures have a lump sum.
    said = [message["content"] for message in request["messages"]]
    parts = [part for one in said for part in ([{"text": one}] if isinstance(one, str) else one)]
    sent = sum(len(one["text"]) // 4 + 1 if "text" in one else _PICTURE_TOKENS for one in parts)
    came = sum(len(text) // 4 + 1 for text in read)
    return Reply(texts, finish or "no reason given", sent, came, True)


def _text_of(choice: Any) -> str:
    content = choice["message"].get("content")
    if isinstance(content, list):  # some servers send parts
        parts = [part for part in content if isinstance(part, dict) and part.get("text")]
        content = "".join(part["text"] for part in parts)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is of type {type(content).__name__}")
    return content or ""


def _finish_of(choice: Any) -> str:
    refusal = choice["message"].get("refusal")
    return clean_answer(str(refusal or choice.get("finish_reason") or ""))[:80]


def refused_parameter(error: Any, request: Mapping[str, Any]) -> str | None:
    """Which optional parameter of a request a server says it does not take (HTTP 400 or 422); None for other errors."""
    if getattr(error, "status_code", None) not in (400, 422):
        return None
    said = f"{getattr(error, 'message', '')} {json.dumps(getattr(error, 'body', ''), default=str)}"
    for name in _OPTIONAL:
        quoted = any(f"{mark}{name}{mark}" in said for mark in "'\"`")
        if name in request and (getattr(error, "param", None) == name or quoted):
            return name
    # llama.cpp and others name no parameter.
    return "n" if request.get("n", 1) > 1 and "one completion" in said.lower() else None


def judge(error: Any) -> Failure | None:
    """What an exception of the `openai` package means; None where it is none of a server's or a connection's."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in names:
        return Failure("no answer in time", retry=True)
    if "APIConnectionError" in names:
        cause = type(error.__cause__).__name__ if error.__cause__ else "no more is known"
        return Failure(f"the connection failed ({cause})", retry=True)
    if "APIStatusError" not in names:
        return None
    status = int(error.status_code)
    said = " ".join(str(error.message).split()).removeprefix(f"Error code: {status} - ")
    reason = f"HTTP {status}: {said[:300]}"
    if status == 429 and getattr(error, "code", None) == "insufficient_quota":
        return Failure(f"{reason}; the account's quota is spent", futile=True)
    if status == 403 and refused_content(getattr(error, "body", None)):
        return Failure(f"{reason}; the server refuses this content")
    if status in (401, 403):
        return Failure(f"{reason}; check the key, and the variable that holds it", futile=True)
    if status == 404:
        return Failure(f"{reason}; check the model's name and the base URL", futile=True)
    if status in (408, 409, 429) or status >= 500:
        return Failure(reason, retry=True, wait=retry_after(error.response.headers))
    return Failure(reason)


# Codes of OpenAI, Azure ("ResponsibleAIPolicyViolation"), DashScope ("data_inspection_failed") and their like.
_CONTENT_CODE = re.compile(
    r"content.?(policy|filter|moderation|violation)|prohibited.?content|moderation|safety|sensitive|"
    r"responsible.?ai|data.?inspection",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"\b(content|inputs?|images?|pictures?|photos?|prompts?)\b", re.IGNORECASE)
_RULE = re.compile(
    r"\b(violat\w+|flagged|moderat\w+|unsafe|safety|inappropriate|polic(y|ies)|guidelines)\b", re.I
)
_ABOUT_WHO = re.compile(
    r"\b(keys?|account|organi[sz]ation|project|billing|credentials?|subscription|permissions?|region|country|ip)\b",
    re.IGNORECASE,
)


def refused_content(body: Any) -> bool:
    """Whether the error in a reply with HTTP 403 is about what was asked or shown, and not about who asks.

    Decided by the fields that machines read, else by words that speak of content and a rule that it breaks, and not of
    an account. In doubt it is the key.
    """
    fields = body if isinstance(body, Mapping) else {}
    inner, metadata = fields.get("innererror"), fields.get("metadata")
    codes = [fields.get("code"), fields.get("type")]
    codes += [inner.get("code")] if isinstance(inner, Mapping) else []
    if any(_CONTENT_CODE.search(code) for code in codes if isinstance(code, str)):
        return True
    if isinstance(metadata, Mapping) and metadata.get("flagged_input"):
        return True
    message = fields.get("message") if fields else body
    if not isinstance(message, str) or _ABOUT_WHO.search(message):
        return False
    return _CONTENT.search(message) is not None and _RULE.search(message) is not None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (seconds or a date, RFC 9110 10.2.3); None without."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, date.timestamp() - time.time())
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def public_url(address: str) -> str:
    """An http(s) address without user, password and query: fit to be shown.

    `OptionError`: it is none; the message does not repeat it, since it may well be a key in the wrong place.
    """
    try:
        parts = urlsplit(address)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(
            "the base URL is no http(s) address; it looks like 'http://localhost:8000/v1'"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))


def _key(variable: str | None, address: str) -> str | None:
    """The key that the environment holds; needed where its variable is named, and by OpenAI's own server."""
    name, parts = variable or DEFAULT_KEY_VARIABLE, urlsplit(address)
    key = os.environ.get(name, "").strip()
    if not key:
        if variable is not None or parts.hostname == "api.openai.com":
            raise OptionError(
                f"the environment variable {name!r} holds no key; set it, or give the base URL of a server that "
                "needs none"
            )
        return None
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"the key in {name!r} has characters that no key has; copy it again")
    host = parts.hostname or ""
    if parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127."):
        _LOG.warning(
            "the key goes to %s unencrypted; use https, or unset its variable", public_url(address)
        )
    return key


class ChatClient:
    """Asks one model of one server. Threads may share it.

    The key comes from the environment and is in no message, setting, log or file; should a server send it back, it is
    blotted out. 408, 409, 429, 5xx, timeouts, cut connections and replies that are no chat completion are tried again
    with growing random pauses, or as `Retry-After` asks; other failures are not. After one that no other call would
    survive (a refused key, no such model) nothing is sent any more.

    Args:
        model: its id, as the server calls it.
        base_url: such as "http://localhost:8000/v1". None: the variable OPENAI_BASE_URL, or OpenAI itself.
        key_env: environment variable that holds the key. None: OPENAI_API_KEY, which may be absent for other servers.
        timeout: seconds for one attempt.
        concurrency: most requests under way at once; one that waits to try again keeps its place.
        attempts: most tries of a request.
        longest: most seconds to wait before a try; a server that asks for more is not waited for.
        budget: counts and limits; None counts without limits.
        sleep: waits that many seconds; for tests. None: really waits, until `interrupt`.

    Raises:
        OptionError: a value that makes no sense, no http(s) address, no key where one is needed.
        MissingExtraError: without the extra `api`.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_env: str | None = None,
        timeout: float = 120.0,
        concurrency: int = 4,
        attempts: int = 6,
        longest: float = 60.0,
        budget: Budget | None = None,
        cache: CallCache | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if not model:
            raise OptionError("no model is named; give its id, as in openai:gpt-4o-mini")
        whole = {"concurrency": concurrency, "attempts": attempts}
        for name, value in {"timeout": timeout, **whole}.items():
            if isinstance(value, bool) or not value > 0 or (name in whole and value != int(value)):
                raise OptionError(f"{name} is {value!r}; it must be a number above 0")
        self._address = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        self.model, self.concurrency, self.url = model, concurrency, public_url(self._address)
        self.budget, self.cache = budget or Budget(), cache
        self._secrets = _Secrets(_key(key_env, self._address), urlsplit(self._address).password)
        self._attempts, self._longest, self._sleep = attempts, longest, sleep
        self._final: Failure | None = None
        self._left, self._stopped = threading.Event(), False
        self._places = threading.BoundedSemaphore(concurrency)
        self._refused: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._client: Any = require("openai", "api").OpenAI(
            base_url=self._address,
            api_key=self._secrets.key or "no-key",
            timeout=timeout,
            max_retries=0,
        )
        self._address = self.url

    def __repr__(self) -> str:
        return f"{self.model} at {self.url}"

    @property
    def settings(self) -> dict[str, object]:
        """Model and address, ready for JSON; no secrets."""
        return {"text_model": "openai", "model": self.model, "base_url": self.url}

    @property
    def identity(self) -> str:
        """The model's id in questions."""
        return f"openai:{self.model}"

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
        self._stopped = True
        self.interrupt()

    def pauses(self) -> Callable[[float], object]:
        """What waits that many seconds, and raises `DetailError` once the calls under way now are interrupted."""
        left = self._left

        def pause(seconds: float) -> None:
            if left.wait(seconds):
                raise self._interrupted().error(f"{self}: ")

        return pause

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """One answer's text, never empty, from the cache where it is there (a `TextModel`)."""
        asking: Any = {"temperature": float(temperature), "max_tokens": int(max_tokens)}
        question = Question("fuse", self.identity, user, system, sampling=asking, seed=seed)

        def answer() -> Answer:
            return Answer(self.complete(system, user, **asking, seed=seed)[0])

        if self.cache is None:
            return answer().text
        return self.cache.answer(question, answer, pause=self.pauses()).text

    def complete(
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
            picture: data URL, shown ahead of the words.
            n: answers wanted.

        Raises:
            DetailError: no answer; `EmptyAnswerError` where it holds no text, `FutileError` where no other call would
                fare better: budget, key, model.
        """
        shown = [] if picture is None else [{"type": "image_url", "image_url": {"url": picture}}]
        content: Any = [*shown, {"type": "text", "text": user}] if shown else user
        told = [{"role": "system", "content": system}] if system else []
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [*told, {"role": "user", "content": content}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        request |= {"top_p": top_p} if top_p < 1 else {}
        request |= {} if seed is None else {"seed": seed}
        request |= {"n": n} if n > 1 else {}
        left = self._left
        with self._places:
            reply = self._tried(request, left)
        if not reply.texts:
            raise EmptyAnswerError(
                f"{self}: the answer is empty ({self._secrets.hide(reply.finish)}); raise max_tokens, or ask another "
                "model"
            )
        return [self._secrets.hide(text) for text in reply.texts[:n]]

    def map(self, action: Callable[[T], R], items: Iterable[T]) -> list[R | DetailError]:
        """`action` on every item, as many at once as requests may be; in order, a `DetailError` in its place."""

        def caught(item: T) -> R | DetailError:
            try:
                return action(item)
            except FutileError:
                raise
            except DetailError as error:
                return error

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="chat") as pool:
            futures = [pool.submit(caught, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException as error:
                if not isinstance(error, FutileError):
                    self.interrupt()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _interrupted(self) -> Failure:
        return Failure("interrupted", futile=self._stopped)

    def _tried(self, request: dict[str, Any], left: threading.Event) -> Reply:
        """Try until there is a reply, or a failure is final."""
        attempt = 1
        while True:
            outcome = self._attempt(request, left)
            if isinstance(outcome, Reply):
                return outcome
            if not outcome.retry:
                raise outcome.error(f"{self}: ")
            asked = outcome.wait or 0.0
            if asked > self._longest:
                raise DetailError(
                    f"{self}: {outcome.reason}; it asks to wait {asked:.0f} s, longer than the {self._longest:.0f} s "
                    "that are allowed: try again later"
                )
            if attempt >= self._attempts:
                raise DetailError(
                    f"{self}: {outcome.reason}, {attempt} times; is the server up, and its limits kept?"
                )
            # Random, so that many clients do not come back all at once; on top of what was asked, a little.
            growing = 1.0 if asked else min(self._longest, 2.0 ** (attempt - 1))
            attempt += 1
            (self._sleep or left.wait)(asked + random.random() * growing)

    def _attempt(self, request: dict[str, Any], left: threading.Event) -> Reply | Failure:
        """One request; sent again at once, without it, when the server refuses an optional parameter."""
        while True:
            if left.is_set():
                return self._interrupted()
            if self._final is not None:
                return self._final
            sent = {name: value for name, value in request.items() if name not in self._refused}
            if "max_tokens" in self._refused:  # the newer name takes its place
                sent["max_completion_tokens"] = request["max_tokens"]
            self.budget.reserve()
            outcome = self._send(sent)
            if not isinstance(outcome, str):
                break
            with self._lock:
                if outcome not in self._refused:
                    self._refused += (outcome,)
                    _LOG.warning("%s takes no %r; asking without it", self, outcome)
        if isinstance(outcome, Reply):
            self.budget.record(outcome.tokens_in, outcome.tokens_out, estimated=outcome.estimated)
        elif outcome.futile:
            self._final = outcome
        return outcome

    def _send(self, request: dict[str, Any]) -> Reply | Failure | str:
        """The reply, why there is none, or the name of a parameter to leave out."""
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
            return read_reply(raw.text, request)
        except Exception as error:
            parameter, failure = refused_parameter(error, request), judge(error)
            if failure is None:
                raise
        # Outside the except block: the library's exception, which may quote the key, is not to hang on to ours.
        return parameter or replace(failure, reason=self._secrets.hide(failure.reason))


class _Secrets:
    """A key and a password that are shown to nobody, and not pickled."""

    def __init__(self, key: str | None, password: str | None) -> None:
        self.key, self._password = key, password

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a client is not pickled: it may hold a key")

    def hide(self, text: str) -> str:
        """The text with the secrets blotted out."""
        for secret in (self.key, self._password):
            if secret and len(secret) >= _SHORTEST_KEY:
                text = text.replace(secret, "***")
        return text
