"""What stands before every request: who may ask, how much, how many at once, for how long; and what is logged of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import logging
import re
import time
import uuid
from functools import partial

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchioner.serve.engine import Engine
from patchioner.serve.schemas import RequestError, told, too_large

logger = logging.getLogger("patchioner.serve")

_OPEN = ("/", "/health", "/ready")  # answered to anyone; so is the page's folder
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), geolocation=(), microphone=()"),
)
_CLIENT_LEFT = 499  # nginx's word for it; it stands in the log alone
_DRAIN = 2.0  # seconds for the rest of a request that is refused
_LARGEST = 16  # requests of the largest size that may be held at once
_NO_PHOTO = 8  # requests without a photo may have this part of the bytes
_busy = partial(RequestError, 429, "busy", "too many requests at once", 1)


class Guard:
    """ASGI middleware in front of an app; the engine's settings and queue decide, its metrics are told."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app, self._engine, self._settings = app, engine, engine.settings
        self._held = 0  # bytes of requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, method = time.monotonic(), scope["method"]
        # Whoever asks for the head alone gets that of GET; uvicorn leaves the body out.
        call = _Call({**scope, "method": "GET"} if method == "HEAD" else scope, send)
        try:
            self._check(call)
            if call.scope["method"] == "GET":
                await self._app(call.scope, receive, call.send)
            elif self._engine.is_full:
                raise _busy()
            else:
                await self._in_time(call, receive)
        except Exception as error:
            refused = told(error)
            if refused.status == 500:
                logger.exception("request %s failed", call.id)
            await call.refuse(refused, receive)
        finally:
            seconds = time.monotonic() - started
            self._engine.metrics.request(call.path, call.status, seconds)
            about = {"path": call.path, "status": call.status, "ms": round(1000 * seconds, 1)}
            logger.info("%s", json.dumps({"id": call.id, "method": method, **about}))

    def _check(self, call: _Call) -> None:
        """RequestError for whoever may not ask."""
        settings, path = self._settings, call.scope["path"]
        host = call.headers.get("host", "")
        if not (settings.token or settings.insecure):
            # A page of another site may have its own name point to this machine.
            name = re.sub(r":\d*$", "", host).strip("[].").lower()
            # HTTP/1.0, which no page speaks, has no name.
            if name not in ("", "localhost", "127.0.0.1", "::1", settings.host.lower()):
                raise RequestError(403, "forbidden", "this server does not go by that name")
        if (origin := call.headers.get("origin")) and origin.partition("://")[2] != host:
            raise RequestError(403, "forbidden", "pages of other sites may not ask this server")
        if settings.token is None or path in _OPEN or path.startswith("/static/"):
            return
        # compare_digest takes time that does not depend on where the two differ
        if not hmac.compare_digest(_token(call.headers.get("authorization", "")), settings.token.encode()):
            raise RequestError(401, "unauthorized", "send the header 'Authorization: Bearer TOKEN'")

    async def _in_time(self, call: _Call, receive: Receive) -> None:
        self._engine.active += 1
        try:
            async with asyncio.timeout(self._settings.deadline):
                body = await self._body(call, receive)
                if body is None:
                    call.status = _CLIENT_LEFT
                else:
                    await self._until_gone(call, body, receive)
        except TimeoutError:
            raise RequestError(504, "deadline", f"no answer within {self._settings.deadline:g} seconds") from None
        finally:
            self._engine.active -= 1
            self._held -= call.length

    async def _body(self, call: _Call, receive: Receive) -> bytes | None:
        """All of the request's body; None where the client left."""
        has_photo = not call.scope["path"].startswith("/v1/images/")
        most = self._settings.max_bytes // (1 if has_photo else _NO_PHOTO)
        refused = too_large(f"the request has more than {most:,} bytes")
        stated = call.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > most:
            raise refused
        parts = []
        while not call.is_read:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            call.is_read = not message.get("more_body", False)
            parts.append(message.get("body", b""))
            call.length += len(parts[-1])
            self._held += len(parts[-1])
            if call.length > most:
                raise refused
            if self._held > _LARGEST * self._settings.max_bytes:
                raise _busy()
        return b"".join(parts)

    async def _until_gone(self, call: _Call, body: bytes, receive: Receive) -> None:
        """Answer, unless the client leaves: then the work is cancelled and leaves the queue."""
        work = asyncio.ensure_future(self._app(call.scope, _replay(body), call.send))
        watch = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                call.status = _CLIENT_LEFT
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)


class PunctualProtocol(H11Protocol):
    """Uvicorn's HTTP, which does not wait for ever for the head of a request."""

    patience = 10.0  # seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the connection."""
        super().connection_made(transport)
        self._next = self.loop.call_later(self.patience, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch, which would keep what was asked in memory."""
        self._next.cancel()
        super().connection_lost(exc)

    def _look(self, before: object) -> None:
        """Close it where nothing has been asked since the last look."""
        if self.cycle is before and (before is None or self.cycle.response_complete):
            self.transport.close()
        else:
            self._next = self.loop.call_later(self.patience, self._look, self.cycle)


class _Call:
    """A request on its way: who asked, and what was answered so far."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.headers, self._send = scope, Headers(scope=scope), send
        self.id = uuid.uuid4().hex[:12]
        self.status, self.length = 500, 0
        self.is_read = self._begun = False

    @property
    def path(self) -> str:
        """The route's template; names of images and files stay out of logs."""
        if self.scope["path"].startswith("/static/"):
            return "/static"
        return str(getattr(self.scope.get("route"), "path", "other"))

    async def send(self, message: Message) -> None:
        """Pass on what is answered, with our headers."""
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            own = (b"x-request-id", self.id.encode())
            message = {**message, "headers": [*message["headers"], *_HEADERS, own]}
        await self._send(message)

    async def refuse(self, error: RequestError, receive: Receive) -> None:
        """Say why there is no answer, unless one has begun."""
        if self._begun:
            return
        # A client that is still sending would see the connection cut, not the answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                while not self.is_read:
                    self.is_read = not (await receive()).get("more_body", False)
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # Ollama's clients know a text only.
        said = str(error) if self.scope["path"].startswith("/api/") else error.to_dict()
        await JSONResponse({"error": said}, error.status, headers)(self.scope, receive, self.send)


def _token(header: str) -> bytes:
    """The token of a request: a bearer's, or the password of basic authentication (Label Studio's way)."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    return b""


def _replay(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # whether the client leaves is watched elsewhere
        return messages.pop()

    return receive


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
