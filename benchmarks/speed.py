"""Times a model (`python -m benchmarks.speed`), our engine against its naive twin at published shapes (`--suite cpu`),
or on a GPU in bfloat16 (`--suite gpu`): medians of rounds, in which both sides take turns, tokens checked first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks import naive
from benchmarks.command import as_json, command_parser, markdown_table, positive, run_command
from benchmarks.naive import CHUNK, OPTIONS, SHAPES, Ours, Published, Shapes, Tokens, check_equal
from benchmarks.run import machine, versions
from patchioner import Patchioner
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import write_json
from patchioner.images import load_image
from patchioner.regions import Box, Patch

T = TypeVar("T")
_TOLERANCE = 1e-4
_GPU_REGIONS, _GPU_IMAGES = 16, {"published": 32, "tiny": 2}
Clock = Callable[[], float]  # does something, and says how many seconds it took


@dataclass(frozen=True)
class Timing:
    """Seconds of several rounds of one thing."""

    label: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round, which one disturbed round does not move."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Median, with the fastest and slowest round where there are several."""
        ends = f" ({duration(min(self.seconds))} to {duration(max(self.seconds))})"
        return duration(self.median) + (ends if len(self.seconds) > 1 else "")


def duration(seconds: float) -> str:
    """Seconds in words: milliseconds below a second."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def clocked(function: Callable[[], object], device: str = "cpu") -> Clock:
    """A clock of a function by the wall; a CUDA device has finished before and after."""
    on_cuda = torch.device(device).type == "cuda"
    wait: Callable[[], object] = torch.cuda.synchronize if on_cuda else lambda: None

    def timed() -> float:
        wait()
        started = time.perf_counter()
        function()
        wait()
        return time.perf_counter() - started

    return timed


def time_function(label: str, clock: Clock, *, rounds: int) -> Timing:
    """Seconds of `rounds` calls of a clock, after one to warm up."""
    clock()
    return Timing(label, tuple(clock() for _ in range(rounds)))


def in_a_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives in a process of its own, with as many threads as here."""
    threads = (torch.get_num_threads(),)
    new = get_context("spawn")
    with ProcessPoolExecutor(1, new, torch.set_num_threads, threads) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process so far, in MiB, files mapped and read included; None without a count."""
    # Linux hands the parent's peak of `getrusage` on to a child; the high-water mark below starts anew.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    return None


def random_boxes(count: int, image_size: tuple[int, int], *, seed: int) -> list[Box]:
    """`count` boxes inside an image of (width, height), 5 to 60 % of each side."""
    random, size = np.random.default_rng(seed), np.array(image_size, dtype=np.float64)
    extent = random.uniform(0.05, 0.6, (count, 2)) * size
    corner = random.uniform(0.0, 1.0, (count, 2)) * (size - extent)
    corners = np.concatenate([corner, corner + extent], axis=1)
    return [Box(*map(float, row)) for row in corners]


def make_photo(path: Path, *, seed: int = 0) -> Path:
    """Write a 640 x 480 picture of coloured shapes, for when no photo is given."""
    random = np.random.default_rng(seed)
    picture = np.empty((480, 640, 3), dtype=np.uint8)
    picture[:] = np.linspace(90, 200, 480, dtype=np.uint8)[:, None, None]
    for left, top, width, height in random.integers(20, 300, (12, 4)):
        picture[top : top + height, left : left + width] = random.integers(0, 255, 3)
    Image.fromarray(picture).save(path, quality=90)
    return path


@dataclass(frozen=True)
class Line:
    """One line of a table: the work, our figure and the one it is compared with, their ratio, a note."""

    work: str
    ours: str
    other: str
    ratio: float
    note: str = ""


def _timed_line(work: str, ours: Timing, other: Timing, note: str) -> Line:
    return Line(work, ours.spread, other.spread, other.median / ours.median, note)


def line_table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table."""
    rows = [[one.work, one.ours, one.other, f"{one.ratio:.2f}x", one.note] for one in lines]
    return markdown_table(["work", "ours", "compared with", "ratio", "note"], rows)


def _finish(arguments: argparse.Namespace, text: str, extra: Mapping[str, Any]) -> int:
    """Print, write JSON where it is asked for; the exit status."""
    where = versions() | machine(arguments.device if arguments.suite == "model" else "cpu")
    told = ", ".join(f"{key} {value}" for key, value in where.items())
    sys.stdout.write(f"{text}\n{told}\n")
    if arguments.json is not None:
        write_json(arguments.json, {"settings": as_json(arguments), "machine": where, **extra})
    return 0


@contextmanager
def _work(arguments: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield arguments.work or Path(folder)


def _boxes_named(count: int) -> str:
    return f"{count:,} box{'es' if count > 1 else ''}"


def run_model_suite(arguments: argparse.Namespace) -> int:
    """Time a model's backbone pass, and captions of boxes, all different, from features that are there; no verdicts."""
    rows: list[tuple[Timing, float | None]] = []

    def add(label: str, function: Callable[[], object]) -> None:
        timing = time_function(label, clocked(function), rounds=arguments.rounds or 5)
        rows.append((timing, peak_memory_mb()))

    with _work(arguments) as folder:
        photo = arguments.photo or make_photo(folder / "photo.jpg")
        model = Patchioner.from_pretrained(arguments.model, device=arguments.device)
        add("encode one photo", partial(model.encode, photo))
        features = model.encode(photo)
        boxes = random_boxes(max(arguments.regions), load_image(photo).size, seed=0)
        for count, plain in product(arguments.regions, (False, True)):
            label = f"caption {_boxes_named(count)}{', without guidance' * plain}"
            add(label, partial(model.caption, features, boxes[:count], plain=plain))
    base, table, extra = rows[0][0].median, [], []
    for timing, peak in rows:
        shown = f"{timing.median / base:.2f}", "" if peak is None else f"{peak:.0f}"
        table.append([timing.label, timing.spread, *shown])
        extra.append({**asdict(timing), "median": timing.median, "peak_mb": peak})
    text = markdown_table(["what", "median", "x backbone pass", "peak memory, MiB"], table)
    return _finish(arguments, text, {"rows": extra})


class Contest:
    """Both sides on one bank, one backbone and one decoder, whose captions never end early."""

    def __init__(self, shapes: Shapes, work: Path, *, rounds: int, most_chunks: int) -> None:
        self.shapes, self.rounds = shapes, rounds
        self.photo = load_image(make_photo(work / "photo.jpg"))
        self.boxes = random_boxes(max(shapes.counts), self.photo.size, seed=0)
        parts = naive.build_random_backbone(shapes), naive.build_random_decoder(shapes)
        self.ours = Ours(work, *parts)
        self.other = Published(work, *parts, most_chunks=most_chunks)
        self.compared = 0  # captions whose tokens were equal
        self.timings: dict[str, Timing] = {}

    def turns(self, label: str, clocks: Mapping[str, Clock]) -> dict[str, Timing]:
        """Run all clocks once, then all once more: what slows the machine for a while slows all of them."""
        taken = [{side: clock() for side, clock in clocks.items()} for _ in range(self.rounds)]
        found = {side: Timing(side, tuple(one[side] for one in taken)) for side in clocks}
        self.timings |= {f"{label}: {side}": timing for side, timing in found.items()}
        return found

    def lines(self) -> list[Line]:
        """Everything that is timed in this process; PatchionerError: the two sides' tokens or projections differ."""
        alone = (line for count in self.shapes.projected for line in self._projections(count))
        return [*self._boxes(), *alone, *self._decoding(), self._patches()]

    def _boxes(self) -> Iterator[Line]:
        """Every number of boxes end to end, both sides in turns; tokens first, which also warms both up."""
        ours, other = self.ours, self.other
        for count in self.shapes.counts:
            boxes, run = self.boxes[:count], other.run(count)
            label = _boxes_named(count)
            expected = other.token_ids(self.photo, boxes)
            self.compared += check_equal(ours.token_ids(self.photo, boxes[:run]), expected, label)
            mine = clocked(partial(ours.model.caption, self.photo, boxes))
            theirs = partial(other.seconds, self.photo, boxes)
            found = self.turns(label, {"ours": mine, "published": theirs})
            note = f"published: {run} boxes run, rest scaled" if run < count else ""
            yield _timed_line(label, found["ours"], found["published"], note)

    def _projections(self, count: int) -> Iterator[Line]:
        """Queries alone, against one call and (of many) calls of four, which are published."""
        ours, other, queries = self.ours, self.other, self._vectors(count)
        distance = float((ours.bank.project(queries) - other.project(queries)).norm(dim=1).max())
        if not distance <= _TOLERANCE:
            told = f"a projected vector is {distance:.2g} from the published way's"
            raise PatchionerError(f"{told}, more than {_TOLERANCE:g}: they do not do the same work")
        label = f"projection alone, {count:,} quer{'ies' if count > 1 else 'y'}"
        clocks = {"ours": clocked(partial(ours.bank.project, queries))}
        clocks["published: one call"] = clocked(partial(other.project, queries))
        if count > CHUNK:
            clocks["published: calls of four, scaled"] = other.in_chunks(queries, other.project)
        yield from self._against(label, clocks)

    def _decoding(self) -> Iterator[Line]:
        """Captions that never end early, against one batch of the published way and batches of four."""
        count = self.shapes.decoded
        vectors = functional.normalize(self._vectors(count), dim=1)
        decoder, plain = self.ours.model.parts.decoder, self.other.decoder
        label = f"decoding alone, {count:,} rows"
        expected = [plain.until_end(ids) for ids in plain.token_ids(vectors)]
        written = [one.token_ids for one in decoder.generate(vectors, OPTIONS)]
        self.compared += check_equal(written, expected, label)
        clocks = {
            "ours": clocked(partial(decoder.generate, vectors, OPTIONS)),
            "published: one batch": clocked(partial(plain.token_ids, vectors)),
            "published: batches of four, scaled": self.other.in_chunks(vectors, plain.token_ids),
        }
        yield from self._against(label, clocks)

    def _against(self, label: str, clocks: Mapping[str, Clock]) -> Iterator[Line]:
        (_, ours), *others = self.turns(label, clocks).items()
        for way, found in others:
            yield _timed_line(label, ours, found, way)

    def _patches(self) -> Line:
        """Every patch of the photo captioned once by ours, in backbone passes."""
        model = self.ours.model
        rows, columns = model.encode(self.photo).geometry.grid
        patches = [Patch(row, column) for row in range(rows) for column in range(columns)]
        label = f"all {len(patches):,} patches"
        encode = clocked(partial(model.encode, self.photo))
        one_pass = self.turns("backbone", {"ours": encode})["ours"]
        taken = Timing(label, (clocked(partial(model.caption, self.photo, patches))(),))
        self.timings[f"{label}: ours"] = taken
        ratio, work = taken.median / one_pass.median, f"{label}, backbone passes"
        return Line(work, taken.spread, one_pass.spread, ratio, "one pass")

    def _vectors(self, count: int) -> Tensor:
        return torch.randn(count, self.shapes.dim, generator=torch.Generator().manual_seed(count))


def run_cpu_suite(arguments: argparse.Namespace) -> int:
    """Memory first, each side in a process of its own; then time; PatchionerError: the two sides' tokens differ."""
    shapes, most_chunks = SHAPES[arguments.shapes], arguments.naive_chunks
    with _work(arguments) as work:
        naive.write_bank(shapes, work)
        memory = memory_line(shapes, work, most_chunks)
        contest = Contest(shapes, work, rounds=arguments.rounds or 3, most_chunks=most_chunks)
        lines = [*contest.lines(), memory]
    told = f"Tokens of both ways were equal in {contest.compared:,} captions."
    timings = {label: list(found.seconds) for label, found in contest.timings.items()}
    extra = {"lines": [asdict(line) for line in lines], "captions_compared": contest.compared}
    return _finish(arguments, f"{line_table(lines)}\n{told}\n", extra | {"timings": timings})


def memory_line(shapes: Shapes, work: Path, most_chunks: int) -> Line:
    """Peak memory of ours against the published way, each in a process of its own."""
    sides = [in_a_process(caption_alone, n, shapes, work, most_chunks) for n in ("ours", "other")]
    (ours, mine), (other, theirs) = sides
    check_equal(ours, other, "captions of a process of its own")
    label = f"peak memory, {shapes.counts[-2]:,} boxes, MiB"
    if mine is None or theirs is None:
        return Line(label, "no count", "no count", float("nan"))
    return Line(label, f"{mine:,.0f}", f"{theirs:,.0f}", theirs / mine)


def caption_alone(side: str, shapes: Shapes, work: Path, most_chunks: int) -> tuple[list[Tokens], float | None]:
    """Tokens of captions by one side, and its peak memory."""
    photo = load_image(make_photo(work / f"photo-{side}.jpg"))
    boxes = random_boxes(shapes.counts[-2], photo.size, seed=0)
    parts = naive.build_random_backbone(shapes), naive.build_random_decoder(shapes)
    if side == "other":
        published = Published(work, *parts, most_chunks=most_chunks)
        return published.token_ids(photo, boxes), peak_memory_mb()
    ours = Ours(work, *parts)
    ours.model.caption(photo, boxes, plain=True)
    peak = peak_memory_mb()
    return ours.token_ids(photo, boxes[: CHUNK * most_chunks]), peak


def run_gpu_suite(arguments: argparse.Namespace) -> int:
    """Different photos with 16 boxes each, networks in bfloat16, the bank in half: does the time go to the backbone?"""
    if not torch.cuda.is_available():
        told = "--suite gpu needs a CUDA device and a torch built for it, and torch finds none here"
        raise OptionError(f"{told}; --suite cpu compares on the CPU")
    shapes, images = SHAPES[arguments.shapes], _GPU_IMAGES[arguments.shapes]
    with _work(arguments) as work:
        naive.write_bank(shapes, work)
        parts = naive.build_random_backbone(shapes), naive.build_random_decoder(shapes)
        ours = Ours(work, *parts, precision="float16", device="cuda", dtype=torch.bfloat16)
        photos = [load_image(make_photo(work / "photo.jpg", seed=seed)) for seed in range(images)]
    items = [(one, random_boxes(_GPU_REGIONS, one.size, seed=i)) for i, one in enumerate(photos)]
    captions = images * _GPU_REGIONS
    vectors = torch.randn(captions, shapes.dim, generator=torch.Generator().manual_seed(0))
    vectors = functional.normalize(vectors, dim=1).to("cuda")
    works: dict[str, Callable[[], object]] = {
        "whole": lambda: list(ours.model.caption_many(items, plain=True)),
        "backbone": lambda: ours.model.encode(list(photos)),
        "decoding": lambda: ours.model.parts.decoder.generate(vectors, OPTIONS),
    }
    rounds = arguments.rounds or 5
    found = {n: time_function(n, clocked(run, "cuda"), rounds=rounds) for n, run in works.items()}
    whole, backbone, step = (timing.median for timing in found.values())
    times = duration(backbone), duration(whole)
    line = Line("share of time in the backbone", *times, backbone / whole)
    text = f"{images / whole:,.1f} images/s and {captions / whole:,.0f} captions/s at {_GPU_REGIONS} regions an image"
    text += f"; a decoding step of {captions:,} captions takes {duration(step / OPTIONS.max_tokens)}."
    told = f"{line_table([line])}\n{text}\n{torch.cuda.get_device_name()}"
    return _finish(arguments, told, {"timings": {n: asdict(one) for n, one in found.items()}})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    told = "Time a model (report only), or our engine against the published way."
    parser = command_parser("speed", told)
    add = parser.add_argument
    add("--suite", choices=list(_SUITES), default="model", help="default: %(default)s")
    rounds = "measured rounds, after one to warm up; default: 5, of suite cpu 3"
    add("--rounds", type=positive, help=rounds)
    add("--threads", type=positive, help="torch threads; default: torch's")
    add("--json", type=Path, help="write settings, machine and every round as JSON")
    add("--work", type=Path, help="folder that keeps the bank; default: a temporary one")
    model = parser.add_argument_group("suite model").add_argument
    model("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    model("--device", default="cpu")
    model("--photo", type=Path, help="default: a generated 640 x 480 picture")
    counts = [1, 10, 100, 1000]
    model("--regions", type=positive, nargs="+", default=counts, help="numbers of boxes")
    suites = parser.add_argument_group("suites cpu and gpu").add_argument
    suites("--shapes", choices=list(SHAPES), default="published", help="default: %(default)s")
    chunks = "chunks of four boxes that the published way really runs; the rest is scaled"
    suites("--naive-chunks", type=positive, default=3, help=chunks)
    return run_command(parser, _run, argv)


_SUITES = {"model": run_model_suite, "cpu": run_cpu_suite, "gpu": run_gpu_suite}


def _run(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return _SUITES[arguments.suite](arguments)


if __name__ == "__main__":
    sys.exit(main())
