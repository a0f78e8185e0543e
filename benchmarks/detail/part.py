"""What the parts of the evaluation share: where data and model are, and the form of a part's result.

Knows: settings of a run, Markdown tables, how figures are written. Does NOT know: what any part measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from benchmarks.bootstrap import Difference, Interval
from benchmarks.metrics import Meteor
from patchioner import Patchioner


class LoadModel(Protocol):
    """Makes a model from its name; tests put a tiny one in."""

    def __call__(self, name: str, /) -> Patchioner:
        """The model."""


@dataclass(frozen=True)
class Setup:
    """Everything that the parts of one run are told.

    Attributes:
        data: folder with `annotations/`, `photos/` and `did/`.
        out: folder for reports and finished photos.
        load_model: loads the model that is measured.
        model_name: its name.
        limit: photos of each set, the first ones; None: all.
        words: budget of the paragraphs on DID-Bench.
        seed: of every draw.
        meteor: a running METEOR; None leaves it out.
        fresh: describe photos again that a former run has described.
    """

    data: Path
    out: Path
    load_model: LoadModel = field(repr=False)
    model_name: str = "patchioner-mini"
    limit: int | None = None
    words: int = 240
    seed: int = 0
    meteor: Meteor | None = None
    fresh: bool = False

    @cached_property
    def model(self) -> Patchioner:
        """The model, loaded when it is first asked for."""
        return self.load_model(self.model_name)


@dataclass(frozen=True)
class PartResult:
    """What a part found.

    Attributes:
        title: heading of its section.
        text: its tables and what must be known to read them, Markdown.
        values: the same figures, ready for JSON.
        missed: bars that were not reached, in words.
        files: name -> text of what is written beside the report.
    """

    title: str
    text: str
    values: dict[str, object]
    missed: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures.

    Example:
        >>> markdown_table(["text", "words"], [["ours", "240"]]).splitlines()
        ['| text | words |', '|---|---:|', '| ours | 240 |']
    """
    lines = [_row(head), "|---|" + "---:|" * (len(head) - 1), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def percent(interval: Interval | Difference, *, signed: bool = False) -> str:
    """A share with its interval, times 100.

    Example:
        >>> percent(Interval(0.5, 0.25, 0.75))
        '50.0 (25.0 to 75.0)'
    """
    return figure(100 * interval.value, 100 * interval.low, 100 * interval.high, signed=signed)


def figure(value: float, low: float, high: float, *, signed: bool = False, digits: int = 1) -> str:
    """A value with its bounds; never -0.0; "-" where it is undefined.

    Example:
        >>> figure(-0.01, -1.0, 1.0, signed=True)
        '+0.0 (-1.0 to +1.0)'
    """
    if math.isnan(value):
        return "-"
    form = f"{'+' if signed else ''}z.{digits}f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def plain(interval: Interval | Difference) -> dict[str, float | None]:
    """Its fields, ready for JSON: null where a value is undefined.

    Example:
        >>> plain(Interval(math.nan, 0.0, 1.0))["value"] is None
        True
    """
    return {
        name: value if math.isfinite(value) else None for name, value in asdict(interval).items()
    }
