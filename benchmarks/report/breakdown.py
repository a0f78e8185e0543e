"""Scores against the size of the region, against its number of boxes, and their histogram.

Knows: runs, their samples' scores, bins. Does NOT know: photos or captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks.bootstrap import bootstrap_mean
from benchmarks.report.charts import Mark, Scale, histogram, interval_chart
from benchmarks.report.markup import Child, Markup, element
from benchmarks.report.names import in_order, metric_name
from benchmarks.report.runs import MeasuredRun
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.regional import ONE_REFERENCE

Bin = tuple[str, Callable[[Prediction], bool]]

FEWEST_PHOTOS = 3
BARS = 30


def _between(low: float, high: float) -> Callable[[Prediction], bool]:
    return lambda prediction: low <= prediction.area_share < high


AREA_BINS: tuple[Bin, ...] = (
    ("under 1 % of the photo", _between(0.0, 0.01)),
    ("1 to 4 %", _between(0.01, 0.04)),
    ("4 to 16 %", _between(0.04, 0.16)),
    ("16 to 50 %", _between(0.16, 0.5)),
    ("50 % and more", _between(0.5, float("inf"))),
)
"""Fixed edges, so that figures of different runs can be laid side by side; a size four times the last."""

BOX_BINS: tuple[Bin, ...] = (
    ("1 box", lambda prediction: prediction.box_count == 1),
    ("2 boxes", lambda prediction: prediction.box_count == 2),
    ("3 boxes", lambda prediction: prediction.box_count == 3),
    ("4 or 5 boxes", lambda prediction: 4 <= prediction.box_count <= 5),
    ("6 boxes and more", lambda prediction: prediction.box_count >= 6),
)


def sample_metrics(runs: Iterable[MeasuredRun]) -> list[str]:
    """Metrics that single samples are ranked by: all with a score by sample but BLEU, which a sentence cannot carry,
    and the second way of counting references.

    Example:
        >>> sample_metrics(runs)  # doctest: +SKIP
        ['cider', 'stem_f', 'rouge_l']
    """
    there = [name for run in runs for name in run.results["samples"]["scores"]]
    return [
        name
        for name in in_order(there)
        if not name.startswith("bleu") and not name.endswith(ONE_REFERENCE)
    ]


def by_size(metric: str, runs: Sequence[MeasuredRun]) -> Markup | None:
    """Score against the share of the photo that the region covers; None where all fall into one bin."""
    return _by_bins(metric, runs, AREA_BINS, "by the region's share of the photo")


def by_boxes(metric: str, runs: Sequence[MeasuredRun]) -> Markup | None:
    """Score against the number of boxes; None where all regions have the same (or none: traces, photos)."""
    return _by_bins(metric, runs, BOX_BINS, "by the number of boxes of the region")


def _by_bins(
    metric: str, runs: Sequence[MeasuredRun], bins: Sequence[Bin], what: str
) -> Markup | None:
    groups = [
        (name, [mark for run in runs if (mark := bin_mark(run, metric, inside)) is not None])
        for name, inside in bins
    ]
    filled = [(name, marks) for name, marks in groups if marks]
    if len(filled) < 2:
        return None
    return interval_chart(f"{metric_name(metric)} {what}, 95 % intervals over photos", filled)


def bin_mark(run: MeasuredRun, metric: str, inside: Callable[[Prediction], bool]) -> Mark | None:
    """Mean of a run's samples in one bin; without an interval where they are of fewer than three photos.

    Returns:
        The mark; None where the bin is empty or the run lacks the metric.
    """
    scores = run.scores(metric)
    members = [run.by_id[id_] for id_ in scores if inside(run.by_id[id_])]
    if not members:
        return None
    values, photos = [scores[p.id] for p in members], [p.photo for p in members]
    note = f"n = {len(members)}"
    kind = kind_of(run)
    if len(set(photos)) < FEWEST_PHOTOS:
        return Mark(
            run.label,
            float(np.mean(values)),
            None,
            None,
            kind,
            f"{note}, too few photos for an interval",
        )
    found = bootstrap_mean(values, photos, **run.how)
    return Mark(run.label, found.value, found.low, found.high, kind, note)


def histograms(metric: str, runs: Sequence[MeasuredRun]) -> Markup:
    """A histogram of each run on one common scale."""
    columns = {run.label: list(run.scores(metric).values()) for run in runs if run.scores(metric)}
    return histogram_row(columns)


def margin_histograms(runs: Sequence[MeasuredRun]) -> Markup:
    """Histograms of the grounding margins; a caption of another region lies left of zero."""
    found = {run.label: run.regional for run in runs}
    columns = {k: list(own.margins.values()) for k, own in found.items() if own and own.margins}
    return histogram_row(columns)


def histogram_row(columns: dict[str, list[float]]) -> Markup:
    """Histograms side by side, with the same bins.

    Args:
        columns: values by label; none of them empty.
    """
    everything = [value for values in columns.values() for value in values]
    edges = round_edges(everything)
    pictures: list[Child] = [histogram(label, values, edges) for label, values in columns.items()]
    return element("div", pictures, class_="grid")


def round_edges(values: Sequence[float]) -> list[float]:
    """Edges of bins of a round width, about thirty of them, that hold zero and all values.

    Example:
        >>> round_edges([0.0, 29.0])[:3]
        [0.0, 1.0, 2.0]
    """
    scale = Scale.around(values)
    wanted = (scale.high - scale.low) / BARS
    power = 10.0 ** math.floor(math.log10(wanted))
    width = next(power * step for step in (1, 2, 5, 10) if power * step >= wanted * (1 - 1e-9))
    first, last = math.floor(scale.low / width + 1e-9), math.ceil(scale.high / width - 1e-9)
    return [index * width for index in range(first, last + 1)]


def kind_of(run: MeasuredRun) -> str:
    """How a run is marked in charts."""
    return "run" if run.results["baseline"] is None else "baseline"
