"""Where a server is and with which key: read from the environment, shown to nobody.

Knows: addresses, environment variables. Does NOT know: protocols.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import urlsplit, urlunsplit

from patchioner.base.errors import OptionError

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
_HIDDEN = "***"
_SHORTEST_KEY = 6  # shorter ones are placeholders; hiding "x" would spoil every text
_LOG = logging.getLogger(__name__)


class Server:
    """An address and, where it needs one, a key that never leaves this object but in a request.

    Args:
        base_url: such as "http://localhost:8000/v1". None: the variable OPENAI_BASE_URL, or OpenAI itself.
        key_env: name of the environment variable that holds the key; it must be set then. None: OPENAI_API_KEY, which
            may be absent for any server but OpenAI's own.

    Attributes:
        url: the address without user, password and query: fit to be shown.

    Raises:
        OptionError: not an http(s) address; no key where one is needed; a key that no header can hold.

    Example:
        >>> Server("http://localhost:8000/v1")
        Server('http://localhost:8000/v1')
    """

    def __init__(self, base_url: str | None = None, *, key_env: str | None = None) -> None:
        address = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        self.url = _public(address)
        self._address = address
        self._key = _key(key_env, needed=urlsplit(address).hostname == "api.openai.com")
        if self._key is not None and _in_the_clear(address):
            _LOG.warning(
                "the key goes to %s unencrypted; use https, or unset its variable", self.url
            )

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a server is not pickled: it may hold a key")

    def credentials(self) -> dict[str, str]:
        """`base_url` and `api_key`, for the client library alone."""
        return {"base_url": self._address, "api_key": self._key or "no-key"}

    def hide(self, text: str) -> str:
        """The text with the key, and any password of the address, blotted out."""
        for secret in (self._key, urlsplit(self._address).password):
            if secret and len(secret) >= _SHORTEST_KEY:
                text = text.replace(secret, _HIDDEN)
        return text


def _public(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # Not the value itself: what is malformed may well be a key in the wrong place.
        raise OptionError(
            "the base URL is no http(s) address; it looks like 'http://localhost:8000/v1'"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit(
        (parts.scheme, host if port is None else f"{host}:{port}", parts.path, "", "")
    )


def _key(variable: str | None, *, needed: bool) -> str | None:
    name = variable or DEFAULT_KEY_VARIABLE
    key = os.environ.get(name, "").strip()
    if not key:
        if variable is not None or needed:
            raise OptionError(
                f"the environment variable {name!r} holds no key; set it, or give the base URL of a server that "
                "needs none"
            )
        return None
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"the key in {name!r} has characters that no key has; copy it again")
    return key


def _in_the_clear(address: str) -> bool:
    parts = urlsplit(address)
    local = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    return parts.scheme == "http" and not local
