"""Command: memory and time of every published decoder and every backbone, at true shapes with random weights.

    python -m benchmarks.variants                   # a memory bank of 50,000 rows
    python -m benchmarks.variants --full            # the published 591,753
    python -m benchmarks.variants --quick           # a slice, to see that it works

Each variant gets a process of its own. There it is built and works once, and the peak of resident memory is read; then
it is saved in half precision, and timed in turns with a DINOv2 ViT-B/14 (with registers, 518 pixels) that is built
beside it. The time is the ratio of the two medians, which says more than seconds of one machine. A decoder's work is
captions of 10 regions, 15 tokens each, greedily, the memory bank and hard prompts included.

Knows: which variants there are, their table. Does NOT know: how they are built (`variant_parts`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import positive
from benchmarks.timing import peak_memory_mb, run_process
from benchmarks.variant_parts import (
    BACKBONES,
    COUNTED,
    DECODERS,
    REFERENCE,
    REGIONS,
    TOKENS,
    Variant,
    builder,
    count_only,
    make_bank,
)
from patchioner.base.errors import PatchionerError
from patchioner.base.files import write_json
from patchioner.base.progress import progress

ROWS, FULL_ROWS, QUICK_ROWS = 50_000, 591_753, 500
QUICK = ("CapDec, no bank", "CLIP ViT-B/16, 224")


@dataclass(frozen=True)
class Measured:
    """One line of the table.

    Attributes:
        name: of the variant.
        parameters: weights, without a memory bank's rows.
        disk: bytes of its files in half precision, the bank's included; for what was not built, two a weight.
        peak_mb: peak resident memory of its process in MiB, Python and libraries included.
        before_mb: the peak before anything was built.
        seconds: median of its rounds; None where it was not run.
        ratio: of that to the median of the reference's rounds.
    """

    name: str
    parameters: int
    disk: int
    peak_mb: float | None = None
    before_mb: float | None = None
    seconds: float | None = None
    ratio: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.

    Returns:
        0, or 1 after an error.

    Example:
        >>> main(["--quick"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.measure is not None:
            measured = measure(
                builder(arguments.measure, arguments.folder),
                builder(REFERENCE, arguments.folder),
                name=arguments.measure,
                rounds=arguments.rounds,
            )
            sys.stdout.write(json.dumps(asdict(measured)) + "\n")
        elif arguments.make_bank:
            make_bank(arguments.rows, arguments.folder / "bank")
        else:
            _run(arguments)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    names = list(QUICK) if arguments.quick else [*DECODERS, *BACKBONES]
    rows = FULL_ROWS if arguments.full else QUICK_ROWS if arguments.quick else arguments.rows
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--folder", folder, "--rows", str(rows), "--rounds", str(rounds)]
        command = [sys.executable, "-m", "benchmarks.variants", *shared]
        run_process([*command, "--make-bank"])
        measured = [
            Measured(**json.loads(run_process([*command, "--measure", name]).splitlines()[-1]))
            for name in progress(names, description="measuring", unit="variant")
        ]
    if not arguments.quick:
        for name in COUNTED:
            parameters = count_only(name)
            measured.append(Measured(name, parameters, 2 * parameters))
    sys.stdout.write(table(measured))
    before = [line.before_mb for line in measured if line.before_mb is not None]
    sys.stdout.write(f"\n{_explanation(rows, rounds, max(before, default=0.0))}\n")
    if arguments.json is not None:
        lines = [asdict(line) for line in measured]
        write_json(arguments.json, {"rows": rows, "rounds": rounds, "variants": lines})


def measure(
    build: Callable[[], Variant],
    build_reference: Callable[[], Variant],
    *,
    name: str,
    rounds: int,
) -> Measured:
    """Build a variant, let it work, save it, and time it in turns with the reference.

    Args:
        build: makes the variant; nothing large should be held before.
        build_reference: makes what its time is compared with.
        name: of the line.
        rounds: of both, after one each to warm up.

    Example:
        >>> thing = Variant(0, lambda: None, lambda folder: None)
        >>> measure(lambda: thing, lambda: thing, name="nothing", rounds=3).disk
        0
    """
    before = peak_memory_mb()
    variant = build()
    variant.work()
    peak = peak_memory_mb()
    with tempfile.TemporaryDirectory() as folder:
        variant.save(Path(folder))
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    reference = build_reference()
    reference.work()
    own: list[float] = []
    others: list[float] = []
    for _ in range(rounds):
        for work, seconds in ((variant.work, own), (reference.work, others)):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    median = statistics.median(own)
    ratio = median / statistics.median(others)
    return Measured(name, variant.parameters, disk, peak, before, median, ratio)


def table(measured: Sequence[Measured]) -> str:
    """The lines as a Markdown table.

    Example:
        >>> table([Measured("one", 2_000_000, 4_000_000)]).splitlines()[-1]
        '| one | 2.0 | 3.8 | not run | |'
    """
    lines = [
        "| variant | parameters, millions | on disk (fp16), MiB | peak memory, MiB | time, x ViT-B pass |",
        "|---|---|---|---|---|",
    ]
    for line in measured:
        peak = "not run" if line.peak_mb is None else f"{line.peak_mb:,.0f}"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f} "
        cells = f"{line.parameters / 1e6:,.1f} | {line.disk / 2**20:,.1f} | {peak} | {ratio}|"
        lines.append(f"| {line.name} | {cells}")
    return "\n".join(lines) + "\n"


def _explanation(rows: int, rounds: int, before: float) -> str:
    return (
        f"Random weights in float32 on the CPU, {torch.get_num_threads()} thread(s), memory bank of {rows:,} rows in "
        f"float16. Time: median of {rounds} round(s) in turns with {REFERENCE}; decoders caption {REGIONS} regions "
        f"with {TOKENS} tokens each. Peak memory is that of a whole process, of which {before:,.0f} MiB are Python and "
        "libraries."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.variants",
        description="Memory and time of every decoder and backbone; report only.",
    )
    add: Any = parser.add_argument
    add("--rows", type=positive, default=ROWS, help="of the memory bank (default: %(default)s)")
    add("--full", action="store_true", help=f"the published bank's {FULL_ROWS:,} rows")
    add("--quick", action="store_true", help="two variants, one round")
    add("--rounds", type=positive, default=3, help="measured rounds (default: %(default)s)")
    add("--json", type=Path, help="write the table as JSON as well")
    add("--measure", metavar="NAME", choices=[*DECODERS, *BACKBONES], help=argparse.SUPPRESS)
    add("--make-bank", action="store_true", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
