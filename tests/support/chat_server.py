"""A local server that speaks the OpenAI chat protocol, and misbehaves when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reaction:
    """An answer: `body` as it is; `cut` "before" a word or "within" the body; `hang`: none until the server closes."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""
    hang: bool = False


def says(*texts: str | None, **more: Any) -> Reaction:
    """A well-formed reply with those answers."""
    said = [{"role": "assistant", "content": text} for text in texts]
    choices = [{"index": i, "finish_reason": "stop", "message": one} for i, one in enumerate(said)]
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    reply = {"id": "x", "object": "chat.completion", "choices": choices, "usage": usage, **more}
    return Reaction(json.dumps(reply).encode(), headers=JSON)


def fails(status: int, message: str = "no", *, headers: Any = None, **more: Any) -> Reaction:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "x", **more}}).encode()
    return Reaction(body, status, {**JSON, **(headers or {})})


def echo(request: Json) -> Reaction:
    """The default: as many answers as `n` asks for, each telling sample and seed."""
    seed = request.get("seed")
    return says(*(f"Answer {i} to seed {seed}." for i in range(request.get("n", 1))))


def once(request: Json) -> Reaction:
    """Like a server that ignores `n`."""
    return echo({**request, "n": 1})


class ChatServer:
    """Serves from entering to leaving; `script` says what to do with the first requests, `then` with all others.

    `requests` and `headers` (names in lower case) as they arrived; at `most` so many were under way together.
    """

    def __init__(self, *script: Reaction, then: Callable[[Json], Reaction] = echo) -> None:
        self._script, self._then = list(script), then
        self.requests: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._active = 0
        self._lock, self.released = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        # Polling often: leaving takes as long as one poll.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def react(self, request: Json, headers: dict[str, str]) -> Reaction:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self._active += 1
            self.most = max(self.most, self._active)
            scripted = self._script.pop(0) if self._script else None
        try:
            return scripted or self._then(request)
        finally:
            with self._lock:
                self._active -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reaction = server.react(request, headers)
                if reaction.hang:
                    server.released.wait(30)
                if reaction.hang or reaction.cut == "before":
                    self.close_connection = True
                    return
                self.send_response(reaction.status)
                for name, value in reaction.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reaction.body)))
                self.end_headers()
                body = reaction.body[: len(reaction.body) // 2] if reaction.cut else reaction.body
                self.wfile.write(body)
                self.close_connection = bool(reaction.cut)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on standard error."""

        return Handler
