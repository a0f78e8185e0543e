"""Command: one HTML file that says everything about finished runs, and needs no network.

    python -m benchmarks.report build/benchmarks --out report.html

The same runs and photos give the same bytes: it holds no date, and no path but those of the runs' settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from benchmarks.bootstrap import bootstrap_mean
from benchmarks.command import CIDER_WARNING, positive, run_command, with_interval
from benchmarks.compare import NAMES, MeasuredRun, changes, figure, in_order, read_runs
from benchmarks.data import TASK_NAMES, task_named
from benchmarks.html import CSS, Gallery, Mark, chart, table
from benchmarks.predictions import Prediction
from benchmarks.published import MARK, SOURCES, published_rows, published_table
from benchmarks.scoring import ONE_REFERENCE
from patchioner.base.files import atomic_path
from patchioner.detail.report import Child, Markup, element

REPORT_FILE = "report.html"
SHOWN_SAMPLES, SHOWN_REFERENCES, SHOWN_ROWS, SHOWN_NOTES = 6, 5, 200, 5
FEWEST_PHOTOS = 3
# The page itself forbids every request; what it shows is inside it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
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

# Fixed edges, so that figures of different runs can be laid side by side; a size is four times the last.
AREA_BINS = {
    "under 1 % of the photo": (0.0, 0.01), "1 to 4 %": (0.01, 0.04), "4 to 16 %": (0.04, 0.16),
    "16 to 50 %": (0.16, 0.5), "50 % and more": (0.5, float("inf")),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="Write the report of finished runs as one HTML file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run, or one that holds such folders",
    )
    add("--out", type=Path, default=Path(REPORT_FILE), help="the HTML file (default: %(default)s)")
    add("--images", type=Path, help="folder of the photos, if no longer where the runs found it")
    add(
        "--samples", type=positive, default=SHOWN_SAMPLES, help="best and worst samples of each run"
    )
    return run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    given = arguments.run, arguments.out
    notes = write_report(*given, images=arguments.images, shown=arguments.samples)
    for note in notes[:SHOWN_NOTES]:
        sys.stderr.write(f"{note}\n")
    if len(notes) > SHOWN_NOTES:
        sys.stderr.write(f"and {len(notes) - SHOWN_NOTES} more photos\n")
    sys.stdout.write(f"The report is in {arguments.out}\n")


def write_report(
    folders: Sequence[Path], out: Path, *, images: Path | None = None, shown: int = SHOWN_SAMPLES
) -> list[str]:
    """Write the report of finished runs; gives back a line for each photo that was not found.

    Args:
        folders: of runs, or folders that hold them.
        out: the HTML file; its folder is made.
        images: folder of the photos, in place of those that the runs name.
        shown: how many of the best and of the worst samples each run shows.

    Raises:
        BenchmarkDataError: a folder holds no run, or files that do not belong together.
    """
    gallery = Gallery(images)
    text = report_html(read_runs(folders), gallery, shown=shown)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return [f"photo {one} is not in the report: {why}" for one, why in gallery.missing.items()]


def report_html(
    runs: Sequence[MeasuredRun], gallery: Gallery, *, shown: int = SHOWN_SAMPLES
) -> str:
    """The whole page."""
    tasks = [name for name in TASK_NAMES if any(run.task == name for run in runs)]
    titles = {"about": "What was measured"} | {name: task_named(name).title for name in tasks}
    sections = [_task(n, [run for run in runs if run.task == n], gallery, shown) for n in tasks]
    links = [element("li", element("a", title, href=f"#{key}")) for key, title in titles.items()]
    title = f"Benchmark report: {', '.join(titles[name] for name in tasks)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(CSS)),
    )
    header = element(
        "header", element("h1", "Benchmark report"), element("nav", element("ul", links))
    )
    main_ = element("main", _about(runs), sections)
    page = element("html", head, element("body", gallery.definitions(), header, main_), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _about(runs: Sequence[MeasuredRun]) -> Markup:
    rows: list[list[Child]] = []
    details = []
    for run in runs:
        results, data = run.results, run.results["data"]
        left = [*results["skipped"]["malformed"], *results["skipped"]["unanswered"]]
        where = f"{PurePath(str(run.settings['data'])).name} ({str(run.data['data'])[:12]}\u2026)"
        model = PurePath(str(run.settings["model"])).name
        title = task_named(run.task).title
        rows.append([run.label, title, model, where, data["samples"], data["photos"], len(left)])
        made = [[NAMES.get(n, n), score["made"]] for n, score in results["metrics"].items()]
        listed = [[row["row"], row["where"], row["reason"]] for row in left[:SHOWN_ROWS]]
        details.append(
            element(
                "details",
                element("summary", f"Everything about {run.label} ({run.task})"),
                [
                    table(caption, ["what", "value"], _flat(results[key]), "pairs")
                    for key, caption in (
                        ("model", "Model: fingerprints (sha256) and settings"), ("data", "Data"),
                        ("settings", "Settings of the run"), ("versions", "Software"), ("machine", "Machine"),
                    )
                ],
                table("How each metric was made", ["metric", "value"], made, "pairs"),
                table(f"{len(left)} rows left out", ["row", "where", "reason"], listed)
                if left
                else element("p", "No row of the data file was left out."),
            )
        )  # fmt: skip
    head = ["run", "task", "model", "data (sha256)", "samples", "photos", "rows left out"]
    overview = table("Runs of this page", head, rows)
    return element("section", element("h2", "What was measured", id="about"), overview, details)


def _flat(values: Mapping[str, Any], above: str = "") -> list[list[Child]]:
    """Nested settings as rows, keys joined by dots; what was not given is left out."""
    rows: list[list[Child]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{key}.")
        elif value is not None and value != []:
            rows.append([f"{above}{key}", value if isinstance(value, str) else json.dumps(value)])
    return rows


def _task(name: str, runs: Sequence[MeasuredRun], gallery: Gallery, shown: int) -> Markup:
    everything = [one for run in runs for one in (run, *run.baselines)]
    names = in_order(metric for run in everything for metric in run.metrics)
    plain = [metric for metric in names if metric not in REGIONAL]
    parts: list[Child] = [
        element("h2", task_named(name).title, id=name),
        element("h3", "Scores"),
        _score_table(everything, plain),
        element("p", CIDER_WARNING) if "cider" in names else None,
        [_forest(NAMES.get(metric, metric), metric, everything) for metric in plain],
        element("h3", "Differences"),
        _differences(runs),
        _regional(everything),
    ]
    metrics = sample_metrics(runs)
    for index, metric in enumerate(metrics):
        label = NAMES.get(metric, metric)
        block: list[Child] = [
            element("summary", f"Samples and sizes by {label}"),
            by_size(metric, everything),
        ]
        for run in runs:
            others = [*run.baselines, *(other for other in runs if other is not run)]
            block += [element("h4", run.label), _extremes(run, metric, others, gallery, shown)]
        parts.append(element("details", block, open=index == 0))
    parts.append(_published(name))
    return element("section", parts)


def _score_table(runs: Sequence[MeasuredRun], names: Sequence[str]) -> Markup:
    rows: list[list[Child]] = [
        [run.label, run.results["data"]["samples"], *(with_interval(run.metrics.get(n)) for n in names)]
        for run in runs
    ]  # fmt: skip
    caption = "Scores (x 100) with 95 % bootstrap intervals over photos"
    return table(caption, ["run", "samples", *(NAMES.get(n, n) for n in names)], rows, "numbers")


def _forest(title: str, metric: str, runs: Sequence[MeasuredRun]) -> Markup | None:
    """One metric over all runs; None where no run has an interval of it."""
    marks = []
    for run in runs:
        score = run.metrics.get(metric)
        if score is not None:
            ends = score["interval"] or {"low": None, "high": None}
            text = with_interval(score)
            low, high = ends["low"], ends["high"]
            marks.append(Mark(run.label, score["value"], low, high, text, _kind(run)))
    if not any(mark.low is not None for mark in marks):
        return None
    return chart(f"{title}; 95 % intervals over photos; disc: run, diamond: baseline", marks)


def pairs_of(runs: Sequence[MeasuredRun]) -> list[tuple[MeasuredRun, MeasuredRun]]:
    """What is compared: each run with its own baselines, and with the first run of the same data."""
    found: list[tuple[MeasuredRun, MeasuredRun]] = []
    for index, run in enumerate(runs):
        earlier = [first for first in runs[:index] if first.data == run.data]
        found += [(first, run) for first in earlier[:1]]
        found += [(baseline, run) for baseline in run.baselines]
    return found


def _differences(runs: Sequence[MeasuredRun]) -> Markup:
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
        counts = Counter(change.verdict for change in found.values())
        outcome = ", ".join(f"{verdict}: {count}" for verdict, count in sorted(counts.items()))
        marks = []
        for c in (found[name] for name in in_order(found)):
            words = figure(c.value, c.low, c.high, signed=True)
            text = f"{words} {c.signed_verdict}{f' ({c.note})' if c.note else ''}"
            marks.append(Mark(NAMES.get(c.metric, c.metric), c.value, c.low, c.high, text))
        title = f"{second.label} minus {first.label}, 95 % intervals; each metric has its own scale"
        summary = element("summary", f"{second.label} against {first.label}: {outcome}")
        parts.append(element("details", summary, chart(title, marks, each=True), open=index == 0))
    return element("div", parts)


def _regional(runs: Sequence[MeasuredRun]) -> Markup | None:
    """Distinctness and grounding; None where no photo has two regions."""
    charts = [_forest(meaning, metric, runs) for metric, meaning in MEANINGS.items()]
    title = element("h3", "Distinctness and grounding")
    return element("div", title, charts) if any(charts) else None


def sample_metrics(runs: Sequence[MeasuredRun]) -> list[str]:
    """Metrics that single samples are ranked by: not BLEU, which a sentence cannot carry, nor one reference each."""
    there = in_order(name for run in runs for name in run.results["samples"]["scores"])
    return [n for n in there if not n.startswith("bleu") and not n.endswith(ONE_REFERENCE)]


def by_size(metric: str, runs: Sequence[MeasuredRun]) -> Markup | None:
    """Scores against the region's share of the photo; None where all fall into one bin."""
    marks: list[Mark] = []
    heads: dict[int, str] = {}
    for name, (low, high) in AREA_BINS.items():
        start = len(marks)
        for run in runs:
            scores, kind = run.scores(metric), _kind(run)
            members = [
                p for i, p in run.by_id.items() if i in scores and low <= p.area_share < high
            ]
            values, photos = [scores[p.id] for p in members], [p.photo for p in members]
            count = f"n = {len(members)}"
            if len(set(photos)) >= FEWEST_PHOTOS:
                found = bootstrap_mean(values, photos, **run.how)
                text = f"{figure(found.value, found.low, found.high)} {count}"
                marks.append(Mark(run.label, found.value, found.low, found.high, text, kind))
            elif members:
                mean = float(np.mean(values))
                text = f"{mean:z.1f} {count}, too few photos for an interval"
                marks.append(Mark(run.label, mean, None, None, text, kind))
        if len(marks) > start:
            heads[start] = name
    title = f"{NAMES.get(metric, metric)} by the region's share of the photo, 95 % intervals"
    return chart(title, marks, heads=heads) if len(heads) > 1 else None


def _kind(run: MeasuredRun) -> str:
    return "run" if run.results["baseline"] is None else "baseline"


def ranked(run: MeasuredRun, metric: str, shown: int) -> tuple[list[str], list[str]]:
    """Ids of the best and of the worst samples, the most extreme first; of a small run, no sample comes twice."""
    scores = run.scores(metric)
    best = sorted(scores, key=lambda id_: -scores[id_])[:shown]
    rest = [id_ for id_ in scores if id_ not in set(best)]
    return best, sorted(rest, key=lambda id_: scores[id_])[:shown]


def _extremes(
    run: MeasuredRun, metric: str, others: Sequence[MeasuredRun], gallery: Gallery, shown: int
) -> Markup:
    parts = []
    for title, ids in zip(("Best", "Worst"), ranked(run, metric, shown), strict=True):
        cards = [_card(run, id_, metric, others, gallery) for id_ in ids]
        if cards:
            label = f"{title} by {NAMES.get(metric, metric)}"
            parts += [element("h5", label), element("div", cards, class_="cards")]
    return element("div", parts)


def _card(
    run: MeasuredRun, id_: str, metric: str, others: Sequence[MeasuredRun], gallery: Gallery
) -> Markup:
    """Photo, region, caption, references, and what others said of the same sample."""
    prediction = run.by_id[id_]
    told = describe(prediction)
    words = f"Photo {prediction.photo} with {told} marked"
    images = str(run.settings["images"])
    said = []
    for who, other in (("this run", run), *((other.label, other) for other in others)):
        found, score = other.by_id.get(id_), other.scores(metric).get(id_)
        if found is not None:
            value = None if score is None else element("span", f" {score:z.1f}", class_="quiet")
            said += [element("dt", who), element("dd", found.caption, value)]
    more = len(prediction.references) - SHOWN_REFERENCES
    listed = [element("li", reference) for reference in prediction.references[:SHOWN_REFERENCES]]
    return element(
        "article",
        gallery.picture(images, prediction.photo, prediction.region, words),
        element("p", f"{NAMES.get(metric, metric)} {run.scores(metric)[id_]:z.1f}", class_="score"),
        element("p", f"{id_}: {told}", class_="quiet"),
        element("dl", said),
        element("ul", listed),
        element("p", f"and {more} more references", class_="quiet") if more > 0 else None,
        class_="card",
    )


def describe(prediction: Prediction) -> str:
    """A region in words: "a box, 7.9 % of the photo"."""
    region = prediction.region
    members = region.get("set", [region])
    if "whole" in members[0]:
        return "the whole photo"
    share = f"{100 * prediction.area_share:.1f} % of the photo"
    if len(members) > 1:
        return f"{len(members)} regions, {share}"
    if "trace" in members[0]:
        count = len(members[0]["trace"])
        return f"a trace of {count} points, from the open circle to the full one, {share}"
    return f"a box, {share}"


def _published(task: str) -> Markup | None:
    rows = published_rows(task)
    if not rows:
        return None
    head, *body = published_table(task)
    keys = dict.fromkeys(row.source for row in rows)
    return element(
        "details",
        element("summary", f"Published figures ({MARK})"),
        table(MARK.capitalize(), [NAMES.get(name, name) for name in head], body, "numbers"),
        element("ul", [element("li", f"{key}: {SOURCES[key]}") for key in keys]),
    )


if __name__ == "__main__":
    sys.exit(main())
