"""Timing: counts and medians, never durations."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from benchmarks.timing import (
    Timing,
    clocked,
    peak_memory_mb,
    run_process,
    take_turns,
    time_function,
    time_process,
)
from patchioner.base.errors import OptionError, PatchionerError


def test_median_and_spread() -> None:
    """Of the rounds as given."""
    timing = Timing("x", (3.0, 1.0, 2.0, 10.0))
    assert (timing.median, timing.fastest, timing.slowest) == (2.5, 1.0, 10.0)


def test_warm_up_is_not_kept() -> None:
    """One call more than rounds kept."""
    calls: list[int] = []
    timing = time_function("count", lambda: calls.append(1), rounds=3)
    assert (len(calls), len(timing.seconds)) == (4, 3)


def test_no_rounds() -> None:
    """Refused with the value."""
    with pytest.raises(OptionError, match="rounds=0"):
        time_function("x", lambda: None, rounds=0)


def test_failing_process_says_why() -> None:
    """Status and the last words on standard error."""
    with pytest.raises(PatchionerError, match="status 3: oops"):
        run_process([sys.executable, "-c", "import sys; sys.stderr.write('oops'); sys.exit(3)"])


def test_process_rounds() -> None:
    """Each round is a fresh process."""
    assert len(time_process("python", [sys.executable, "-c", "pass"], rounds=2).seconds) == 2


def test_peak_memory_is_in_mebibytes() -> None:
    """An interpreter with numpy is between 10 MiB and a terabyte, if the system counts at all."""
    peak = peak_memory_mb()
    assert peak is None or 10 < peak < 2**20


def test_turns_are_taken() -> None:
    """One round of all, then the next; own seconds are kept as they are."""
    calls: list[str] = []

    def clock(name: str, seconds: float) -> Callable[[], float]:
        def run() -> float:
            calls.append(name)
            return seconds

        return run

    found = take_turns({"a": clock("a", 1.0), "b": clock("b", 2.0)}, rounds=2)
    assert calls == ["a", "b", "a", "b"]
    assert (found["a"].seconds, found["b"].median) == ((1.0, 1.0), 2.0)
    with pytest.raises(OptionError, match="rounds=0"):
        take_turns({}, rounds=0)


def test_clocked() -> None:
    """Calls once, returns seconds."""
    calls: list[int] = []
    assert clocked(lambda: calls.append(1))() >= 0
    assert calls == [1]


def test_peak_memory_is_this_process_own() -> None:
    """A parent's peak must not show in a child that holds nothing."""
    held = bytearray(200 * 2**20)
    held[:: 2**12] = bytes([1]) * len(held[:: 2**12])
    code = "from benchmarks.timing import peak_memory_mb; print(peak_memory_mb())"
    child = run_process([sys.executable, "-c", code]).strip()
    own = peak_memory_mb()
    assert own is None or (own > 200 and float(child) < own - 100)
