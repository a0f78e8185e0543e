"""Command: times a model and prints a table; it reports and judges nothing.

    python -m benchmarks.speed --rounds 5 --json speed.json

Knows: what is worth timing (encode one photo, caption 1 to 1,000 boxes, cold start, import) and
how to print it. Does NOT know: clocks and processes (`benchmarks.timing`). On the CPU unless told
otherwise; close other programs first, or read the fastest round.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.arguments import positive
from benchmarks.captioner import Captioner, LoadModel, load_pretrained
from benchmarks.timing import Timing, peak_memory_mb, run_process, time_function, time_process
from patchioner.regions import Box
from patchioner_base.errors import PatchionerError
from patchioner_base.files import write_json

REGION_COUNTS = (1, 10, 100, 1000)

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


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0, or 1 after an error.

    Example:
        >>> main(["--rounds", "3"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments, load_model)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(arguments: argparse.Namespace, load_model: LoadModel) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        photo = arguments.photo or make_photo(Path(folder) / "photo.jpg")
        model = load_model(arguments.model, arguments.device)
        rows = time_model(model, photo, arguments.regions, rounds=arguments.rounds)
        starts = None
        if not arguments.no_starts:
            starts = time_starts(arguments.model, photo, rounds=arguments.rounds)
    rows += starts.rows if starts else []
    machine = _machine()
    sys.stdout.write(table(rows))
    if starts:
        loaded = "yes" if starts.torch_at_import else "no"
        sys.stdout.write(f"\n`import patchioner` loads torch: {loaded}\n")
    sys.stdout.write("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "settings": {k: _plain(v) for k, v in vars(arguments).items()},
                "machine": machine,
                "torch_at_import": starts.torch_at_import if starts else None,
                "rows": [asdict(row) | {"median": row.timing.median} for row in rows],
            },
        )


def time_model(
    model: Captioner, photo: Path, counts: Sequence[int], *, rounds: int, seed: int = 0
) -> list[Row]:
    """Time one backbone pass, then captioning `counts` boxes from features that are there.

    Boxes are all different (the engine decodes equal embeddings once, which would flatter it).

    Args:
        model: see `Captioner`.
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
        timing = time_function(label, lambda item=item: model.caption_many(item), rounds=rounds)  # type: ignore[misc]
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


def random_boxes(count: int, image_size: tuple[int, int], *, seed: int) -> list[Box]:
    """Return `count` boxes inside an image of (width, height), 5 to 60 % of each side.

    Example:
        >>> len(random_boxes(3, (640, 480), seed=0))
        3
    """
    random = np.random.default_rng(seed)
    size = np.array(image_size, dtype=np.float64)
    extent = random.uniform(0.05, 0.6, (count, 2)) * size
    corner = random.uniform(0.0, 1.0, (count, 2)) * (size - extent)
    corners = np.concatenate([corner, corner + extent], axis=1)
    return [Box(*map(float, row)) for row in corners]


def make_photo(path: Path, *, seed: int = 0) -> Path:
    """Write a 640 x 480 picture of coloured shapes, for when no photo is given.

    Example:
        >>> make_photo(Path("shapes.jpg"))  # doctest: +SKIP
    """
    random = np.random.default_rng(seed)
    picture = np.empty((480, 640, 3), dtype=np.uint8)
    picture[:] = np.linspace(90, 200, 480, dtype=np.uint8)[:, None, None]
    for left, top, width, height in random.integers(20, 300, (12, 4)):
        picture[top : top + height, left : left + width] = random.integers(0, 255, 3)
    Image.fromarray(picture).save(path, quality=90)
    return path


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
        spread = f"{_duration(row.timing.fastest)} to {_duration(row.timing.slowest)}"
        median = _duration(row.timing.median)
        lines.append(f"| {row.timing.label} | {median} | {spread} | {ratio} | {peak} |")
    return "\n".join(lines) + "\n"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _machine() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="Time a model; report only."
    )
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--device", default="cpu")
    add("--photo", type=Path, help="default: a generated 640 x 480 picture")
    add("--regions", type=positive, nargs="+", default=list(REGION_COUNTS), help="numbers of boxes")
    add("--rounds", type=positive, default=5, help="measured rounds, after one to warm up")
    add("--threads", type=positive, help="torch threads; default: torch's")
    add("--no-starts", action="store_true", help="skip import and cold start")
    add("--json", type=Path, help="write settings, machine and every round as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
