"""A client of OpenAI-compatible chat servers: vLLM, Ollama, llama.cpp, and the paid ones.

Connections, redirects, proxies and TLS are the `openai` package's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.base.files import check
from patchioner.base.optional import require
from patchioner.detail import models
from patchioner.detail.models import Asked, EmptyAnswerError, Question, Take, clean_answer
from patchioner.images import data_url

_LOG = logging.getLogger(__name__)
DEFAULT_URL, DEFAULT_KEY_VARIABLE = "https://api.openai.com/v1", "OPENAI_API_KEY"
_SHORTEST_KEY = 6  # shorter ones are placeholders; hiding "x" would spoil every text
# What may be left out, or be put another way, when a server says that it does not know it.
_OPTIONAL = ("n", "seed", "temperature", "max_tokens")
_PICTURE_TOKENS = 1_000  # about what the paid servers count for a photo of a thousand pixels
_HINTS = dict.fromkeys((401, 403), "check the key, and the variable that holds it")
_HINTS |= dict.fromkeys((404, 405), "check the model's name and the base URL")
_LONGEST_PAUSE = 120.0  # seconds: a server that asks for more is given up


@dataclass
class Budget:
    """Counts, and refuses the call that would go over. Threads may share one; answers from a cache are free.
    `max_calls`: most calls sent, tries again included. `max_cost`: most to spend, by `price_in` and `price_out` of a
    million tokens, which calls under way may exceed. Tokens are estimated for `estimated` calls."""

    max_calls: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    calls: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    tokens_in: int = field(default=0, init=False)
    tokens_out: int = field(default=0, init=False)
    estimated: int = field(default=0, init=False)
    cost: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check("int [0, inf) or None", self, "max_calls")
        check("[0, inf) or None", self, "max_cost")
        check("[0, inf)", self, "price_in price_out")
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise OptionError(f"max_cost is {self.max_cost!r}: give the price per million tokens")
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Count a call that is about to be sent; `FutileError` where the budget is spent."""
        with self._lock:
            for what, most in (("calls", self.max_calls), ("cost", self.max_cost)):
                if most is not None and getattr(self, what) >= most:
                    raise FutileError(f"the budget of {most} {what} is spent; raise max_{what} (--max-{what}) to go on")
            self.calls += 1

    def record(self, tokens_in: int, tokens_out: int, *, estimated: bool = False) -> None:
        """Count what a call that was answered took."""
        with self._lock:
            self.answered += 1
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self.estimated += estimated
            self.cost += (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6


class Reply(NamedTuple):
    """Cleaned texts without the empty ones; why they are so few, by the server; tokens, counted or estimated."""

    texts: tuple[str, ...]
    finish: str
    tokens_in: int
    tokens_out: int
    estimated: bool


class PassingError(DetailError):
    """What may pass: a busy server, HTTP 200 without a chat completion. `after`: seconds that it asks to be given."""

    after: float = 0.0


def read_reply(body: str, request: Mapping[str, Any]) -> Reply | DetailError:
    """The texts in the JSON of /chat/completions, or why there are none; tokens are estimated from the request where
    the reply does not count them. The pieces of a stream that was not asked for are put together."""
    try:
        text = body.lstrip("\ufeff \r\n")
        reply = _of_stream(text) if text.startswith(("data:", "event:", ":")) else json.loads(text)
        reply = reply[0] if isinstance(reply, list) else reply  # Gemini's errors
        choices = reply.get("choices") or []
        read = [_text_of(choice) for choice in choices]
        said = [_message(one).get("refusal") or one.get("finish_reason") for one in choices]
        if reply.get("error") or not any(read):
            for one in filter(words_of_error, [*(one.get("error") for one in choices), reply]):
                return _error_within(one)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = f"({type(error).__name__}: {str(error)[:80]}): {_line(body)[:80]}"
        return PassingError(f"the reply is no chat completion {what}; does the base URL end in /v1?")
    if not read:
        return PassingError("the reply has no choices; does the base URL end in /v1?")
    texts = tuple(text for text in map(clean_answer, read) if text)
    finish = ", ".join(sorted({clean_answer(str(one))[:80] for one in said if one})) or "no reason"
    used = reply["usage"] if isinstance(reply.get("usage"), dict) else {}
    counts = [used.get("prompt_tokens"), used.get("completion_tokens", 0)]
    if all(type(one) is int and one >= 0 for one in counts):
        return Reply(texts, finish, counts[0], counts[1], False)
    # Four characters are about a token; pictures have a lump sum.
    contents = [message["content"] for message in request["messages"]]
    parts = [part for one in contents for part in ([{"text": one}] if isinstance(one, str) else one)]
    sent = sum(len(one["text"]) // 4 + 1 if "text" in one else _PICTURE_TOKENS for one in parts)
    return Reply(texts, finish, sent, sum(len(text) // 4 + 1 for text in read), True)


def _of_stream(text: str) -> dict[str, Any]:
    """What server-sent events come to: the pieces of each choice in a row."""
    lines = [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]
    events = [json.loads(line) for line in lines if line and line != "[DONE]"]
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        whole.update((name, value) for name, value in event.items() if value)
        for piece in event.get("choices") or ():
            choice = choices.setdefault(piece.get("index", 0), {"message": {"content": ""}})
            choice["message"]["content"] += _text_of(piece)
            choice["finish_reason"] = piece.get("finish_reason") or choice.get("finish_reason")
    ended = "[DONE]" in lines or all(one["finish_reason"] for one in choices.values())
    if not ended and not whole.get("error"):
        raise ValueError("the stream is cut off")
    return {**whole, "choices": list(choices.values())}


def _message(choice: Any) -> Any:
    """Of a choice; servers of old have its text in its place, others a piece of a stream."""
    found = choice.get("message", choice.get("delta"))
    return {"content": choice["text"]} if found is None else found


_THOUGHT = ("thinking", "reasoning", "reasoning_text", "summary")


def _text_of(choice: Any) -> str:
    content = [] if choice.get("error") else _message(choice).get("content")
    if isinstance(content, (list, dict)):  # some servers send parts
        parts = content if isinstance(content, list) else [content]
        parts = [{"text": one} if isinstance(one, str) else one for one in parts]
        texts = [one.get("text") for one in parts if one.get("type") not in _THOUGHT]
        texts = [one.get("value") if isinstance(one, dict) else one for one in texts]
        content = "".join(one for one in texts if one)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is of type {type(content).__name__}")
    if choice.get("finish_reason") in ("length", "max_tokens", "MAX_TOKENS"):
        return models.whole_sentences(content or "")
    return content or ""


def words_of_error(body: object) -> str:
    """A server's words on what went wrong, wherever it puts them in its JSON; "" where there are none."""
    if isinstance(body, list):
        return next(filter(None, map(words_of_error, body)), "")
    if not isinstance(body, Mapping):
        return body if isinstance(body, str) else ""
    names = ("error", "message", "detail", "error_msg", "msg", "errors", "base_resp", "status_msg")
    return next(filter(None, (words_of_error(body.get(name)) for name in names)), "")


# A status or name of what may pass, where a reply with HTTP 200 tells of an error.
_PASSING = re.compile(r"(?i)rate.?limit|overload|unavailable|time.?out|server.?error|loading|busy")


def _error_within(body: Any) -> DetailError:
    """What an error in a reply with HTTP 200 means."""
    said = words_of_error(body)
    body = body if isinstance(body, Mapping) else {}
    fields = body["error"] if isinstance(body.get("error"), Mapping) else body
    codes = [str(fields.get(name)) for name in ("code", "status", "status_code", "type")]
    if statuses := [int(one) for one in codes if re.fullmatch("[45][0-9][0-9]", one)]:
        return judge(statuses[0], said, fields)
    kind = PassingError if any(map(_PASSING.search, codes)) else DetailError
    return kind(f"the server answers with an error: {_line(said)}")


def _line(text: str) -> str:
    """A server's words in a line; of a web page without its marks."""
    if re.match(r"\s*<[!?a-z]", text, re.IGNORECASE):
        text = re.sub(r"(?is)<(script|style|svg)\b.*?</\1>|<[^<>]*>", " ", text[:10_000])
    return clean_answer(" ".join(text.split()), limit=300)


def judge(status: int, said: str, body: object = None) -> DetailError:
    """What a reply with a status of 300 or more means; `FutileError` where no other request would fare better."""
    about = json.dumps(body, default=str)
    reason, told = f"HTTP {status}: {_line(said)}", f"{said} {about}"
    if status == 402 or re.search(_SPENT, told):
        return FutileError(f"{reason}; the account's quota is spent")
    if re.search(_BLIND, told):
        return FutileError(f"{reason}; ask a model that sees pictures")
    if status == 403 and re.search(_CONTENT, about) and not re.search(_WHO, about):
        return DetailError(f"{reason}; the server refuses this content")
    if status in _HINTS:
        return FutileError(f"{reason}; {_HINTS[status]}")
    passing = status in (408, 409, 425, 429) or status >= 500
    return PassingError(reason) if passing else DetailError(reason)


_SPENT = r"(?i)insufficient.?(quota|balance|credit|fund)|billing.?hard.?limit|balance.?is.?too.?low|arrearage"
_BLIND = (
    r"(?i)\bmmproj\b|not a multimodal model|(image|vision)( input)?s? (is|are) not supported|"
    r"(model|endpoint)s?.{0,60}(not|n't) support.{0,20}(image|vision)"
)
# Codes and words of OpenAI, Azure, DashScope and their like about what was asked or shown, of HTTP 403; about who asks.
_CONTENT = (
    r"(?i)content.?(policy|filter|moderation|violat)|prohibited.?content|moderat|safety|sensitive|flagged|unsafe|"
    r"inappropriate|responsible.?ai|data.?inspection"
)
_WHO = r"(?i)\b(keys?|account|organi[sz]ation|project|billing|credentials?|subscription|permissions?|country|ip)\b"


def asked_to_wait(headers: Mapping[str, str], said: str) -> float:
    """Seconds that a busy server asks to be given, in its headers (a number or a date) or its words; else 0."""
    told = headers.get("retry-after", "")
    with suppress(ValueError):
        return float(told)
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(told).timestamp() - time.time()
    found = re.search(r"(?:(?:try again|retry) in|retry.?(?:delay|after))\W*(\d+(?:\.\d+)?) ?s\b", said, re.I)
    return float(found[1]) if found else 0.0


def refused_parameter(error: Any, request: Mapping[str, Any]) -> str | None:
    """Which optional parameter of a request a server says it does not take (HTTP 400 or 422)."""
    if error.status_code not in (400, 422):
        return None
    said = f"{error.message} {json.dumps(error.body, default=str)}"
    for name in _OPTIONAL:
        told = (
            rf"(['\"`]){name}\1|\b(parameter|argument|field|supplied|name)\W{{1,3}}{name}\b|"
            rf"\b{name}\b\W{{1,2}}(extra inputs|must be|is not|unsupported|not (supported|permitted))"
        )
        if name in request and (getattr(error, "param", None) == name or re.search(told, said, re.IGNORECASE)):
            return name
    # llama.cpp and others name no parameter.
    return "n" if request.get("n", 1) > 1 and "one completion" in said.lower() else None


def public_url(address: str) -> str:
    """An http(s) address without user, password and query. `OptionError`, which does not repeat what may well be a key
    in the wrong place: it is none."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port
        good = False
    if not good:
        raise OptionError("the base URL is no http(s) address; it looks like 'http://localhost:8000/v1'")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _key(variable: str | None, address: str) -> str | None:
    """The key that the environment holds; needed where its variable is named, and by OpenAI's own server."""
    name, parts = variable or DEFAULT_KEY_VARIABLE, urlsplit(address)
    key, host = os.environ.get(name, "").strip(), parts.hostname or ""
    if not key and variable is None and host != "api.openai.com":
        return None
    if not key:
        raise OptionError(f"the environment variable {name!r} holds no key; set it, or ask a server that needs none")
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"the key in {name!r} has characters that no key has; copy it again")
    if parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127."):
        _LOG.warning("the key goes to %s unencrypted; use https, or unset its variable", host)
    return key


class ChatClient(models.AskedModel):
    """Asks one model of one server. Threads may share it.

    The key is in no message, setting, log or file, and blotted out where a server sends it back. What may pass (408,
    409, 425, 429, 5xx, timeouts, cut connections, no chat completion) is tried again, `attempts` times in all, with
    growing random pauses or as the server asks, up to two minutes; after a refused key, an unknown model or a redirect
    to another host, which gets nothing, nothing is sent any more.
    `OptionError`, `MissingExtraError`: an argument that makes no sense, no key; without the extra `api`.

    `base_url`: such as "http://localhost:8000/v1"; None: the variable OPENAI_BASE_URL, or OpenAI itself. `key_env`: the
    environment variable that holds the key; None: OPENAI_API_KEY, which may be absent for other servers. `timeout`:
    seconds for one attempt. `concurrency`: most requests under way at once, those that wait to try again included."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_env: str | None = None,
        timeout: float = 120.0,
        concurrency: int = 4,
        attempts: int = 6,
        budget: Budget | None = None,
        cache: models.CallCache | None = None,
    ) -> None:
        check("(0, inf)", timeout=timeout)
        check("int [1, inf)", concurrency=concurrency, attempts=attempts)
        address = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        self.model, self.concurrency, self.url = model, concurrency, public_url(address)
        self.budget, self.cache, self.identity = budget or Budget(), cache, f"openai:{model}"
        self.settings = {"text_model": "openai", "model": model, "base_url": self.url}
        self._attempts = attempts
        self._final: FutileError | None = None
        self._interrupts: set[threading.Event] = set()  # of `write`s under way
        self._stopped = False
        self._places = threading.BoundedSemaphore(concurrency)
        self._refused: set[str] = set()
        key = _key(key_env, address) or "none"
        openai: Any = require("openai", "api")
        http = openai.DefaultHttpxClient()
        # Retries are ours: the library's pauses cannot be cut short.
        self._client = openai.OpenAI(base_url=address, api_key=key, timeout=timeout, max_retries=0, http_client=http)
        http.event_hooks = {"request": [self._check_host]}

    def __repr__(self) -> str:
        return f"{self.model} at {self.url}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def stop(self) -> None:
        """Let calls fail from now on: those under way after the request that they are at, without a pause."""
        self._stopped = True
        for interrupt in tuple(self._interrupts):
            interrupt.set()

    def write(self, asked: Sequence[Asked], take: Take) -> None:
        """Samples of the same are one request, others go side by side."""
        groups: dict[str, list[Asked]] = {}
        for one in asked:
            groups.setdefault(replace(one[0], sample=0).key, []).append(one)
        interrupt = threading.Event()
        self._interrupts.add(interrupt)
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="chat") as pool:
            samples = partial(self._samples, take=take, interrupt=interrupt)
            try:
                for future in as_completed([pool.submit(samples, group) for group in groups.values()]):
                    future.result()
            except BaseException:
                interrupt.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                self._interrupts.discard(interrupt)

    def _samples(self, group: Sequence[Asked], take: Take, interrupt: threading.Event) -> None:
        questions, shown = [question for question, _ in group], group[0][1]
        url = None if shown is None else data_url(shown(), quality=90)
        while questions:
            texts: list[str] = []
            try:
                texts = self.complete(questions[0], url, len(questions), interrupt)
            except FutileError:
                raise
            except EmptyAnswerError as error:
                take(questions.pop(0), error)
            except DetailError as error:
                # It was tried as often as may be; the other samples would only take as long again.
                while questions:
                    take(questions.pop(0), error)
            for text in texts:
                take(questions.pop(0), models.Answer(text))

    def complete(
        self, question: Question, picture: str | None = None, n: int = 1, interrupt: threading.Event | None = None
    ) -> list[str]:
        """At most `n` answers; fewer where the server takes no `n`, or some were empty. `picture` is a data URL.
        `DetailError`: none; `EmptyAnswerError`: it has no text; `FutileError`: no other call would fare better."""
        content: Any = question.user
        if picture is not None:
            content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question.user}]
        messages = [{"role": "system", "content": question.system}] if question.system else []
        messages.append({"role": "user", "content": content})
        request: dict[str, Any] = {"model": self.model, "messages": messages}
        request |= {"seed": question.own_seed, **question.sampling, **({"n": n} if n > 1 else {})}
        interrupt = interrupt or threading.Event()
        with self._places:
            for turn in range(self._attempts):
                reply = self._send(request, interrupt)
                pause = reply.after if isinstance(reply, PassingError) else math.inf
                if pause > _LONGEST_PAUSE or turn + 1 == self._attempts:
                    break
                growing = min(0.5 * 2.0**turn, 60.0) * (1 - 0.25 * random.random())
                self._pause(pause if pause > 0 else growing, interrupt)
        if isinstance(reply, Reply) and not reply.texts:
            reply = EmptyAnswerError(f"the answer is empty ({reply.finish}); raise max_tokens, or ask another model")
        if isinstance(reply, DetailError):
            raise type(reply)(f"{self}: {self._hide(str(reply))}")
        return [self._hide(text) for text in reply.texts[:n]]

    def _send(self, request: dict[str, Any], interrupt: threading.Event) -> Reply | DetailError:
        """The reply, or why there is none; at once again without an optional parameter that the server refuses. The
        library's exceptions, which may quote the key, end here."""
        openai: Any = require("openai", "api")
        sent = {name: value for name, value in request.items() if name not in self._refused}
        if "max_tokens" in self._refused:  # the newer name takes its place
            sent["max_completion_tokens"] = request["max_tokens"]
        refused = None
        if interrupt.is_set() or self._stopped:
            return (FutileError if self._stopped else DetailError)("interrupted")
        if self._final is not None:
            return FutileError(*self._final.args)
        try:
            self.budget.reserve()
        except FutileError as error:
            return error  # a budget may be raised: not final
        try:
            raw = self._client.chat.completions.with_raw_response.create(**sent)
            found = read_reply(_decoded(raw), sent)
        except (DetailError, openai.APIConnectionError) as error:
            cause = error.__cause__ or error  # older releases wrap the error of `_check_host`
            said = f"no answer ({type(cause).__name__}), {self._attempts} times; is the server up?"
            found = cause if isinstance(cause, DetailError) else PassingError(said)
        except openai.APIStatusError as error:
            refused = refused_parameter(error, sent)
            found = judge(int(error.status_code), words_of_error(error.body) or str(error.message), error.body)
            if isinstance(found, PassingError):
                found.after = asked_to_wait(error.response.headers, error.response.text)
        if refused is not None:
            _LOG.warning("%s takes no %r; asking without it", self, refused)
            self._refused.add(refused)
            return self._send(request, interrupt)
        if isinstance(found, Reply):
            self.budget.record(found.tokens_in, found.tokens_out, estimated=found.estimated)
        elif isinstance(found, FutileError):
            self._final = FutileError(self._hide(str(found)))
        return found

    def _check_host(self, request: Any) -> None:
        """Ahead of each request: no photo goes where a redirect to another host leads."""
        if request.url.host != self._client.base_url.host:
            said = f"the server sends requests on to {request.url.host}, which got nothing"
            raise FutileError(f"{said}; give that server's own address as the base URL")

    def _pause(self, seconds: float, interrupt: threading.Event) -> None:
        interrupt.wait(seconds)

    def _hide(self, text: str) -> str:
        """Blot out the secrets, which the library alone holds: nobody sees, prints or pickles them."""
        for secret in (self._client.api_key, self._client.base_url.password):
            if secret and len(secret) >= _SHORTEST_KEY:
                text = text.replace(secret, "***")
        return text


def _decoded(raw: Any) -> str:
    """The text of a response: JSON is UTF-8, whatever its headers say."""
    try:
        return str(raw.content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return str(raw.text)
