"""The suite "cpu": our engine against the published way, in turns, at published shapes, tokens checked first.

Knows: which works are compared, in which order (memory first, each side in a process of its own; then time), what is
printed. Does NOT know how a side does its work (`contest`), the targets' numbers (`targets`) or floors' arithmetic
(`floor`).

Times are medians of rounds in which both sides take turns. What the published way would need many minutes for is run
for some chunks of four regions and scaled by their number, and the table says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.speed.alone import decoding_lines, projection_lines
from benchmarks.speed.arena import Arena
from benchmarks.speed.breakdown import Breakdown, break_down, breakdown_table
from benchmarks.speed.child import measure_children, run_child
from benchmarks.speed.end_to_end import box_lines, floor_line, patch_lines
from benchmarks.speed.machine import Rates, about_machine, measure_rates
from benchmarks.speed.scene import make_photo
from benchmarks.speed.shapes import SHAPES, write_bank
from benchmarks.speed.targets import Line, missed, target_table
from benchmarks.speed.units import plain
from patchioner.base.files import write_json

ROUNDS = 3


def run_cpu_suite(arguments: argparse.Namespace) -> int:
    """Measure, print the tables, write JSON where it is asked for.

    Args:
        arguments: of the command.

    Returns:
        0; 1 with --check where a target is missed.

    Raises:
        PatchionerError: the two sides' tokens differ.
    """
    shapes = SHAPES[arguments.shapes]
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.child is not None:
            return run_child(arguments, shapes, work)
        write_bank(shapes, work)
        lines = measure_children(arguments, shapes, work)
        with Image.open(make_photo(work / "photo.jpg")) as opened:
            photo = opened.convert("RGB")
        rounds = arguments.rounds or ROUNDS
        arena = Arena(
            shapes,
            work,
            photo,
            rounds=rounds,
            most_chunks=arguments.naive_chunks,
            rates=_rates(arguments.shapes),
        )
        lines = [*_timed(arena), *lines]
        parts = break_down(arena, rounds=rounds)
    _print(arena, lines, parts)
    if arguments.json is not None:
        write_json(arguments.json, _report(arguments, arena, lines, parts))
    return _judge(lines) if arguments.check else 0


def _timed(arena: Arena) -> list[Line]:
    boxes = box_lines(arena, ending=False)
    return [
        *boxes,
        floor_line(arena),
        *projection_lines(arena),
        *decoding_lines(arena),
        *patch_lines(arena),
        *box_lines(arena, ending=True),
    ]


def _rates(shapes: str) -> Rates:
    return measure_rates() if shapes == "published" else measure_rates(side=64, elements=2**16)


def _print(arena: Arena, lines: list[Line], parts: Breakdown) -> None:
    write = sys.stdout.write
    write(target_table(lines) + "\n" + breakdown_table(parts, arena.shapes.breakdown))
    rates = arena.rates
    write(
        f"\nTokens of both ways were equal in {arena.compared:,} captions. Floor: multiply-adds at the measured "
        f"{2 * rates.product / 1e9:,.0f} GFLOP/s of a float32 matrix product, bytes at the measured "
        f"{rates.copy / 1e9:,.1f} GB/s of a copy.\n"
    )
    write(", ".join(f"{key} {value}" for key, value in about_machine().items()) + "\n")


def _report(
    arguments: argparse.Namespace, arena: Arena, lines: list[Line], parts: Breakdown
) -> dict[str, Any]:
    return {
        "settings": {key: plain(value) for key, value in vars(arguments).items()},
        "machine": about_machine(),
        "rates": vars(arena.rates),
        "captions_compared": arena.compared,
        "lines": [line.to_json() for line in lines],
        "timings": {label: list(found.seconds) for label, found in arena.timings.items()},
        "breakdown": parts,
    }


def _judge(lines: list[Line]) -> int:
    short = missed(lines)
    if short:
        sys.stdout.write(f"\nmissed: {'; '.join(short)}\n")
    return 1 if short else 0
