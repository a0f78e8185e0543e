"""Command: many runs from YAML files, with one load of each model and one backbone pass per photo.

    python -m benchmarks.all --config configs/benchmarks/dev.yaml --out build/benchmarks

A file holds `runs`, each with its `task` and the options of that task's command by their names, and `defaults` for all:

    defaults: {model: patchioner-mini, java: "no"}
    runs:
      dense-gaussian: {task: dense, weighting: gaussian, variance: 0.5, baseline: [whole, crop]}

Knows: the form of these files. Does NOT know: the options (`benchmarks.runner.command`) or the work (`.plan`).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.captioner import LoadModel, load_pretrained
from benchmarks.report import REPORT_FILE
from benchmarks.runner import Run, execute
from benchmarks.runner.command import report, settings_from, write_reports
from benchmarks.tasks import TASKS
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import atomic_path
from patchioner.base.optional import require

DEFAULT_OUT = Path("build/benchmarks")
TABLES_FILE = "tables.md"
_KEYS = ("defaults", "runs")


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes a model from (name, device); tests put a small one in.

    Returns:
        0; 1 after an error.

    Example:
        >>> main(["--config", "configs/benchmarks/dev.yaml"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        runs = [run for path in arguments.config for run in read_runs(path, arguments.out)]
        wanted = [run for run in runs if not arguments.only or run.name in arguments.only]
        _check_names(arguments.only or (), runs)
        outcomes = execute(wanted, load_model=load_model, resume=arguments.resume)
        text = report(outcomes)
        with atomic_path(arguments.out / TABLES_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_reports(outcomes, arguments.out / REPORT_FILE)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(
        f"{text}\nEverything is in {arguments.out}: {REPORT_FILE}, and a folder per run\n"
    )
    return 0


def read_runs(path: Path, out: Path) -> list[Run]:
    """The runs of one file, each in the folder `out`/<name of the file>/<name of the run>.

    Raises:
        OptionError: the file is not in the form above; an unknown key is named with the close ones.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> [run.name for run in read_runs(Path("configs/benchmarks/dev.yaml"), Path("out"))]  # doctest: +SKIP
    """
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
            close = difflib.get_close_matches(str(key), _KEYS, n=1) or _KEYS
            raise OptionError(f"{path}: unknown key {key!r}; did you mean {' or '.join(close)}?")
    defaults = content.get("defaults") or {}
    return [_run(path, str(name), defaults, entry, out) for name, entry in content["runs"].items()]


def _run(path: Path, name: str, defaults: Any, entry: Any, out: Path) -> Run:
    source = f"{path}: run {name!r}"
    if not isinstance(entry, Mapping) or not isinstance(defaults, Mapping):
        raise OptionError(f"{source} must hold options, as in {{task: dense, weighting: uniform}}")
    options = {str(key).replace("-", "_"): value for key, value in {**defaults, **entry}.items()}
    task = options.pop("task", None)
    if not isinstance(task, str):
        raise OptionError(f"{source} must name its task: {', '.join(TASKS)}")
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] == ".":
        raise OptionError(f"{source}: a run's name becomes a folder; use letters, digits, - _ .")
    for key in ("out", "resume"):
        if key in options:
            raise OptionError(f"{source}: {key!r} belongs on the command line, for all runs")
    return Run(name, settings_from(task, options, source), out / path.stem / name)


def _check_names(only: Sequence[str], runs: Sequence[Run]) -> None:
    known = [run.name for run in runs]
    for name in only:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or known
            raise OptionError(f"no run is called {name!r}: did you mean {', '.join(close)}?")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all",
        description="Do all runs of YAML files.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, nargs="+", required=True, help="YAML files")
    add("--only", nargs="+", metavar="RUN", help="only the runs of these names")
    add("--out", type=Path, default=DEFAULT_OUT, help="a folder per file, in it one per run")
    add("--resume", action="store_true", help="go on with what --out holds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
