"""The arguments of `python -m benchmarks.speed`, and which suite they choose.

Knows: names and defaults. Does NOT know: how anything is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.answerers import LoadModel
from benchmarks.command import positive
from benchmarks.run import load_pretrained
from benchmarks.speed.model import REGION_COUNTS, run_model_suite
from benchmarks.speed.shapes import SHAPES
from patchioner.base.errors import PatchionerError


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model of the suite "model" from (name, device); tests put a small one in.

    Returns:
        0, or 1 after an error or, with --check, a missed target.

    Example:
        >>> main(["--rounds", "3"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        if arguments.suite == "cpu":
            from benchmarks.speed.cpu import run_cpu_suite

            return run_cpu_suite(arguments)
        if arguments.suite == "gpu":
            from benchmarks.speed.gpu import run_gpu_suite

            return run_gpu_suite(arguments)
        return run_model_suite(arguments, load_model)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time a model (report only), or our engine against the published way.",
    )
    add = parser.add_argument
    add("--suite", choices=["model", "cpu", "gpu"], default="model", help="default: %(default)s")
    add(
        "--rounds",
        type=positive,
        help="measured rounds, after one to warm up; default: 5, of suite cpu 3",
    )
    add("--threads", type=positive, help="torch threads; default: torch's")
    add("--json", type=Path, help="write settings, machine and every round as JSON")
    model = parser.add_argument_group("suite model").add_argument
    model("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    model("--device", default="cpu")
    model("--photo", type=Path, help="default: a generated 640 x 480 picture")
    model(
        "--regions", type=positive, nargs="+", default=list(REGION_COUNTS), help="numbers of boxes"
    )
    model("--no-starts", action="store_true", help="skip import and cold start")
    suites = parser.add_argument_group("suites cpu and gpu").add_argument
    suites("--shapes", choices=list(SHAPES), default="published", help="default: %(default)s")
    suites(
        "--work",
        type=Path,
        help="folder that keeps the bank between runs; default: a temporary one",
    )
    suites("--check", action="store_true", help="end with status 1 where a target is missed")
    suites(
        "--naive-chunks",
        type=positive,
        default=3,
        help="chunks of four that the published way really runs of 100 and 1,000 boxes; the rest is scaled",
    )
    suites("--child", help=argparse.SUPPRESS)
    return parser
