from __future__ import annotations

import logging
import pickle

import pytest

from patchioner.base.errors import OptionError
from patchioner.detail.clients.server import DEFAULT_URL, Server

KEY = "sk-verysecret123"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_a_local_server_needs_no_key() -> None:
    server = Server("http://localhost:8000/v1")
    assert server.credentials() == {"base_url": "http://localhost:8000/v1", "api_key": "no-key"}


def test_openai_itself_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="OPENAI_API_KEY"):
        Server()
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert Server().credentials() == {"base_url": DEFAULT_URL, "api_key": KEY}


def test_a_variable_that_is_named_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    with pytest.raises(OptionError, match="'MY_KEY'"):
        Server("http://localhost/v1", key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    assert Server("http://localhost/v1", key_env="MY_KEY").credentials()["api_key"] == KEY


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert Server().url == "http://127.0.0.1:9/v1"


def test_nothing_that_is_shown_has_key_or_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server("https://me:passw0rd@[::1]:8000/v1?token=tok123")
    assert repr(server) == "Server('https://[::1]:8000/v1')"
    assert server.hide(f"{KEY} and passw0rd") == "*** and ***"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(server)


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://x/v1", "http://", "http://x:port", KEY]
)
def test_what_is_no_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(OptionError, match="base URL") as caught:
        Server(address)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-ключ", "sk-a\nb: c"])
def test_a_key_that_no_header_can_hold_is_refused_without_repeating_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(OptionError, match="characters") as caught:
        Server()
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("http://models.example/v1", True),
        ("https://models.example/v1", False),
        ("http://127.0.0.1/v1", False),
    ],
)
def test_a_key_that_would_go_unencrypted_is_warned_of(
    address: str, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with caplog.at_level(logging.WARNING):
        Server(address)
    assert ("unencrypted" in caplog.text) == warns
    assert KEY not in caplog.text
