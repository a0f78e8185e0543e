"""Clocks, child processes, peak memory, and what is captioned while time is taken."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from patchioner.base.errors import PatchionerError
from patchioner.regions import Box

Clock = Callable[[], float]
"""Does something, and says how many seconds it took."""


@dataclass(frozen=True)
class Timing:
    """Seconds of several rounds of one thing."""

    label: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round, which one disturbed round does not move."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Median, with the fastest and slowest round where there are several."""
        ends = f" ({duration(min(self.seconds))} to {duration(max(self.seconds))})"
        return duration(self.median) + (ends if len(self.seconds) > 1 else "")


def duration(seconds: float) -> str:
    """Seconds in words: milliseconds below a second."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def clocked(
    function: Callable[[], object], synchronize: Callable[[], object] = lambda: None
) -> Clock:
    """A clock of a function by the wall; a device has finished before and after."""

    def timed() -> float:
        synchronize()
        started = time.perf_counter()
        function()
        synchronize()
        return time.perf_counter() - started

    return timed


def time_function(label: str, clock: Clock, *, rounds: int) -> Timing:
    """Seconds of `rounds` calls of a clock, after one to warm up."""
    clock()
    return Timing(label, tuple(clock() for _ in range(rounds)))


def take_turns(clocks: Mapping[str, Clock], *, rounds: int) -> dict[str, Timing]:
    """Run all clocks once, then all once more: what slows the machine for a while slows all of them."""
    taken = [{label: clock() for label, clock in clocks.items()} for _ in range(rounds)]
    return {label: Timing(label, tuple(one[label] for one in taken)) for label in clocks}


def run_process(command: Sequence[str]) -> str:
    """Standard output of a child process; PatchionerError with the end of its complaint where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = result.stderr.strip()[-500:]
        shown = " ".join(command)
        raise PatchionerError(f"`{shown}` ended with status {result.returncode}: {said}")
    return result.stdout


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process so far, in MiB, files mapped and read included; None without a count."""
    # Linux hands the parent's peak of `getrusage` on to a child; the high-water mark below starts anew.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    return None


def synchronizer(device: str) -> Callable[[], object]:
    """What waits until the device has done all that it was told; nothing on the CPU."""
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None


def random_boxes(count: int, image_size: tuple[int, int], *, seed: int) -> list[Box]:
    """`count` boxes inside an image of (width, height), 5 to 60 % of each side."""
    random = np.random.default_rng(seed)
    size = np.array(image_size, dtype=np.float64)
    extent = random.uniform(0.05, 0.6, (count, 2)) * size
    corner = random.uniform(0.0, 1.0, (count, 2)) * (size - extent)
    corners = np.concatenate([corner, corner + extent], axis=1)
    return [Box(*map(float, row)) for row in corners]


def make_photo(path: Path, *, seed: int = 0) -> Path:
    """Write a 640 x 480 picture of coloured shapes, for when no photo is given."""
    random = np.random.default_rng(seed)
    picture = np.empty((480, 640, 3), dtype=np.uint8)
    picture[:] = np.linspace(90, 200, 480, dtype=np.uint8)[:, None, None]
    for left, top, width, height in random.integers(20, 300, (12, 4)):
        picture[top : top + height, left : left + width] = random.integers(0, 255, 3)
    Image.fromarray(picture).save(path, quality=90)
    return path
