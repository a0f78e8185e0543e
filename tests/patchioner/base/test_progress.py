"""Progress: the items pass through, and nothing is written unless to a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from patchioner.base import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def test_silent_when_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(range(3), description="counting"))
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(progress(range(3), description="counting", unit="sheep"))
    assert "counting" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
