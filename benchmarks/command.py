"""What the commands share: how one is run, argument types, and the command of the five tasks."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.answerers import BASELINES, RunSettings
from benchmarks.data import SAMPLE, Task, task_named
from benchmarks.run import Outcome, Run, execute
from patchioner.base.errors import OptionError, PatchionerError

logger = logging.getLogger(__name__)

CIDER_WARNING = "CIDEr counts how rare words are in its own set: figures of other sets (published ones) do not compare."
SHOWN = (
    "object_hits", "object_hits_but_person", "object_margin", "object_wins", "mAP", "mAP (stem-F)", "cider", "meteor",
    "stem_f", "rouge_l", "bleu4", "bleu1", "spice", "cider_one_reference", "grounding_margin", "grounding_wins",
    "repeated_pairs",
)  # fmt: skip
"""Metrics of the terminal table, in this order; further ones follow. results.json has all."""
HIDDEN = (
    "bleu2", "bleu3", "unique_captions", "detmap", "bleu4_one_reference", "rouge_l_one_reference"
)  # fmt: skip
_SHOWN_ROWS = 10


def command_parser(
    name: str, told: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`, with what `--help` tells first."""
    return kind(prog=f"python -m benchmarks.{name}", description=told, allow_abbrev=False)


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--data` and `--device` of a command that measures a model on a data folder."""
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder, YAML file or hub id")
    add("--data", type=Path, default=SAMPLE, help="holds annotations/ and photos/ (the sample set)")
    add("--device", default="cpu")


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
) -> int:
    """Parse and work: what `work` gives (None is 0), 1 after an error, 130 when stopped."""
    arguments = parser.parse_args(argv)
    try:
        return work(arguments) or 0
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a command as JSON values."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in vars(arguments).items()}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def figure(
    value: float, low: float | None, high: float | None, *, signed: bool = False, digits: int = 1
) -> str:
    """A value, with its bounds if it has them; never -0.0; "-" where it is undefined."""
    if math.isnan(value):
        return "-"
    text, form = f"{value:{'+' if signed else ''}z.{digits}f}", f"z.{digits}f"
    return text if low is None or high is None else f"{text} ({low:{form}} to {high:{form}})"


def with_interval(score: Mapping[str, Any] | None) -> str:
    """A score of results.json, with its interval where it has one."""
    if score is None:
        return ""
    ends = score["interval"] or {"low": None, "high": None}
    return figure(score["value"], ends["low"], ends["high"])


def number(kind: type[int] | type[float], low: float) -> Any:
    """An argument type: a finite number of at least `low`."""

    def read(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or value < low:
            raise argparse.ArgumentTypeError(f"{text} is not a number of at least {low:g}")
        return value

    read.__name__ = kind.__name__
    return read


positive, natural = number(int, 1), number(int, 0)


def run_task(name: str, argv: Sequence[str] | None = None) -> int:
    """The command of one task."""
    task = task_named(name)
    return run_command(parser_of(task), lambda arguments: _run_task(task, arguments), argv)


def _run_task(task: Task, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch) / "run"
        name = Path(arguments.model).name or arguments.model
        run = Run(name, settings_of(task, arguments), folder)
        outcomes = execute([run], resume=arguments.resume)
        if arguments.out is not None:
            write_reports(outcomes)
    sys.stdout.write(report(outcomes))
    if arguments.out is not None:
        told = "predictions.jsonl, results.json and report.html"
        sys.stdout.write(f"\n{told} are in {arguments.out}\n")


def report(outcomes: Sequence[Outcome]) -> str:
    """A table per task (runs and their baselines down), then the rows that were left out."""
    text = ""
    for name in dict.fromkeys(outcome.run.settings.task for outcome in outcomes):
        of_task = [outcome for outcome in outcomes if outcome.run.settings.task == name]
        rows: list[Mapping[str, Any]] = []
        for outcome in of_task:
            # With other runs beside it, baselines carry the run's name.
            owner = "" if len(of_task) == 1 else f"{outcome.run.name}, "
            rows.append(outcome.results)
            rows += [r | {"label": f"{owner}baseline: {n}"} for n, r in outcome.baselines.items()]
        gap = "\n" if text else ""
        text += f"{gap}## {task_named(name).title}\n\n{score_table(rows)}"
        if any("cider" in row["metrics"] for row in rows):
            text += f"\n{CIDER_WARNING}\n"
        text += "".join(map(_left_out, of_task))
    return text


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown table: runs down, metrics across, each with its interval over photos."""
    there = dict.fromkeys(name for row in rows for name in row["metrics"])
    names = [name for name in SHOWN if name in there]
    names += [name for name in there if name not in SHOWN and name not in HIDDEN]
    body = [
        [row["label"], str(row["data"]["samples"])]
        + [with_interval(row["metrics"].get(name)) for name in names]
        for row in rows
    ]
    return markdown_table(["run", "samples", *names], body)


def _left_out(outcome: Outcome) -> str:
    skipped = outcome.results["skipped"]
    rows = [*skipped["malformed"], *skipped["unanswered"]]
    if not rows:
        return ""
    shown = [f"  row {row['row']} ({row['where']}): {row['reason']}\n" for row in rows]
    more = len(rows) - _SHOWN_ROWS
    rest = f"  and {more} more, see results.json\n" if more > 0 else ""
    count = f"{len(rows)} row{'s' * (len(rows) != 1)}"
    return f"\n{outcome.run.name}: {count} left out\n{''.join(shown[:_SHOWN_ROWS])}{rest}"


def write_reports(outcomes: Sequence[Outcome], together: Path | None = None) -> None:
    """The HTML report of each run, in its folder; and in `together`, if given, one of all of them."""
    from benchmarks.report import REPORT_FILE, write_report  # it reads what runs have written

    folders = [outcome.run.folder for outcome in outcomes]
    wanted = [([folder], folder / REPORT_FILE) for folder in folders]
    if together is not None:
        wanted.append((folders, together))
    for members, path in wanted:
        for note in write_report(members, path):
            logger.warning("%s: %s", path, note)


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, for arguments that come from a file."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def settings_from(task_name: str, options: Mapping[str, Any], source: str) -> RunSettings:
    """Settings from a mapping with the names of the command's options, as a YAML file has them; `-` and `_` are one.

    OptionError: an option that is not there or a value outside of its allowed ones; `source` is named.
    """
    task = task_named(task_name)
    words: list[str] = []
    for key, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                flag = f"--{str(key).replace('_', '-')}"
                words += [flag] if one is True else [f"{flag}={one}"]
    try:
        return settings_of(task, parser_of(task, _Parser).parse_args(words))
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from error


def settings_of(task: Task, arguments: argparse.Namespace) -> RunSettings:
    """The parsed arguments as settings, with the files that they lead to."""
    names = {field.name for field in fields(RunSettings)}
    values = {key: value for key, value in vars(arguments).items() if key in names}
    data, images = task.files(arguments.data, arguments.images)
    values |= {"data": str(data), "images": str(images)}
    values["baselines"] = tuple(dict.fromkeys(arguments.baseline or ()))
    values["metrics"] = tuple(dict.fromkeys(arguments.metric or ()))
    return RunSettings(task=task.name, **values)


def parser_of(
    task: Task, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """The parser of a task's command."""
    told = f"Measure a model on {task.title}: predictions, scores, baselines."
    parser = command_parser(task.name, told, kind)
    add_model_and_data(parser)
    add = parser.add_argument
    add("--images", type=Path, help="photos of a --data that is a file in the authors' form")
    if task.name == "image":
        add("--references", help="file with the captions, where --data lists images alone")
    add("--limit", type=positive, help="only the first N samples of the file")
    add("--strict", action="store_true", help="refuse a malformed row; default: skip and report it")
    add("--baseline", action="append", metavar="NAME",
        help=f"also run a baseline ({', '.join(BASELINES)}); may be given again")  # fmt: skip
    add("--out", type=Path, help="folder for predictions.jsonl, results.json and report.html")
    add("--resume", action="store_true", help="go on with what --out holds")
    _add_model_options(parser)
    _add_advanced(parser)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model", "default: what the model itself says")
    add = group.add_argument
    add("--weighting", choices=["uniform", "gaussian", "attention", "cls"], help="of patches")
    add("--variance", type=number(float, 0), help="of --weighting gaussian")
    add("--rounding", choices=["coverage", "reference"],
        help="reference: the published integer arithmetic")  # fmt: skip
    add("--beam", type=positive, help="beam width, 1 = greedy")
    add("--crop", action="store_true", help="caption each region's crop instead of its patches")


def _add_advanced(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("advanced").add_argument
    add("--clip-model", help="for the baseline clip: a model with a CLIP backbone and a memory")
    add("--metric", action="append", metavar="NAME",
        help="a further metric: spice, or module:function of your own")  # fmt: skip
    add("--java", choices=["auto", "yes", "no"], default="auto",
        help="the official metrics: auto = where Java and pycocoevalcap are")  # fmt: skip
    clip = "CLIP-S by open_clip, e.g. ViT-B-32-quickgelu=B32.pt"
    add("--clip-score", metavar="ARCH=FILE", help=clip)
    add("--pac-score", metavar="ARCH=FILE", help="PAC-S, likewise, by its own checkpoint")
    add("--rounds", type=positive, default=2000, help="bootstrap resamples")
    add("--seed", type=natural, default=0, help="of every random choice")
    add("--batch", type=positive, default=16, help="photos whose regions are decoded together")
