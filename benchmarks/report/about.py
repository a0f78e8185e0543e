"""What was measured: models, data, settings, versions, and the rows that were left out.

Knows: results.json. Does NOT know: scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from benchmarks.report.markup import Child, Markup, element, table
from benchmarks.report.names import metric_name
from benchmarks.report.runs import MeasuredRun
from benchmarks.tasks import task_named

SHOWN_ROWS = 200


def about(runs: Sequence[MeasuredRun]) -> Markup:
    """The section that opens the page: a line per run, and everything about it on demand."""
    rows = [
        [
            run.label,
            task_named(run.task).title,
            PurePath(str(run.settings["model"])).name,
            f"{PurePath(str(run.settings['data'])).name} ({_short(run.data['data'])})",
            run.results["data"]["samples"],
            run.results["data"]["photos"],
            len(left_out(run)),
        ]
        for run in runs
    ]
    head = ["run", "task", "model", "data (sha256)", "samples", "photos", "rows left out"]
    return element(
        "section",
        element("h2", "What was measured", id="about"),
        table("Runs of this page", head, rows),
        [_details(run) for run in runs],
    )


def _details(run: MeasuredRun) -> Markup:
    results = run.results
    metrics = [[metric_name(name), score["made"]] for name, score in results["metrics"].items()]
    return element(
        "details",
        element("summary", f"Everything about {run.label} ({run.task})"),
        _pairs("Model: fingerprints (sha256) and settings", "part", _flat(results["model"])),
        _pairs("Data", "what", _flat(results["data"])),
        _pairs("Settings of the run", "setting", _flat(results["settings"])),
        _pairs("How each metric was made", "metric", metrics),
        _pairs("Software", "package", results["versions"].items()),
        _pairs("Machine", "what", _flat(results["machine"])),
        _skipped(run),
    )


def _pairs(caption: str, what: str, rows: Iterable[Iterable[Child]]) -> Markup:
    return table(caption, [what, "value"], rows, "pairs")


def left_out(run: MeasuredRun) -> list[dict[str, Any]]:
    """The rows of the data file that have no caption: row, where, reason."""
    skipped = run.results["skipped"]
    return [*skipped["malformed"], *skipped["unanswered"]]


def _skipped(run: MeasuredRun) -> Markup:
    rows = left_out(run)
    if not rows:
        return element("p", "No row of the data file was left out.")
    listed: list[list[Child]] = [
        [row["row"], row["where"], row["reason"]] for row in rows[:SHOWN_ROWS]
    ]
    more = len(rows) - SHOWN_ROWS
    rest = element("p", f"and {more} more, see results.json") if more > 0 else None
    return element(
        "div", table(f"{len(rows)} rows left out", ["row", "where", "reason"], listed), rest
    )


def _flat(values: Mapping[str, Any], above: str = "") -> list[list[Child]]:
    """Nested settings as rows, keys joined by dots; what was not given is left out."""
    rows: list[list[Child]] = []
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        elif value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value)
            rows.append([name, element("span", text, class_="value")])
    return rows


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else f"{fingerprint[:12]}\u2026"
