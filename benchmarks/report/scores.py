"""Scores of a task's runs, their differences, and what the authors published.

Knows: runs, changes between them, charts. Does NOT know: samples, photos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.published import MARK, SOURCES, published_rows
from benchmarks.report.breakdown import kind_of, margin_histograms
from benchmarks.report.charts import Mark, difference_chart, interval_chart
from benchmarks.report.differences import Change, changes
from benchmarks.report.markup import Child, Markup, element, table
from benchmarks.report.names import bounds_of, in_order, metric_name, number, verdict, with_interval
from benchmarks.report.runs import MeasuredRun

MEANINGS = {
    "repeated_pairs": "Repeated pairs: of two regions of one photo, how often both get the same caption (%); low is"
    " good",
    "grounding_wins": "Grounding wins: how often a caption fits its own region's references better than those of"
    " another region of the photo (%); 50 is what the same caption for all regions gets",
    "grounding_margin": "Grounding margin: CIDEr against the own references minus that against the other regions';"
    " 0 is what the same caption for all regions gets",
    "object_wins": "Object wins: share of the photo's other classes that the caption names less than the box's own (%);"
    " 50 is what the same caption for all boxes gets",
    "object_margin": "Object margin: how often the own class is named, minus how often those of the photo's other boxes"
    " are (%)",
}
"""What the regional scores say, none of which a published table has."""

REGIONAL = (*MEANINGS, "unique_captions")

Pair = tuple[MeasuredRun, MeasuredRun]


def score_table(runs: Sequence[MeasuredRun]) -> Markup:
    """All scores: runs down, metrics across, intervals over photos where they exist."""
    names = [
        name for name in in_order(n for run in runs for n in run.metrics) if name not in REGIONAL
    ]
    rows: list[list[Child]] = []
    for run in runs:
        cells: list[Child] = [with_interval(run.metrics.get(name)) for name in names]
        rows.append([run.label, run.results["data"]["samples"], *cells])
    caption = "Scores (x 100) with 95 % bootstrap intervals over photos"
    return table(caption, ["run", "samples", *map(metric_name, names)], rows, "numbers")


def forest(metric: str, runs: Sequence[MeasuredRun]) -> Markup | None:
    """One metric over all runs; None where no run has it."""
    marks = [mark for run in runs if (mark := _mark(run, metric)) is not None]
    if not marks:
        return None
    caption = f"{metric_name(metric)}, 95 % intervals over photos; disc: run, diamond: baseline"
    return interval_chart(caption, [(None, marks)])


def _mark(run: MeasuredRun, metric: str) -> Mark | None:
    score = run.metrics.get(metric)
    if score is None:
        return None
    low, high = bounds_of(score["interval"])
    return Mark(run.label, score["value"], low, high, kind_of(run))


def pairs_of(runs: Sequence[MeasuredRun]) -> list[Pair]:
    """What is compared: each run with its own baselines, and with the first run of the same data."""
    found: list[Pair] = []
    for index, run in enumerate(runs):
        earlier = [first for first in runs[:index] if first.data == run.data]
        found += [(first, run) for first in earlier[:1]]
        found += [(baseline, run) for baseline in run.baselines]
    return found


def differences(runs: Sequence[MeasuredRun]) -> Markup:
    """A table for each pair, with its outcome in a line."""
    pairs = pairs_of(runs)
    if not pairs:
        return element("p", "There is one run and no baseline: nothing to compare.")
    parts: list[Child] = [
        element(
            "p",
            "Photos are drawn again and again, for both runs together; a difference is larger than noise when its 95 %"
            " interval leaves out zero. Of many such comparisons about one in twenty does so by chance.",
        )
    ]
    for index, (first, second) in enumerate(pairs):
        found = {change.metric: change for change in changes(first, second)}
        parts.append(
            _pair(first, second, [found[name] for name in in_order(found)], opened=index == 0)
        )
    return element("div", parts)


def _pair(
    first: MeasuredRun, second: MeasuredRun, found: Sequence[Change], *, opened: bool
) -> Markup:
    counts = Counter(change.verdict for change in found)
    outcome = ", ".join(
        f"{word} on {counts[word]}" if word in ("better", "worse") else f"{counts[word]} {word}"
        for word in ("better", "worse", "within noise", "not judged")
        if counts[word]
    )
    title = f"{second.label} against {first.label}"
    marks = [
        Mark(metric_name(c.metric), c.value, c.low, c.high, "run", f"{verdict(c)}{_why(c)}")
        for c in found
    ]
    chart = difference_chart(
        f"{second.label} minus {first.label}, 95 % intervals; each metric has a scale of its own",
        marks,
    )
    return element("details", element("summary", f"{title}: {outcome}"), chart, open=opened)


def _why(change: Change) -> str:
    return f" ({change.note})" if change.note else ""


def regional(runs: Sequence[MeasuredRun]) -> Markup | None:
    """Distinctness and grounding; None where no photo has two regions."""
    charts: list[Child] = []
    for metric, meaning in MEANINGS.items():
        marks = [mark for run in runs if (mark := _mark(run, metric)) is not None]
        if marks:
            charts.append(interval_chart(meaning, [(None, marks)]))
    if not charts:
        return None
    title = (
        "How much better captions fit their own region than the photo's others, sample by sample"
    )
    return element("div", charts, element("h4", title), margin_histograms(runs))


def published(task: str) -> Markup | None:
    """The published rows of a task, marked as what they are; None where there is none."""
    rows = published_rows(task)
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    body: list[list[Child]] = [
        [
            row.model,
            row.data,
            *(_published(row.values.get(name)) for name in names),
            row.source,
            row.note,
        ]
        for row in rows
    ]
    head = ["model", "data", *map(metric_name, names), "source", "note"]
    sources = [
        element("li", f"{key}: {SOURCES[key]}") for key in dict.fromkeys(r.source for r in rows)
    ]
    return element(
        "details",
        element("summary", f"Published figures ({MARK})"),
        table(f"{MARK[0].upper()}{MARK[1:]}", head, body, "numbers"),
        element("ul", sources),
    )


def _published(value: float | None) -> str:
    return "" if value is None else number(value)
