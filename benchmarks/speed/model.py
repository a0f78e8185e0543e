"""The default suite: one model, its backbone pass, captions of 1 to 1,000 boxes, cold starts.

Knows: what is worth timing of a model that a user has, and how to print it. Does NOT know: clocks and processes
(`benchmarks.timing`), or other ways of doing the same work (`benchmarks.speed.cpu`). It reports and judges nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.answerers import LoadModel
from benchmarks.speed.machine import about_machine
from benchmarks.speed.scene import make_photo, random_boxes
from benchmarks.speed.units import duration, plain
from benchmarks.timing import Timing, peak_memory_mb, run_process, time_function, time_process
from patchioner import Patchioner
from patchioner.base.files import write_json

REGION_COUNTS = (1, 10, 100, 1000)
ROUNDS = 5

_IMPORT_PROBE = (
    "import sys, time; start = time.perf_counter(); import patchioner;"
    " print(time.perf_counter() - start, 'torch' in sys.modules)"
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a timing, its ratio to one backbone pass, peak memory after it."""

    timing: Timing
    ratio: float | None = None
    peak_mb: float | None = None


@dataclass(frozen=True)
class Starts:
    """Cost of starting: rows, and whether `import patchioner` pulled in torch."""

    rows: list[Row]
    torch_at_import: bool


def run_model_suite(arguments: argparse.Namespace, load_model: LoadModel) -> int:
    """Time a model, print the table, write JSON where it is asked for.

    Args:
        arguments: of the command.
        load_model: makes the model from (name, device).

    Returns:
        0.
    """
    rounds = arguments.rounds or ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        photo = arguments.photo or make_photo(Path(folder) / "photo.jpg")
        model = load_model(arguments.model, arguments.device)
        rows = time_model(model, photo, arguments.regions, rounds=rounds)
        starts = None
        if not arguments.no_starts:
            starts = time_starts(arguments.model, photo, rounds=rounds)
    rows += starts.rows if starts else []
    machine = about_machine()
    sys.stdout.write(table(rows))
    if starts:
        loaded = "yes" if starts.torch_at_import else "no"
        sys.stdout.write(f"\n`import patchioner` loads torch: {loaded}\n")
    sys.stdout.write("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "settings": {k: plain(v) for k, v in vars(arguments).items()},
                "machine": machine,
                "torch_at_import": starts.torch_at_import if starts else None,
                "rows": [asdict(row) | {"median": row.timing.median} for row in rows],
            },
        )
    return 0


def time_model(
    model: Patchioner, photo: Path, counts: Sequence[int], *, rounds: int, seed: int = 0
) -> list[Row]:
    """Time one backbone pass, then captioning `counts` boxes from features that are there.

    Boxes are all different (the engine decodes equal embeddings once, which would flatter it).

    Args:
        model: the model.
        photo: image file.
        counts: numbers of boxes, timed in this order.
        rounds: measured rounds of each.
        seed: of the boxes.

    Returns:
        A row for the backbone, then one per count. Peak memory only grows from row to row.

    Example:
        >>> time_model(model, Path("photo.jpg"), [1, 10], rounds=3)  # doctest: +SKIP
    """
    encode = time_function("encode one photo", lambda: model.encode(str(photo)), rounds=rounds)
    rows = [Row(encode, 1.0, peak_memory_mb())]
    features = model.encode(str(photo))
    with Image.open(photo) as image:
        boxes = random_boxes(max(counts, default=0), image.size, seed=seed)
    for count in counts:
        item = [(features, boxes[:count])]
        label = f"caption {count:,} box{'es' if count > 1 else ''}"

        def caption(item: Any = item) -> object:
            return list(model.caption_many(item))

        timing = time_function(label, caption, rounds=rounds)
        rows.append(Row(timing, timing.median / encode.median, peak_memory_mb()))
    return rows


def time_starts(model_name: str, photo: Path, *, rounds: int) -> Starts:
    """Time `import patchioner` and the command line, each in a fresh process.

    Example:
        >>> time_starts("patchioner-mini", Path("photo.jpg"), rounds=3)  # doctest: +SKIP
    """
    probe = [sys.executable, "-c", _IMPORT_PROBE]
    run_process(probe)  # bytecode and disk cache
    outputs = [run_process(probe).split() for _ in range(rounds)]
    imports = Timing("import patchioner", tuple(float(seconds) for seconds, _ in outputs))
    command = [sys.executable, "-m", "patchioner"]
    helped = time_process("patchioner --help", [*command, "--help"], rounds=rounds)
    caption = [*command, "caption", str(photo), "--model", model_name]
    cold = time_process("patchioner caption PHOTO, from a cold start", caption, rounds=rounds)
    return Starts([Row(imports), Row(helped), Row(cold)], outputs[0][1] == "True")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table.

    Example:
        >>> table([Row(Timing("import", (0.1,)))]).splitlines()[-1]
        '| import | 100 ms | 100 ms to 100 ms |  |  |'
    """
    lines = [
        "| what | median | fastest to slowest | x backbone pass | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        spread = f"{duration(row.timing.fastest)} to {duration(row.timing.slowest)}"
        median = duration(row.timing.median)
        lines.append(f"| {row.timing.label} | {median} | {spread} | {ratio} | {peak} |")
    return "\n".join(lines) + "\n"
