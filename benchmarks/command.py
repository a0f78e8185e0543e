"""What the commands share: how one is run, argument types, tables."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import SAMPLE
from patchioner.base.progress import guarded
from patchioner.cli import spelling

Parser = argparse.ArgumentParser
CIDER_WARNING = "CIDEr counts how rare words are in its own set: figures of other sets (published ones) do not compare."


def command_parser(name: str, told: str, kind: type[Parser] = Parser) -> Parser:
    """The parser of `python -m benchmarks.NAME`, with what `--help` tells first."""
    return kind(prog=f"python -m benchmarks.{name}", description=told, allow_abbrev=False)


def add_model_and_data(parser: Parser) -> None:
    """`--model`, `--data` and `--device` of a command that measures a model on a data folder."""
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder, YAML file or hub id")
    add("--data", type=Path, default=SAMPLE, help="holds annotations/ and photos/ (the sample set)")
    add("--device", default="cpu")


def run_command(parser: Parser, work: Callable[..., int | None], argv: Sequence[str] | None) -> int:
    """Parse and work: what `work` gives (None is 0), 1 after an error, 130 when stopped."""
    arguments = parser.parse_args(argv)
    return guarded(lambda: work(arguments))


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a command as JSON values."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in vars(arguments).items()}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def figure(value: float, low: float | None, high: float | None, *, signed: bool = False, digits: int = 1) -> str:
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


positive, natural = spelling.positive_int, spelling.natural
