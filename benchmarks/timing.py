"""Times functions and child processes, and reads peak memory.

Knows: clocks, rounds, medians, child processes. Does NOT know: what is timed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from patchioner.base.errors import OptionError, PatchionerError


@dataclass(frozen=True)
class Timing:
    """Seconds of several rounds of one thing.

    Example:
        >>> Timing("sleep", (1.0, 3.0, 2.0)).median
        2.0
    """

    label: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round, which one disturbed round does not move."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """The quickest round."""
        return min(self.seconds)

    @property
    def slowest(self) -> float:
        """The slowest round."""
        return max(self.seconds)


def time_function(
    label: str, function: Callable[[], object], *, rounds: int, warm_up: int = 1
) -> Timing:
    """Call `function` `warm_up + rounds` times and keep the wall seconds of the last `rounds`.

    Raises:
        OptionError: `rounds` below 1.

    Example:
        >>> len(time_function("nothing", lambda: None, rounds=3).seconds)
        3
    """
    if rounds < 1:
        raise OptionError(f"rounds={rounds}: at least one round is needed")
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return Timing(label, tuple(seconds))


def clocked(function: Callable[[], object]) -> Callable[[], float]:
    """The function as one that returns the wall seconds it took.

    Example:
        >>> clocked(lambda: None)() >= 0
        True
    """

    def timed() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return timed


def take_turns(clocks: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, Timing]:
    """Run all works once, then all once more: what slows the machine for a while slows all of them.

    Args:
        clocks: by label, works that return their own seconds (`clocked`, or scaled from a part of the work).
        rounds: of all; nothing is run to warm up.

    Raises:
        OptionError: `rounds` below 1.

    Example:
        >>> take_turns({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=2)["b"].seconds
        (2.0, 2.0)
    """
    if rounds < 1:
        raise OptionError(f"rounds={rounds}: at least one round is needed")
    seconds: dict[str, list[float]] = {label: [] for label in clocks}
    for _ in range(rounds):
        for label, clock in clocks.items():
            seconds[label].append(clock())
    return {label: Timing(label, tuple(found)) for label, found in seconds.items()}


def time_process(label: str, command: Sequence[str], *, rounds: int) -> Timing:
    """Time a child process from start to end; its output is swallowed.

    One unmeasured run comes first, so that files are in the system's cache: the figure is a cold
    process on a warm disk.

    Raises:
        PatchionerError: the command fails; the message has the end of its standard error.

    Example:
        >>> import sys
        >>> time_process("python", [sys.executable, "-c", "pass"], rounds=1).median > 0
        True
    """
    return time_function(label, lambda: run_process(command), rounds=rounds)


def run_process(command: Sequence[str]) -> str:
    """Run a child process and return its standard output.

    Raises:
        PatchionerError: as `time_process`.

    Example:
        >>> import sys
        >>> run_process([sys.executable, "-c", "print('a')"]).strip()
        'a'
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last_words = result.stderr.strip()[-500:]
        shown = " ".join(command)
        raise PatchionerError(f"`{shown}` ended with status {result.returncode}: {last_words}")
    return result.stdout


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process so far, in MiB; None where the system has no count.

    Mapped files count as far as they were read.

    Example:
        >>> peak_memory_mb()  # doctest: +SKIP
        512.3
    """
    # Linux hands the parent's peak of `getrusage` on to a child; the high-water mark below starts anew.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
