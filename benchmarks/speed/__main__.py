"""The command `python -m benchmarks.speed`: times a model, or our engine against the published way of the same work.

python -m benchmarks.speed --rounds 5 --json speed.json        # a model: backbone pass, captions, starts
python -m benchmarks.speed --suite cpu                         # against the naive twin, at published shapes
python -m benchmarks.speed --suite gpu                         # ours on a GPU, in bfloat16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.speed.sides import SHAPES
from benchmarks.speed.suites import run_cpu_suite, run_gpu_suite, run_model_suite
from patchioner.base.errors import PatchionerError
from patchioner.cli.spelling import positive_int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error.

    Args:
        argv: arguments without the program's name; None takes the process's.
    """
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    suites = {"model": run_model_suite, "cpu": run_cpu_suite, "gpu": run_gpu_suite}
    try:
        return suites[arguments.suite](arguments)
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
    rounds = "measured rounds, after one to warm up; default: 5, of suite cpu 3"
    add("--rounds", type=positive_int, help=rounds)
    add("--threads", type=positive_int, help="torch threads; default: torch's")
    add("--json", type=Path, help="write settings, machine and every round as JSON")
    add("--work", type=Path, help="folder that keeps the bank; default: a temporary one")
    model = parser.add_argument_group("suite model").add_argument
    model("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    model("--device", default="cpu")
    model("--photo", type=Path, help="default: a generated 640 x 480 picture")
    counts = [1, 10, 100, 1000]
    model("--regions", type=positive_int, nargs="+", default=counts, help="numbers of boxes")
    model("--no-starts", action="store_true", help="skip import and cold start")
    suites = parser.add_argument_group("suites cpu and gpu").add_argument
    suites("--shapes", choices=list(SHAPES), default="published", help="default: %(default)s")
    chunks = "chunks of four boxes that the published way really runs; the rest is scaled"
    suites("--naive-chunks", type=positive_int, default=3, help=chunks)
    suites("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
