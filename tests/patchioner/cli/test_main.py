"""Help, version, exit statuses, what is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchioner.cli.main import main

Run = Callable[..., int]
REPOSITORY = Path(__file__).resolve().parents[3]


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "caption" in capsys.readouterr().out
    assert main(["caption", "--help"]) == 0
    assert "--region-set" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("patchioner ")


@pytest.mark.parametrize("argv", [[], ["capton", "x.jpg"], ["caption"]])
def test_wrong_commands_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage: patchioner" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from patchioner.cli.main import main; "
        "statuses = [main([*words, '--help']) for words in "
        "([], ['caption'], ['models'], ['convert'], ['bank'], ['bank', 'build'])]; "
        "sys.exit(any(statuses) or 'torch' in sys.modules)"
    )
    done = _python("-c", code)
    assert done.returncode == 0, done.stderr


def test_python_m_patchioner_is_the_same_command() -> None:
    done = _python("-m", "patchioner", "caption")
    assert done.returncode == 2
    assert "usage: patchioner caption" in done.stderr


def test_interruption_exits_130(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str, device: str | None, bank: str | None) -> Any:
        raise KeyboardInterrupt

    assert main(["caption", str(photo)], load_model=interrupted) == 130
    assert capsys.readouterr().err == "patchioner: error: stopped\n"


def test_our_bugs_are_not_hidden(photo: Path) -> None:
    def broken(name: str, device: str | None, bank: str | None) -> Any:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError):
        main(["caption", str(photo)], load_model=broken)
