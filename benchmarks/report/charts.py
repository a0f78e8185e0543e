"""Charts that are tables: every mark stands beside the number that it shows.

Knows: values, intervals, counts, and how they become marks. Does NOT know: runs or metrics.

The marks are inline SVG with lengths in percent, so that they fit any width and never scale the text beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report.markup import Child, Markup, caption_of, element, framed
from benchmarks.report.names import figure, number

HEIGHT = 18
_MARKS = {
    "run": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
    "baseline": "M0 -6L6 0L0 6L-6 0Z",
}
"""A disc for a run, a diamond for a baseline."""


@dataclass(frozen=True)
class Mark:
    """One line of a chart.

    Attributes:
        label: what it is about.
        value: where the mark is.
        low, high: ends of its interval; None draws none.
        kind: "run" (disc) or "baseline" (diamond).
        note: what follows the figure, such as "n = 12".
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "run"
    note: str = ""


def interval_chart(caption: Child, groups: Sequence[tuple[str | None, Sequence[Mark]]]) -> Markup:
    """Marks with intervals on one common scale, a row each, in groups with headings.

    Args:
        caption: what is shown.
        groups: (heading or None, marks).

    Example:
        >>> "1.0 (0.0 to 2.0)" in interval_chart("a", [(None, [Mark("x", 1.0, 0.0, 2.0)])])
        True
    """
    marks = [mark for _, group in groups for mark in group]
    scale = Scale.around([end for mark in marks for end in (mark.value, mark.low, mark.high)])
    rows: list[Child] = []
    for heading, group in groups:
        if heading is not None:
            name = element("th", heading, colspan=3, scope="rowgroup")
            rows.append(element("tr", name, class_="group"))
        rows += [_row(mark, scale, figure(mark.value, mark.low, mark.high)) for mark in group]
    ends = element("span", number(scale.low)), element("span", number(scale.high))
    return _chart(caption, ("run", element("span", *ends, class_="ends"), "value"), rows)


def difference_chart(caption: Child, marks: Sequence[Mark]) -> Markup:
    """Differences of several metrics, each on a scale of its own with zero in the middle.

    Example:
        >>> "+1.0 (0.0 to 2.0)" in difference_chart("a", [Mark("x", 1.0, 0.0, 2.0)])
        True
    """
    rows = []
    for mark in marks:
        ends = [abs(end) for end in (mark.value, mark.low, mark.high) if end is not None]
        reach = max(ends) or 1.0
        text = figure(mark.value, mark.low, mark.high, signed=True)
        rows.append(_row(mark, Scale(-reach, reach), text))
    middle = element(
        "span", [element("span", word) for word in ("less", "0", "more")], class_="ends"
    )
    return _chart(caption, ("metric", middle, "difference"), rows)


def _chart(caption: Child, head: tuple[Child, Child, Child], rows: Child) -> Markup:
    cells = [element("th", head[0], scope="col")]
    cells.append(element("th", head[1], scope="col", class_="plotted"))
    cells.append(element("th", head[2], scope="col"))
    parts = element("thead", element("tr", cells)), element("tbody", rows)
    return framed(element("table", caption_of(caption), *parts, class_="chart"))


@dataclass(frozen=True)
class Scale:
    """From values to percent of the width.

    Attributes:
        low, high: values at the two ends.
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float | None]) -> Scale:
        """A scale with round ends that holds zero and all values.

        Example:
            >>> Scale.around([3.0, 87.0, None])
            Scale(low=0.0, high=90.0)
        """
        there = [value for value in values if value is not None and math.isfinite(value)]
        low, high = min([0.0, *there]), max([0.0, *there])
        if high == low:
            return cls(0.0, 1.0)
        step = 10.0 ** math.floor(math.log10(high - low)) / 2
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step)

    def percent(self, value: float) -> str:
        """Where a value lies, leaving room for half a mark at both ends.

        Example:
            >>> Scale(0.0, 10.0).percent(5.0)
            '50.00%'
        """
        return f"{4 + 92 * (value - self.low) / (self.high - self.low):.2f}%"


def _row(mark: Mark, scale: Scale, text: str) -> Markup:
    note = element("span", f" {mark.note}", class_="quiet") if mark.note else None
    return element(
        "tr",
        element("th", mark.label, scope="row"),
        element("td", _plot(mark, scale), class_="plotted"),
        element("td", text, note),
    )


def _plot(mark: Mark, scale: Scale) -> Markup:
    """Zero line, interval with its ends, mark. Said in words in the next cell, so hidden from screen readers."""
    middle, zero = HEIGHT // 2, scale.percent(0.0)
    parts = [element("line", x1=zero, x2=zero, y1=0, y2=HEIGHT, class_="zero")]
    if mark.low is not None and mark.high is not None:
        ends = [scale.percent(mark.low), scale.percent(mark.high)]
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, class_="span"))
        parts += [
            element("line", x1=end, x2=end, y1=middle - 4, y2=middle + 4, class_="span")
            for end in ends
        ]
    sign = element("path", d=_MARKS[mark.kind], class_=mark.kind)
    parts.append(element("svg", sign, x=scale.percent(mark.value), y=middle, overflow="visible"))
    return element("svg", parts, width="100%", height=HEIGHT, class_="plot", aria_hidden="true")


def histogram(label: str, values: Sequence[float], edges: Sequence[float]) -> Markup:
    """How often values fall between edges: bars with the counts of the ends, and the quartiles in words.

    Args:
        label: whose values these are.
        values: at least one, each within the edges.
        edges: b + 1 rising numbers; the last bin holds its upper edge too.

    Example:
        >>> "median 2.0" in histogram("a", [1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
        True
    """
    counts = bin_counts(values, edges)
    most, width, height = max(counts), 100 / len(counts), 64
    bars = []
    for index, count in enumerate(counts):
        tall = max(height * count / most, 1.0 if count else 0.0)
        title = f"{number(edges[index])} to {number(edges[index + 1])}: {count}"
        bars.append(
            element(
                "rect", element("title", title), x=f"{index * width + 0.4:.2f}%", width=f"{width - 0.8:.2f}%",
                y=f"{height - tall:.1f}", height=f"{tall:.1f}",
            )
        )  # fmt: skip
    words = _in_words(values, edges, counts)
    picture = element(
        "svg", bars, width="100%", height=height, role="img", aria_label=f"{label}: {words}"
    )
    ends = element("span", number(edges[0])), element("span", number(edges[-1]))
    legend = element("figcaption", element("strong", label), " ", words)
    return element(
        "figure", picture, element("div", *ends, class_="ends"), legend, class_="histogram"
    )


def bin_counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin.

    Example:
        >>> bin_counts([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
        [1, 2]
    """
    counts = [0] * (len(edges) - 1)
    for value in values:
        below = sum(edge <= value for edge in edges[1:-1])
        counts[below] += 1
    return counts


def _in_words(values: Sequence[float], edges: Sequence[float], counts: Sequence[int]) -> str:
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    zero = sum(abs(value) < 0.05 for value in values)
    fullest = max(counts)
    return (
        f"n = {len(values)}; median {number(half)}, half of all between {number(quarter)} and {number(three)};"
        f" {100 * zero / len(values):.0f} % at zero; fullest bin {fullest}, of width"
        f" {number(edges[1] - edges[0])}"
    )
