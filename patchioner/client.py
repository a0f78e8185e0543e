"""A client of `patchioner serve`, of the standard library alone: photos and regions in, plain dictionaries out."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from patchioner.base.errors import ImageError, ServerError
from patchioner.regions import Region
from patchioner.serve import content_id

Source: TypeAlias = "str | os.PathLike[str] | bytes"
Regions: TypeAlias = "Sequence[Region | Mapping[str, Any]] | None"
Answers: TypeAlias = list[dict[str, Any]]
_PATIENCE = 60  # seconds that a busy server is asked again for
_EVICTED = 20  # times that a photo is sent again
_BROKEN = (OSError, ValueError, http.client.HTTPException)


class Client:
    """A server; `timeout` are seconds for one request.

    ServerError: it cannot be reached, or refuses; `kind` is its word for why.

    Example:
        >>> Client("http://127.0.0.1:8000").caption("photo.jpg")[0]["text"]  # doctest: +SKIP
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 150.0) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._headers = {"Content-Type": "application/json", **bearer}

    def models(self) -> Answers:
        """The server's model, what it can do, and its limits."""
        return list(_load(self._send("/v1/models"))["data"])

    def encode(self, photo: Source) -> dict[str, Any]:
        """Send a photo: its id, width, height and grid. The other methods do so themselves, and again if need be."""
        return dict(_load(self._send("/v1/images", {"image": base64.b64encode(_read(photo)).decode()})))

    def caption(self, photo: Source, regions: Regions = None, **options: Any) -> Answers:
        """A caption for each region, or ``{"error": ...}``; options are those of docs/serve.md, as `candidates`."""
        return list(self._ask(photo, "captions", regions, options)["captions"])

    def label(self, photo: Source, regions: Regions, names: list[str], **options: Any) -> Answers:
        """The likeliest name for each region, or ``{"error": ...}``; an option is `threshold`."""
        return list(self._ask(photo, "labels", regions, {**options, "names": names})["labels"])

    def embed(self, photo: Source, regions: Regions = None) -> list[Any]:
        """The embedding of each region as a list of numbers, or ``{"error": ...}``."""
        return list(self._ask(photo, "embed", regions, {})["embeddings"])

    def explain(self, photo: Source, region: Region | Mapping[str, Any], k: int = 5) -> Any:
        """Nearest memory texts and patch weights of one region."""
        return self._ask(photo, "explain", None, {"region": _plain(region), "k": k})

    def find(self, photo: Source, text: str) -> list[list[float]]:
        """How near each patch is to the words: cosines in rows of columns."""
        return list(self._ask(photo, "patches", None, {"text": text})["similarities"])

    def detail(self, photo: Source, seed: int = 0) -> Iterator[dict[str, Any]]:
        """The sentences of a long description, each with the regions that it speaks of."""
        name = b""
        for line in _lines(self._known(_read(photo), "detail", {"seed": seed})):
            field, _, value = line.strip().partition(b": ")
            name = value if field == b"event" else name
            if field == b"data" and name != b"done":
                if name == b"error":
                    raise _refusal(json.loads(value))
                yield json.loads(value)

    def _ask(self, photo: Source, verb: str, regions: Regions, options: Mapping[str, Any]) -> Any:
        given = {} if regions is None else {"regions": [_plain(one) for one in regions]}
        return _load(self._known(_read(photo), verb, {**options, **given}))

    def _known(self, data: bytes, verb: str, body: Mapping[str, Any]) -> Any:
        """The answer about a photo; it is sent where the server does not have it."""
        path = f"/v1/images/{content_id(data)}/{verb}"
        for _ in range(_EVICTED):  # others may fill the server's memory in between
            try:
                return self._send(path, body)
            except ServerError as error:
                if error.kind != "unknown_image":
                    raise
            self.encode(data)
        return self._send(path, body)

    def _send(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                request = urllib.request.Request(self._url + path, data, self._headers)
                return urllib.request.urlopen(request, timeout=self._timeout)
            except urllib.error.HTTPError as error:
                pause = float(error.headers.get("Retry-After") or 1)
                refusal = _refusal(_load(error))
                if error.code != 429 or time.monotonic() + pause > until:
                    raise refusal from None
                time.sleep(pause)
            except _BROKEN as error:
                raise ServerError(f"no {self._url}: {error}", "unreachable") from error


def _load(answer: Any) -> Any:
    try:
        return json.loads(b"".join(_lines(answer)))
    except ValueError:
        raise ServerError("the answer is no JSON: is it patchioner serve?") from None


def _refusal(said: Any) -> ServerError:
    try:
        return ServerError(str(said["error"]["message"]), str(said["error"]["type"]))
    except (KeyError, TypeError):
        return ServerError(f"no answer of patchioner serve: {said!r:.80}")


def _lines(answer: Any) -> Iterator[bytes]:
    try:
        with answer:
            yield from answer
    except _BROKEN as error:
        raise ServerError(f"the answer broke off: {error}") from error


def _read(photo: Source) -> bytes:
    try:
        return photo if isinstance(photo, bytes) else Path(photo).read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{str(photo)!r} cannot be read: {error}") from error


def _plain(region: Region | Mapping[str, Any]) -> Any:
    return region.to_json() if isinstance(region, Region) else region
