from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patchioner.base.errors import OptionError
from patchioner.cli.main import main
from patchioner.serve.settings import ServeSettings


@pytest.mark.parametrize("wrong", [
    {"host": "0.0.0.0"}, {"host": "example.org"}, {"host": "0.0.0.0", "token": "short"},
    {"token": "non-ascii-é"}, {"port": 70_000}, {"queue": 0}, {"deadline": float("nan")},
    {"cache_bytes": -1}, {"root": Path("/no/such/folder")},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ServeSettings(**wrong)


@pytest.mark.parametrize("right", [
    {"host": "localhost"}, {"host": "::1"}, {"host": "0.0.0.0", "insecure": True},
    {"host": "0.0.0.0", "token": "a-long-secret"}, {"port": 0}, {"cache_bytes": 0},
])  # fmt: skip
def test_what_makes_sense_is_taken(right: dict[str, Any]) -> None:
    assert "secret" not in repr(ServeSettings(**right))


def test_the_command_fills_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[ServeSettings] = []
    monkeypatch.setattr("patchioner.serve.app.run_server", lambda model, one: seen.append(one))
    assert main(["serve", "--host", "0.0.0.0"]) == 1
    assert "token" in capsys.readouterr().err
    assert main(["serve", "--device", "cpu"]) == 0
    monkeypatch.setenv("PATCHIONER_TOKEN", "from-the-environment")
    words = ["--host", "0.0.0.0", "--queue", "7", "--deadline", "1.5", "--review", str(tmp_path)]
    assert main(["serve", "--device", "cpu", *words]) == 0
    secret = "from-the-environment"
    told = ServeSettings("0.0.0.0", token=secret, queue=7, deadline=1.5, root=tmp_path)
    assert seen == [ServeSettings(), told]
