"""Command: finished runs side by side, with what the authors published.

    python -m benchmarks.compare build/benchmarks/dev/dense build/benchmarks/dev/dense-gaussian

Knows: runs, changes between them, Markdown. Does NOT know: how a change is judged (`benchmarks.report.differences`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.published import MARK, SOURCES, published_rows
from benchmarks.report.differences import Change, changes
from benchmarks.report.names import figure, in_order, metric_name, number, verdict, with_interval
from benchmarks.report.runs import MeasuredRun, read_runs
from benchmarks.tasks import TASKS, task_named
from patchioner.base.errors import OptionError, PatchionerError

_DIGITS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.

    Returns:
        0; 1 after an error.

    Example:
        >>> main(["build/dense", "build/dense-gaussian", "--json"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        runs = read_runs(arguments.run)
        if arguments.baselines:
            runs = [one for run in runs for one in (run, *run.baselines)]
        compared = compare(runs, allow_different_data=arguments.allow_different_data)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if arguments.json:
        sys.stdout.write(json.dumps(compared, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(markdown(compared))
    return 0


def compare(
    runs: Sequence[MeasuredRun], *, allow_different_data: bool = False
) -> dict[str, dict[str, Any]]:
    """Compare runs, task by task: each with the first of its task.

    Args:
        runs: two at least, of one task or of several.
        allow_different_data: compare runs on different data too; their difference is then unpaired.

    Returns:
        By task: "runs" (label -> metrics with intervals, data, samples), "differences" (a list with "run", "against",
        "same_data", "changes"), "published" rows with their "sources" and the mark they carry. Plain JSON values.

    Raises:
        OptionError: no task has two runs, or runs of one task are on different data.

    Example:
        >>> compare(read_runs([Path("a"), Path("b")]))["dense"]["differences"]  # doctest: +SKIP
    """
    tasks = [name for name in TASKS if any(run.task == name for run in runs)]
    if all(sum(run.task == name for run in runs) < 2 for name in tasks):
        given = ", ".join(f"{run.label} ({run.task})" for run in runs) or "none"
        raise OptionError(
            f"nothing to compare, given: {given}. Give two runs of one task, or --baselines for those of a run"
        )
    groups = {name: [run for run in runs if run.task == name] for name in tasks}
    for members in groups.values():
        if not allow_different_data:
            _require_same_data(members)
    return {name: _compared(name, members) for name, members in groups.items()}


def _require_same_data(runs: Sequence[MeasuredRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for kind, fingerprint in run.data.items():
            if fingerprint != first.data.get(kind):
                raise OptionError(
                    f"{first.label} and {run.label} ({run.task}) are of different data: the sha256 of {kind} is"
                    f" {_short(first.data.get(kind))} and {_short(fingerprint)}. Figures on different data say nothing"
                    " about models; --allow-different-data compares them all the same, unpaired"
                )


def _compared(task: str, runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    first, *others = runs
    differences = []
    for run in others:
        same = run.data == first.data
        found = {one.metric: one for one in changes(first, run, same_data=same)}
        differences.append(
            {
                "run": run.label,
                "against": first.label,
                "same_data": same,
                "changes": [_json(found[name]) for name in in_order(found)],
            }
        )
    rows = published_rows(task)
    return {
        "runs": {run.label: _run_json(run) for run in runs},
        "differences": differences,
        "published": {
            "mark": MARK,
            "sources": {key: SOURCES[key] for key in sorted({row.source for row in rows})},
            "rows": [asdict(row) for row in rows],
        },
    }


def _run_json(run: MeasuredRun) -> dict[str, Any]:
    data = run.results["data"]
    return {
        "data": run.data,
        "samples": data["samples"],
        "photos": data["photos"],
        "metrics": {
            name: {"value": score["value"], "interval": score["interval"], "made": score["made"]}
            for name, score in run.metrics.items()
        },
    }


def _json(change: Change) -> dict[str, Any]:
    return asdict(change) | {"verdict": change.verdict}


def markdown(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """What `compare` found, as Markdown: scores, differences and published rows of each task.

    Example:
        >>> markdown({})
        ''
    """
    return "\n".join(_task_markdown(task, found) for task, found in compared.items())


def _task_markdown(task: str, found: Mapping[str, Any]) -> str:
    runs = found["runs"]
    names = in_order(name for run in runs.values() for name in run["metrics"])
    text = f"## {task_named(task).title}\n\n"
    text += _table(["metric", *runs], [_score_row(name, runs.values()) for name in names])
    if len({json.dumps(run["data"], sort_keys=True) for run in runs.values()}) > 1:
        text += "\nDifferent data: figures side by side, not like with like.\n"
    if found["differences"]:
        text += f"\n{_differences_markdown(found['differences'])}"
    if found["published"]["rows"]:
        text += f"\n{_published_markdown(found['published'])}"
    return text


def _score_row(name: str, runs: Any) -> list[str]:
    return [metric_name(name), *(with_interval(run["metrics"].get(name)) for run in runs)]


def _differences_markdown(differences: Sequence[Mapping[str, Any]]) -> str:
    notes: dict[str, int] = {}
    head = ["metric"]
    columns: list[dict[str, str]] = []
    for difference in differences:
        kind = "" if difference["same_data"] else ", unpaired: different data"
        head.append(f"{difference['run']} minus {difference['against']}{kind}")
        columns.append({})
        for values in difference["changes"]:
            change = Change(**{key: value for key, value in values.items() if key != "verdict"})
            words = figure(change.value, change.low, change.high, signed=True)
            mark = f" [{notes.setdefault(change.note, len(notes) + 1)}]" if change.note else ""
            columns[-1][change.metric] = f"{words} {verdict(change)}{mark}"
    metrics = in_order(name for column in columns for name in column)
    rows = [[metric_name(name), *(column.get(name, "") for column in columns)] for name in metrics]
    text = f"Differences, 95 % intervals over photos; {_MEANING}\n\n{_table(head, rows)}"
    text += "".join(f"\n[{index}] {note}" for note, index in notes.items())
    return text + ("\n" if notes else "")


_MEANING = (
    "larger than noise (better, worse) where the interval leaves out zero. Of many comparisons, one in twenty does so"
    " by chance."
)


def _published_markdown(published: Mapping[str, Any]) -> str:
    rows = published["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    body = [
        [
            row["model"], row["data"], *(_number(row["values"].get(name)) for name in names),
            row["source"], row["note"],
        ]
        for row in rows
    ]  # fmt: skip
    head = ["model", "data", *map(metric_name, names), "source", "note"]
    sources = "\n".join(f"{key}: {text}" for key, text in published["sources"].items())
    return f"{published['mark'][0].upper()}{published['mark'][1:]}:\n\n{_table(head, body)}\n{sources}\n"


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else fingerprint[:_DIGITS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Lay finished runs side by side: scores, differences, what is larger than noise.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN",
        help="folder of a run, or one that holds such folders; the first run of a task is what others are compared"
        " with")  # fmt: skip
    add("--baselines", action="store_true", help="also the baselines of each run")
    add("--allow-different-data", action="store_true",
        help="compare runs on different data, unpaired")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of Markdown tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
