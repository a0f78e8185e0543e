"""The command that all tasks share: arguments in, tables out.

Knows: options and their names, where a run's folder is. Does NOT know: how anything is measured.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.arguments import natural, not_negative, positive, positive_number
from benchmarks.captioner import LoadModel, load_pretrained
from benchmarks.runner.answerers import BASELINES
from benchmarks.runner.plan import Outcome, Run, execute
from benchmarks.runner.results import table
from benchmarks.runner.settings import RunSettings
from benchmarks.tasks import Task, task_named
from patchioner.base.errors import OptionError, PatchionerError

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 10


def run_command(
    task_name: str, argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained
) -> int:
    """Run the command of one task.

    Args:
        task_name: "trace", "dense", "region_set", "image" or "objects".
        argv: arguments without the program's name; None takes the process's.
        load_model: makes a model from (name, device); tests put a small one in.

    Returns:
        0; 1 after an error.

    Example:
        >>> run_command("dense", ["--limit", "10", "--baseline", "whole"])  # doctest: +SKIP
    """
    task = task_named(task_name)
    arguments = parser_of(task).parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.out or Path(scratch) / "run"
            name = Path(arguments.model).name or arguments.model
            run = Run(name, settings_of(task, arguments), folder)
            outcomes = execute([run], load_model=load_model, resume=arguments.resume)
            if arguments.out is not None:
                write_reports(outcomes)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(report(outcomes))
    if arguments.out is not None:
        sys.stdout.write(
            f"\npredictions.jsonl, results.json and report.html are in {arguments.out}\n"
        )
    return 0


def report(outcomes: Sequence[Outcome]) -> str:
    """A table per task (runs and their baselines down), then the rows that were left out.

    Example:
        >>> report([])
        ''
    """
    text = ""
    for name in dict.fromkeys(outcome.run.settings.task for outcome in outcomes):
        of_task = [outcome for outcome in outcomes if outcome.run.settings.task == name]
        rows = [row for outcome in of_task for row in _rows(outcome, alone=len(of_task) == 1)]
        gap = "\n" if text else ""
        text += f"{gap}## {task_named(name).title}\n\n{table(rows)}"
        for outcome in of_task:
            text += _left_out(outcome)
    return text


def write_reports(outcomes: Sequence[Outcome], together: Path | None = None) -> None:
    """The HTML report of each run, in its folder; and one of all of them.

    Args:
        outcomes: finished runs.
        together: the file of the report of all of them; None writes none.

    Example:
        >>> write_reports(outcomes, Path("build/benchmarks/report.html"))  # doctest: +SKIP
    """
    # The report reads what runs have written, so its modules import this package.
    from benchmarks.report import REPORT_FILE, write_report

    folders = [outcome.run.folder for outcome in outcomes]
    wanted = [([folder], folder / REPORT_FILE) for folder in folders]
    if together is not None:
        wanted.append((folders, together))
    for members, path in wanted:
        for note in write_report(members, path):
            logger.warning("%s: %s", path, note)


def _rows(outcome: Outcome, *, alone: bool) -> list[Mapping[str, Any]]:
    """The model's row and its baselines'; with other runs beside it, baselines carry the run's name."""
    below = [
        result
        | {"label": f"baseline: {name}" if alone else f"{outcome.run.name}, baseline: {name}"}
        for name, result in outcome.baselines.items()
    ]
    return [outcome.results, *below]


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


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, for arguments that come from a file."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def settings_from(task_name: str, options: Mapping[str, Any], source: str) -> RunSettings:
    """Settings from a mapping with the names of the command's options, as a YAML file has them.

    Args:
        task_name: the task.
        options: "weighting": "uniform", "baseline": ["whole", "crop"], "strict": true, ...; `-` and `_` are the same.
        source: what to name in errors.

    Raises:
        OptionError: an option that is not there or a value outside of its allowed ones.

    Example:
        >>> settings_from("dense", {"variance": 0.5, "baseline": ["whole"]}, "a.yaml").baselines
        ('whole',)
    """
    task = task_named(task_name)
    words: list[str] = []
    for key, value in options.items():
        values = value if isinstance(value, list) else [value]
        for one in values:
            if one is not None and one is not False:
                flag = f"--{str(key).replace('_', '-')}"
                words += [flag] if one is True else [f"{flag}={one}"]
    parser = parser_of(task, _Parser)
    try:
        return settings_of(task, parser.parse_args(words))
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from error


def settings_of(task: Task, arguments: argparse.Namespace) -> RunSettings:
    """The parsed arguments as settings."""
    names = {field.name for field in fields(RunSettings)}
    values = {key: value for key, value in vars(arguments).items() if key in names}
    values["baselines"] = tuple(dict.fromkeys(arguments.baseline or ()))
    values["metrics"] = tuple(dict.fromkeys(arguments.metric or ()))
    return RunSettings(task=task.name, **values)


def parser_of(
    task: Task, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """The parser of a task's command."""
    parser = kind(
        prog=f"python -m benchmarks.{task.name}",
        description=f"Measure a model on {task.title}: predictions, scores, baselines.",
        allow_abbrev=False,
    )
    _add_inputs(parser, task)
    _add_model_options(parser)
    _add_run_options(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser, task: Task) -> None:
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder, YAML file or hub id")
    add("--data", default=task.data, help="annotations in the authors' form (default: the dev set)")
    add("--images", default=task.images, help="folder of the photos")
    if task.name == "image":
        add("--references", help="file with the captions, where --data lists images alone")
    if task.name == "dense":
        add("--merge-references", action="store_true",
            help="captions of one and the same box are references of one sample")  # fmt: skip
    add("--limit", type=positive, help="only the first N samples of the file")
    add("--strict", action="store_true", help="refuse a malformed row; default: skip and report it")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model", "default: what the model itself says")
    add = group.add_argument
    add("--weighting", choices=["uniform", "gaussian", "attention", "cls"], help="of patches")
    add("--variance", type=not_negative, help="of --weighting gaussian")
    add("--rounding", choices=["coverage", "reference"],
        help="reference: the published integer arithmetic")  # fmt: skip
    add("--temperature", type=positive_number, help="of the projection onto the memory")
    add("--context", type=not_negative, help="share of the whole photo mixed into a region")
    add("--size", type=positive, help="side of the backbone's input in pixels")
    add("--beam", type=positive, help="beam width, 1 = greedy")
    add("--max-tokens", type=positive, help="longest caption")
    add("--crop", action="store_true", help="caption each region's crop instead of its patches")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--baseline", action="append", metavar="NAME",
        help=f"also run a baseline ({', '.join(BASELINES.names())}); may be given again")  # fmt: skip
    add("--clip-model", help="for the baseline clip: a model with a CLIP backbone and a memory")
    add("--metric", action="append", metavar="NAME",
        help="a further metric: spice, or module:function of your own")  # fmt: skip
    add("--java", choices=["auto", "yes", "no"], default="auto",
        help="the official metrics: auto = where Java and pycocoevalcap are")  # fmt: skip
    add(
        "--clip-score",
        metavar="ARCH=FILE",
        help="CLIP-S by open_clip, e.g. ViT-B-32-quickgelu=B32.pt",
    )
    add("--pac-score", metavar="ARCH=FILE", help="PAC-S, likewise, by its own checkpoint")
    add("--rounds", type=positive, default=2000, help="bootstrap resamples")
    add("--seed", type=natural, default=0, help="of every random choice")
    add("--batch", type=positive, default=16, help="photos whose regions are decoded together")
    add("--device", default="cpu")
    add("--out", type=Path, help="folder for predictions.jsonl and results.json")
    add("--resume", action="store_true", help="go on with what --out holds")
