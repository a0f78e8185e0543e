"""Command: many runs from YAML files, with one load of each model and one backbone pass per photo.

    python -m benchmarks.all --config configs/benchmarks/dev.yaml --out build/benchmarks

A file holds `runs`, each with its `task` and the options of that task's command by their names, and `defaults` for all:

    defaults: {model: patchioner-mini, java: "no"}
    runs:
      dense-gaussian: {task: dense, weighting: gaussian, variance: 0.5, baseline: [whole, crop]}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import command_parser, run_command
from benchmarks.data import TASK_NAMES
from benchmarks.report import REPORT_FILE
from benchmarks.run import Run, execute, report, write_reports
from benchmarks.settings import settings_from
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.files import atomic_path
from patchioner.base.optional import require

TABLES_FILE = "tables.md"
_KEYS = ("defaults", "runs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = command_parser("all", "Do all runs of YAML files.")
    add = parser.add_argument
    add("--config", type=Path, nargs="+", required=True, help="YAML files")
    add("--data", type=Path, help="data folder of the runs that name none (the sample set)")
    default = Path("build/benchmarks")
    add("--out", type=Path, default=default, help="a folder per file, in it one per run")
    add("--resume", action="store_true", help="go on with what --out holds")
    return run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    out = arguments.out
    runs = [run for path in arguments.config for run in read_runs(path, out, arguments.data)]
    outcomes = execute(runs, resume=arguments.resume)
    text = report(outcomes)
    with atomic_path(out / TABLES_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_reports(outcomes, out / REPORT_FILE)
    sys.stdout.write(f"{text}\nEverything is in {out}: {REPORT_FILE}, and a folder per run\n")


def read_runs(path: Path, out: Path, data: Path | None = None) -> list[Run]:
    """The runs of one file, each in the folder `out`/<name of the file>/<name of the run>."""
    yaml = require("yaml", "metrics")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not YAML: {error}") from error
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("runs"), Mapping):
        raise OptionError(f"{path} has no runs: write 'runs:' and below it a name for each")
    for key in content:
        if key not in _KEYS:
            raise UnknownNameError.among(f"key of {path}:", str(key), _KEYS)
    defaults = content.get("defaults") or {}
    if isinstance(defaults, Mapping) and data is not None:
        defaults = {"data": str(data), **defaults}
    return [_run(path, str(name), defaults, entry, out) for name, entry in content["runs"].items()]


def _run(path: Path, name: str, defaults: Any, entry: Any, out: Path) -> Run:
    source = f"{path}: run {name!r}"
    if not isinstance(entry, Mapping) or not isinstance(defaults, Mapping):
        raise OptionError(f"{source} must hold options, as in {{task: dense, weighting: uniform}}")
    options = {str(key).replace("-", "_"): value for key, value in {**defaults, **entry}.items()}
    task = options.pop("task", None)
    if not isinstance(task, str):
        raise OptionError(f"{source} must name its task: {', '.join(TASK_NAMES)}")
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] == ".":
        raise OptionError(f"{source}: a run's name becomes a folder; use letters, digits, - _ .")
    for key in ("out", "resume"):
        if key in options:
            raise OptionError(f"{source}: {key!r} belongs on the command line, for all runs")
    return Run(name, settings_from(task, options, source), out / path.stem / name)


if __name__ == "__main__":
    sys.exit(main())
