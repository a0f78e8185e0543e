"""Command: how many photos and captions a second come out, one photo at a time and all on one line.

    python -m benchmarks.throughput --photos ../shared/data/photos --limit 32 --regions 1 16 128

Knows: what is compared (`caption` photo by photo, `caption_many`, `caption_many` without overlap), in turns within each
round. Does NOT know: clocks (`benchmarks.timing`), how the line works (`patchioner.pipeline`). Captions are compared
first: a faster way that says something else is an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.arguments import positive
from benchmarks.speed import make_photo, random_boxes
from benchmarks.timing import Timing, clocked, take_turns
from patchioner import Batching, Patchioner
from patchioner.base.errors import PatchionerError
from patchioner.base.files import write_json
from patchioner.regions import Box

Item = tuple[Path, list[Box]]

HEADER = (
    "| regions a photo | way | photos/s | captions/s | x photo by photo |\n|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Rate:
    """What one way of working gave.

    Attributes:
        way: its name.
        regions: of each photo.
        timing: seconds for all photos, by round.
        photos: how many there were.
        gain: of the median over photo by photo.
    """

    way: str
    regions: int
    timing: Timing
    photos: int
    gain: float

    @property
    def photos_a_second(self) -> float:
        """By the median round."""
        return self.photos / self.timing.median


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error.

    Example:
        >>> main(["--limit", "4", "--regions", "1", "16", "--rounds", "1"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    model = Patchioner.from_pretrained(arguments.model, device=arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        photos = _photos(arguments.photos, arguments.limit, Path(folder))
        rates: list[Rate] = []
        sys.stdout.write(HEADER)
        for regions in arguments.regions:
            measured = measure_rates(model, photos, regions, rounds=arguments.rounds)
            sys.stdout.write("".join(map(table_row, measured)))
            sys.stdout.flush()  # the next takes minutes
            rates += measured
    where = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    sys.stdout.write(f"\n{len(photos)} photos, {where}, {torch.get_num_threads()} threads\n")
    if arguments.json is not None:
        write_json(arguments.json, {"rates": [asdict(rate) for rate in rates], "device": where})


def measure_rates(
    model: Patchioner, photos: Sequence[Path], regions: int, *, rounds: int
) -> list[Rate]:
    """Time all ways of captioning `regions` boxes of every photo, from files to text.

    Raises:
        PatchionerError: a way gives other captions than photo by photo.
    """
    items = [(photo, _boxes(photo, regions, seed)) for seed, photo in enumerate(photos)]
    ways = _ways(model, items)
    expected = next(iter(ways.values()))()
    for name, way in ways.items():
        changed = sum(one != other for one, other in zip(way(), expected, strict=True))
        if changed:
            raise PatchionerError(
                f"{name}: {changed} of {len(expected)} captions differ from those of photo by photo"
            )
    timings = take_turns({name: clocked(way) for name, way in ways.items()}, rounds=rounds)
    plain_median = next(iter(timings.values())).median
    return [
        Rate(name, regions, one, len(photos), plain_median / one.median)
        for name, one in timings.items()
    ]


def _ways(model: Patchioner, items: Sequence[Item]) -> dict[str, Callable[[], list[str]]]:
    cut = Batching.on(model.device.type)
    alone = Batching(cut.photos, cut.regions, readers=0, overlap=False)

    def one_by_one() -> list[str]:
        return [caption.text for item in items for caption in model.caption(*item)]

    def together(batching: Batching) -> list[str]:
        found = model.caption_many(items, batching=batching)
        return [caption.text for captions in found for caption in captions]

    return {
        "photo by photo": one_by_one,
        "shared batches": lambda: together(alone),
        "shared batches, overlapped": lambda: together(cut),
    }


def _boxes(photo: Path, count: int, seed: int) -> list[Box]:
    with Image.open(photo) as image:
        return random_boxes(count, image.size, seed=seed)


def _photos(folder: Path | None, limit: int, scratch: Path) -> list[Path]:
    if folder is None:
        return [make_photo(scratch / f"{seed}.jpg", seed=seed) for seed in range(limit)]
    found = sorted(folder.glob("*.jpg"))[:limit]
    if not found:
        raise PatchionerError(f"no *.jpg in {str(folder)!r}: give a folder of photos")
    return found


def table_row(rate: Rate) -> str:
    """One line of the Markdown table under `HEADER`.

    Example:
        >>> table_row(Rate("photo by photo", 16, Timing("", (2.0,)), 4, 1.0))
        '| 16 | photo by photo | 2.0 | 32 | 1.00 |\\n'
    """
    speed = rate.photos_a_second
    shown = f"{speed:.1f} | {speed * rate.regions:.0f} | {rate.gain:.2f}"
    return f"| {rate.regions} | {rate.way} | {shown} |\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description="Photos and captions a second."
    )
    add: Any = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--device", default="cpu")
    add("--photos", type=Path, help="folder of *.jpg; default: generated pictures")
    add("--limit", type=positive, default=32, help="photos")
    add("--regions", type=positive, nargs="+", default=[1, 16, 128], help="boxes a photo")
    add("--rounds", type=positive, default=3)
    add("--json", type=Path, help="write every round")
    return parser


if __name__ == "__main__":
    sys.exit(main())
