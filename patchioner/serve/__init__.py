"""A server of one model (extra ``[serve]``): its own API, OpenAI's and Ollama's, a Label Studio backend, and a page."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchioner.base.errors import OptionError
from patchioner.base.files import check


def content_id(photo: bytes) -> str:
    """What a photo is called: 32 hexadecimal digits of its file's SHA-256."""
    return hashlib.sha256(photo).hexdigest()[:32]


def _option(default: Any, meaning: str, form: str | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": meaning, "metavar": form}, **more)


@dataclass(frozen=True)
class ServeSettings:
    """How the server is run. OptionError: a number out of bounds, no such folder, others let in without a token."""

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(8000, "port to listen on", "N")
    token: str | None = _option(None, "clients must send it ($PATCHIONER_TOKEN)", repr=False)
    insecure: bool = _option(False, "allow others to reach it without a token")
    root: Path | None = _option(None, "requests may name its photos; the page reviews", "FOLDER")
    workers: int = _option(1, "threads that run the model", "N")
    cache_bytes: int = _option(2**30, "of encoded photos that are kept", "N")
    queue: int = _option(128, "requests under way at once; more are told to come back", "N")
    deadline: float = _option(120.0, "for one request", "SECONDS")
    max_bytes: int = _option(32 * 2**20, "of a request", "N")
    max_pixels: int = _option(50_000_000, "of a photo", "N")
    max_regions: int = _option(1024, "of a request", "N")

    def __post_init__(self) -> None:
        check("int [1, inf)", self, "workers queue max_bytes max_pixels max_regions")
        check("int [0, inf)", cache_bytes=self.cache_bytes)
        check("int [0, 65535]", port=self.port)  # 0: a free one
        check("[1, inf)", deadline=self.deadline)
        if self.root is not None and not self.root.is_dir():
            raise OptionError(f"--root {str(self.root)!r} is no folder")
        if self.token is not None and not (self.token.isascii() and len(self.token.strip()) >= 8):
            raise OptionError("the token is too easily guessed: give 8 ASCII characters or more")
        if not (self.is_local or self.token or self.insecure):
            raise OptionError(f"--host {self.host} lets others reach the server: give a --token, or say --insecure")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
