from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from patchioner.base.errors import OptionError
from patchioner.cli import serve
from patchioner.cli.main import main
from patchioner.serve.settings import ServeSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "0.0.0.0"},
        {"host": "example.org"},
        {"host": "0.0.0.0", "token": "short"},
        {"token": "non-ascii-é"},
        {"port": 70_000},
        {"queue": 0},
        {"deadline": float("nan")},
        {"cache_bytes": -1},
        {"root": Path("/no/such/folder")},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ServeSettings(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "token": "a-long-secret"},
        {"port": 0},
        {"cache_bytes": 0},
    ],
)
def test_what_makes_sense_is_taken(right: dict[str, Any]) -> None:
    settings = ServeSettings(**right)
    assert "secret" not in repr(settings)


def test_the_command_fills_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    serve.add_serve_arguments(parser)
    options = parser.parse_args([])
    given = {one.name: getattr(options, one.name) for one in dataclasses.fields(ServeSettings)}
    assert ServeSettings(**given) == ServeSettings()
    seen: list[ServeSettings] = []
    monkeypatch.setattr("patchioner.serve.app.run_server", lambda model, one: seen.append(one))
    monkeypatch.setenv("PATCHIONER_TOKEN", "from-the-environment")
    assert main(["serve", "--host", "0.0.0.0", "--queue", "7", "--deadline", "1.5"]) == 0
    assert (seen[0].token, seen[0].queue, seen[0].deadline) == ("from-the-environment", 7, 1.5)


def test_the_command_refuses_to_be_open_to_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 1
    assert "token" in capsys.readouterr().err
