"""What our engine is to reach against the published way, and whether it does.

Knows: the targets, verdicts, the lines of the tables. Does NOT know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.units import duration
from benchmarks.timing import Timing


@dataclass(frozen=True)
class Target:
    """A ratio to reach.

    Attributes:
        at_least: what is asked; None where there is only an aim.
        aim: what is hoped for; None where there is none.
        larger: whether more is better (times faster), or less (times the floor).
    """

    at_least: float | None
    aim: float | None
    larger: bool = True

    def verdict(self, ratio: float) -> str:
        """ "aim", "pass", "miss", or "report" where nothing is asked that could be missed.

        Example:
            >>> Target(4, 8).verdict(5), Target(2, 1.4, larger=False).verdict(2.5)
            ('pass', 'miss')
        """
        if self.aim is not None and self._reached(ratio, self.aim):
            return "aim"
        if self.at_least is None:
            return "report"
        return "pass" if self._reached(ratio, self.at_least) else "miss"

    def _reached(self, ratio: float, wanted: float) -> bool:
        return ratio >= wanted if self.larger else ratio <= wanted


REPORT = Target(None, None)
BOXES = {1: Target(1.8, 2.2), 10: Target(4, 6), 100: Target(15, 25), 1000: Target(20, 40)}
"""End to end, by the number of boxes, when no caption ends early."""
PROJECTION = {"float32": Target(4, 8)}
"""By the precision of rows; others are only aimed at."""
PROJECTION_AIM = Target(None, 8)
DECODING = Target(20, 40)
MEMORY = Target(3, 4)
PATCHES = Target(None, 10, larger=False)
FLOOR = Target(2, 1.4, larger=False)


@dataclass(frozen=True)
class Line:
    """One line of the table of targets.

    Attributes:
        work: in words.
        ours, other: what was measured, shown; seconds are `duration`s with their spread.
        ratio: of the two.
        target: for it.
        note: what stands behind the published way's figure, such as how much of it was run.
    """

    work: str
    ours: str
    other: str
    ratio: float
    target: Target
    note: str = ""

    @property
    def verdict(self) -> str:
        """See `Target.verdict`."""
        return self.target.verdict(self.ratio)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "work": self.work,
            "ours": self.ours,
            "other": self.other,
            "ratio": self.ratio,
            "at_least": self.target.at_least,
            "aim": self.target.aim,
            "verdict": self.verdict,
            "note": self.note,
        }


def timed_line(
    work: str, ours: Timing, other: Timing, target: Target = REPORT, note: str = ""
) -> Line:
    """A line of two timings: how many times faster ours is, by medians.

    Example:
        >>> timed_line("x", Timing("a", (1.0,)), Timing("b", (5.0,)), Target(4, 8)).verdict
        'pass'
    """
    return Line(work, spread(ours), spread(other), other.median / ours.median, target, note)


def spread(timing: Timing) -> str:
    """Median, with the fastest and slowest round where there are several.

    Example:
        >>> spread(Timing("x", (1.0, 2.0, 4.0)))
        '2.00 s (1.00 s to 4.00 s)'
    """
    if len(timing.seconds) == 1:
        return duration(timing.median)
    return f"{duration(timing.median)} ({duration(timing.fastest)} to {duration(timing.slowest)})"


def target_table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table.

    Example:
        >>> line = Line("1 box", "1.0 s", "2.0 s", 2.0, Target(1.8, 2.2))
        >>> print(target_table([line]).splitlines()[-1])
        | 1 box | 1.0 s | 2.0 s | 2.00x | 1.8 | 2.2 | pass |  |
    """
    head = "| work | ours | compared with | ratio | at least | aim | verdict | note |"
    rows = [
        f"| {line.work} | {line.ours} | {line.other} | {line.ratio:.2f}x | {_bound(line.target.at_least)} | "
        f"{_bound(line.target.aim)} | {line.verdict} | {line.note} |"
        for line in lines
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows]) + "\n"


def _bound(bound: float | None) -> str:
    return "" if bound is None else f"{bound:g}"


def missed(lines: Sequence[Line]) -> list[str]:
    """The works whose verdict is "miss".

    Example:
        >>> missed([Line("a", "", "", 1.0, Target(2, 3)), Line("b", "", "", 9.0, Target(2, 3))])
        ['a']
    """
    return [line.work for line in lines if line.verdict == "miss"]
