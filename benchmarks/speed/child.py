"""Peak memory of each side, in a process of its own.

Knows: how the suite calls itself, what a child answers. Does NOT know what a side does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.speed.contest import Ours, Published, check_equal
from benchmarks.speed.scene import make_photo, random_boxes
from benchmarks.speed.shapes import Shapes
from benchmarks.speed.targets import MEMORY, REPORT, Line, Target
from benchmarks.timing import peak_memory_mb, run_process
from patchioner.base.errors import PatchionerError

PUBLISHED = "published"
PRECISIONS = ("float32", "float16", "int8")
_STORED = ("float32", "float16")


def measure_children(arguments: argparse.Namespace, shapes: Shapes, work: Path) -> list[Line]:
    """Peak memory of captioning `shapes.breakdown` boxes: ours with rows of each precision against the published way.

    The target is for float16, as a checkpoint stores its bank, where that changes no caption; else for float32.

    Raises:
        PatchionerError: a child failed, or tokens differ with float32 rows.
    """
    other = _call(arguments, work, PUBLISHED)
    found = {precision: _call(arguments, work, precision) for precision in PRECISIONS}
    check_equal(_tokens(found["float32"]), _tokens(other), "captions of a process of its own")
    same = {
        name: _same(one, other) for name, one in found.items() if one
    }  # {} is no precision of the bank
    judged = [name for name in _STORED if name in same and all(same[name])][-1]
    return [
        _line(
            f"peak memory, {shapes.breakdown:,} boxes, {name} rows, MiB",
            found[name]["peak_mb"],
            other["peak_mb"],
            MEMORY if name == judged else REPORT,
            f"{sum(equal)} of {len(equal)} captions equal",
        )
        for name, equal in same.items()
    ]


def _tokens(answer: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in answer["tokens"]]


def _same(one: dict[str, Any], other: dict[str, Any]) -> list[bool]:
    return [a == b for a, b in zip(_tokens(one), _tokens(other), strict=True)]


def _line(work: str, ours: float | None, other: float | None, target: Target, note: str) -> Line:
    if ours is None or other is None:
        return Line(work, "no count", "no count", float("nan"), REPORT)
    return Line(work, f"{ours:,.0f}", f"{other:,.0f}", other / ours, target, note)


def _call(arguments: argparse.Namespace, work: Path, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speed", "--suite", "cpu", "--child", name]
    shared = ["--shapes", arguments.shapes, "--naive-chunks", str(arguments.naive_chunks)]
    threads = ["--threads", str(torch.get_num_threads())]
    answer = run_process([*command, *shared, *threads, "--work", str(work)])
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def run_child(arguments: argparse.Namespace, shapes: Shapes, work: Path) -> int:
    """Caption as the side named `--child` does, and write tokens and peak memory to standard output as one JSON line.

    Returns:
        0. A precision that the bank does not know gives an empty object.
    """
    boxes = random_boxes(shapes.breakdown, (640, 480), seed=0)
    with Image.open(make_photo(work / f"photo-{arguments.child}.jpg")) as opened:
        photo = opened.convert("RGB")
    try:
        side: Any = (
            Published(shapes, work, most_chunks=arguments.naive_chunks)
            if arguments.child == PUBLISHED
            else Ours(shapes, work, precision=arguments.child)
        )
    except PatchionerError:
        if arguments.child in (PUBLISHED, "float32"):
            raise
        sys.stdout.write("{}\n")
        return 0
    if isinstance(side, Ours):
        side.caption(photo, boxes)
        peak = peak_memory_mb()
        boxes = boxes[: 4 * arguments.naive_chunks]
    tokens = side.token_ids(photo, boxes)
    if isinstance(side, Published):
        peak = peak_memory_mb()
    sys.stdout.write(json.dumps({"peak_mb": peak, "tokens": tokens}) + "\n")
    return 0
