"""The command `python -m benchmarks.speed`: times a model, or our engine against the published way of the same work.

    python -m benchmarks.speed --rounds 5 --json speed.json        # a model: backbone pass, captions, starts
    python -m benchmarks.speed --suite cpu                         # against the naive twin, at published shapes
    python -m benchmarks.speed --suite gpu                         # ours on a GPU, in bfloat16

Times are medians of rounds in which both sides take turns, tokens checked first. What the published way would need many
minutes for is run for some chunks of four regions and scaled by their number, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.command import positive, run_command
from benchmarks.naive import CHUNK
from benchmarks.sides import (
    OPTIONS,
    PARTS,
    SHAPES,
    Ours,
    Published,
    Shapes,
    build_random_backbone,
    build_random_decoder,
    check_equal,
    write_bank,
)  # fmt: skip
from benchmarks.timing import (
    Clock,
    Rates,
    Timing,
    about_machine,
    clocked,
    duration,
    make_photo,
    measure_rates,
    open_photo,
    peak_memory_mb,
    random_boxes,
    run_process,
    synchronizer,
    take_turns,
    time_function,
)  # fmt: skip
from memory_bank import Precision
from patchioner import Patchioner
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import write_json
from patchioner.regions import Patch

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 0.2}
_IMPORT_PROBE = (
    "import sys, time; start = time.perf_counter(); import patchioner;"
    " print(time.perf_counter() - start, 'torch' in sys.modules)"
)
_GPU_REGIONS, _GPU_IMAGES = 16, {"published": 32, "tiny": 2}


@dataclass(frozen=True)
class Line:
    """One line of a table: the work, our figure and the one it is compared with, their ratio, a note."""

    work: str
    ours: str
    other: str
    ratio: float
    note: str = ""


def _timed_line(work: str, ours: Timing, other: Timing, note: str = "") -> Line:
    return Line(work, ours.spread, other.spread, other.median / ours.median, note)


def line_table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table."""
    rows = [
        f"| {one.work} | {one.ours} | {one.other} | {one.ratio:.2f}x | {one.note} |\n" for one in lines
    ]  # fmt: skip
    return f"| work | ours | compared with | ratio | note |\n|---|---|---|---|---|\n{''.join(rows)}"


def _finish(arguments: argparse.Namespace, text: str, extra: Mapping[str, Any]) -> int:
    """Print, write JSON where it is asked for; the exit status."""
    machine = about_machine()
    sys.stdout.write(text + ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    if arguments.json is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
        write_json(arguments.json, {"settings": settings, "machine": machine, **extra})
    return 0


@contextmanager
def _work(arguments: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield arguments.work or Path(folder)


# ---- a model as a user has it


def run_model_suite(arguments: argparse.Namespace) -> int:
    """Time a model's backbone pass, captions from features that are there, imports and cold starts; no verdicts."""
    rounds = arguments.rounds or 5
    with _work(arguments) as folder:
        photo = arguments.photo or make_photo(folder / "photo.jpg")
        model = Patchioner.from_pretrained(arguments.model, device=arguments.device)
        rows = time_model(model, photo, arguments.regions, rounds=rounds)
        if not arguments.no_starts:
            rows += time_starts(arguments.model, photo, rounds=rounds)
    base = rows[0][0].median
    lines = ["| what | median | x backbone pass | peak memory, MiB |", "|---|---|---|---|"]
    for timing, peak in rows:
        shown = ("", "") if peak is None else (f"{timing.median / base:.2f}", f"{peak:.0f}")
        lines.append(f"| {timing.label} | {timing.spread} | {' | '.join(shown)} |")
    extra = {
        "rows": [
            {**asdict(timing), "median": timing.median, "peak_mb": peak} for timing, peak in rows
        ]
    }
    return _finish(arguments, "\n".join(lines) + "\n\n", extra)


def time_model(
    model: Patchioner, photo: Path, counts: Sequence[int], *, rounds: int
) -> list[tuple[Timing, float | None]]:
    """Time one backbone pass, then captions of `counts` boxes, all different; peak memory after each."""
    encode = time_function("encode one photo", clocked(partial(model.encode, photo)), rounds=rounds)
    rows = [(encode, peak_memory_mb())]
    features = model.encode(photo)
    boxes = random_boxes(max(counts, default=0), open_photo(photo).size, seed=0)
    for count in counts:
        clock = clocked(partial(model.caption, features, boxes[:count]))
        label = f"caption {count:,} box{'es' if count > 1 else ''}"
        rows.append((time_function(label, clock, rounds=rounds), peak_memory_mb()))
    return rows


def time_starts(model: str, photo: Path, *, rounds: int) -> list[tuple[Timing, None]]:
    """Time `import patchioner`, which must not load torch, and the command line, each in a fresh process."""
    probe = [sys.executable, "-c", _IMPORT_PROBE]
    run_process(probe)  # bytecode and disk cache
    outputs = [run_process(probe).split() for _ in range(rounds)]
    torch_too = " (with torch)" if outputs[0][1] == "True" else ""
    imports = Timing(f"import patchioner{torch_too}", tuple(float(taken) for taken, _ in outputs))
    command = [sys.executable, "-m", "patchioner"]
    caption = [*command, "caption", str(photo), "--model", model]
    helped = clocked(partial(run_process, [*command, "--help"]))
    cold = clocked(partial(run_process, caption))
    return [
        (imports, None),
        (time_function("patchioner --help", helped, rounds=rounds), None),
        (time_function("patchioner caption PHOTO, cold", cold, rounds=rounds), None),
    ]


# ---- ours against the published way


class Contest:
    """Both sides on one bank, one backbone and decoders of one seed.

    Captions never end early, or (`ours_ending`, `other_ending`) have COCO's length. `compared` counts those whose
    tokens were found equal so far; `timings` holds every timing by what it is of.
    """

    def __init__(
        self, shapes: Shapes, work: Path, *, rounds: int, most_chunks: int, rates: Rates
    ) -> None:
        self.shapes, self.rounds, self.rates = shapes, rounds, rates
        self.photo = open_photo(make_photo(work / "photo.jpg"))
        self.boxes = random_boxes(max(shapes.counts), self.photo.size, seed=0)
        backbone, decoder = build_random_backbone(shapes), build_random_decoder(shapes)
        ending = build_random_decoder(shapes, ends=True)
        self.ours = Ours(shapes, work, backbone=backbone, decoder=decoder)
        self.other = Published(
            shapes, work, backbone=backbone, decoder=decoder, most_chunks=most_chunks
        )
        self.ours_ending = Ours(shapes, work, backbone=backbone, decoder=ending)
        self.other_ending = self.other.with_decoder(ending)
        self.compared = 0
        self.timings: dict[str, Timing] = {}

    def turns(self, label: str, clocks: Mapping[str, Clock]) -> dict[str, Timing]:
        """Take turns, and keep the timings for the record as `label: side`."""
        found = take_turns(clocks, rounds=self.rounds)
        self.timings |= {f"{label}: {side}": timing for side, timing in found.items()}
        return found

    def lines(self) -> list[Line]:
        """Everything that is timed in this process; PatchionerError: the two sides' tokens or projections differ."""
        lines = self._boxes(ending=False)
        count = max(self.shapes.counts)
        taken = self.timings[f"{count:,} boxes: ours"]
        least = sum(self.floors(count).values())
        floor = f"{count:,} boxes, times the floor"
        lines.append(Line(floor, taken.spread, duration(least), taken.median / least, "floor"))
        few, many = self.shapes.projected
        lines += [*self._projections(few), *self._projections(many), *self._decoding()]
        return [*lines, *self._patches(), *self._boxes(ending=True)]

    def _boxes(self, *, ending: bool) -> list[Line]:
        """Every number of boxes end to end, both sides in turns; tokens first, which also warms both up."""
        ours, other = (self.ours_ending, self.other_ending) if ending else (self.ours, self.other)
        lines = []
        for count in self.shapes.counts:
            boxes, run = self.boxes[:count], other.run(count)
            label = f"{count:,} box{'es' if count > 1 else ''}"
            label += ", captions of COCO's length" if ending else ""
            expected = other.token_ids(self.photo, boxes)
            self.compared += check_equal(ours.token_ids(self.photo, boxes[:run]), expected, label)
            found = self.turns(
                label,
                {
                    "ours": clocked(partial(ours.model.caption, self.photo, boxes)),
                    "published": lambda boxes=boxes: sum(other.by_part(self.photo, boxes).values()),  # type: ignore[misc]
                },
            )
            note = f"published: {run} boxes run, rest scaled" if run < count else ""
            lines.append(_timed_line(label, found["ours"], found["published"], note))
        return lines

    def floors(self, boxes: int) -> dict[str, float]:
        """The least seconds of each of `PARTS` for so many boxes whose captions never end early.

        Multiply-adds in float32 on every weight and row at the measured rate; each read once where that suffices.
        """
        vit, shapes = self.ours.backbone.vit, self.shapes
        rows, columns = self.ours.backbone.geometry(self.photo.size).grid
        patches = rows * columns
        tokens = patches + int(vit.num_prefix_tokens)
        dense = sum(own.numel() for own in vit.blocks.parameters() if own.dim() == 2)
        attention = 2 * len(vit.blocks) * tokens**2 * int(vit.embed_dim)
        stem = patches * vit.patch_embed.proj.weight.numel()
        backbone = (
            tokens * dense + attention + stem,
            4 * sum(own.numel() for own in vit.parameters()),
        )
        pooling = boxes * patches * shapes.dim, 4 * patches * shapes.dim
        projection = 2 * boxes * shapes.rows * shapes.dim, 4 * shapes.rows * shapes.dim
        # A prefix, then each token through all layers and the output matrix; its t-th position attends to t.
        network: Any = self.ours.model.parts.decoder
        network, steps = network.network, OPTIONS.max_tokens
        layers = sum(own.numel() for own in network.transformer.h.parameters() if own.dim() == 2)
        output = network.config.vocab_size * network.config.width
        attended = 2 * network.config.layers * network.config.width * steps * (steps + 1) // 2
        adds = boxes * (steps * (layers + output) + network.prefix.weight.numel() + attended)
        decoding = adds, steps * 4 * (layers + output)
        works = zip(PARTS, (backbone, pooling, projection, decoding), strict=True)
        return {part: self.rates.seconds(*work) for part, work in works}

    def _projections(self, count: int) -> Iterator[Line]:
        """Queries alone, rows of each precision, against one call and (of many) calls of four, which are published."""
        queries, captioner = self._vectors(count), self.other.captioner
        banks = {name: self.ours.bank.to(dtype=name) for name in PRECISIONS}
        expected = captioner.project(queries)
        for name, bank in banks.items():
            distance = float((bank.project(queries) - expected).norm(dim=1).max())
            if not distance <= _TOLERANCE[name]:
                raise PatchionerError(
                    f"projected with {name} rows, a vector is {distance:.2g} from the published way's, more than "
                    f"{_TOLERANCE[name]:g}: the two do not do the same work"
                )
        label = f"projection alone, {count:,} quer{'ies' if count > 1 else 'y'}"
        clocks: dict[str, Clock] = {
            name: clocked(partial(bank.project, queries)) for name, bank in banks.items()
        }
        clocks["published: one call"] = clocked(partial(captioner.project, queries))
        if count > CHUNK:
            fours = self.other.in_chunks(queries, captioner.project)
            clocks["published: calls of four, scaled"] = fours
        found = self.turns(label, clocks)
        for way in [way for way in clocks if way not in banks]:
            for name in banks:
                yield _timed_line(f"{label}, {name} rows", found[name], found[way], way)

    def _decoding(self) -> Iterator[Line]:
        """Captions that never end early, against one batch of the published way and batches of four."""
        count = self.shapes.decoded
        vectors = functional.normalize(self._vectors(count), dim=1)
        decoder, naive = self.ours.model.parts.decoder, self.other.captioner.decoder
        label = f"decoding alone, {count:,} rows"
        expected = [naive.until_end(ids) for ids in naive.token_ids(vectors)]
        written = [one.token_ids for one in decoder.generate(vectors, OPTIONS)]
        self.compared += check_equal(written, expected, label)
        found = self.turns(
            label,
            {
                "ours": clocked(partial(decoder.generate, vectors, OPTIONS)),
                "published: one batch": clocked(partial(naive.token_ids, vectors)),
                "published: batches of four, scaled": self.other.in_chunks(
                    vectors, naive.token_ids
                ),
            },
        )
        ours, one_batch, fours = found.items()
        yield _timed_line(label, ours[1], one_batch[1], one_batch[0])
        yield _timed_line(label, ours[1], fours[1], fours[0])

    def _patches(self) -> Iterator[Line]:
        """Every patch of the photo captioned once by ours, in backbone passes."""
        encode = partial(self.ours.model.encode, self.photo)
        one_pass = self.turns("backbone", {"ours": clocked(encode)})["ours"]
        rows, columns = self.ours.backbone.geometry(self.photo.size).grid
        patches = [Patch(row, column) for row in range(rows) for column in range(columns)]
        for side, kind in ((self.ours, ""), (self.ours_ending, ", captions of COCO's length")):
            label = f"all {len(patches):,} patches{kind}"
            taken = Timing(label, (clocked(partial(side.model.caption, self.photo, patches))(),))
            self.timings[f"{label}: ours"] = taken
            ratio = taken.median / one_pass.median
            work = f"{label}, backbone passes"
            yield Line(work, taken.spread, one_pass.spread, ratio, "one pass")

    def breakdown(self) -> dict[str, dict[str, float]]:
        """Median seconds of each part for `shapes.breakdown` boxes by side, and the floor's."""
        boxes = self.boxes[: self.shapes.breakdown]
        ours, other = [], []
        for _ in range(self.rounds):
            ours.append(self.ours.by_part(self.photo, boxes)[0])
            other.append(self.other.by_part(self.photo, boxes))
        sides = {"ours": ours, "published": other}
        found = {
            side: {part: float(np.median([lap[part] for lap in taken])) for part in PARTS}
            for side, taken in sides.items()
        }
        return found | {"floor": self.floors(len(boxes))}

    def _vectors(self, count: int) -> Tensor:
        return torch.randn(count, self.shapes.dim, generator=torch.Generator().manual_seed(count))


def run_cpu_suite(arguments: argparse.Namespace) -> int:
    """Memory first, each side in a process of its own; then time; PatchionerError: the two sides' tokens differ."""
    shapes = SHAPES[arguments.shapes]
    with _work(arguments) as work:
        if arguments.child is not None:
            return run_child(arguments.child, shapes, work, arguments.naive_chunks)
        write_bank(shapes, work)
        memory = memory_lines(arguments, work)
        rates = measure_rates(side=2048 if arguments.shapes == "published" else 64)
        rounds = arguments.rounds or 3
        contest = Contest(
            shapes, work, rounds=rounds, most_chunks=arguments.naive_chunks, rates=rates
        )
        lines = [*contest.lines(), *memory]
        parts = contest.breakdown()
    table = [
        f"| part, {shapes.breakdown:,} boxes | ours | published | floor | ours, x floor |",
        "|---|---|---|---|---|",
    ]
    for part in (*PARTS, "all"):
        values = {
            side: sum(of.values()) if part == "all" else of[part] for side, of in parts.items()
        }
        shown = " | ".join(map(duration, values.values()))
        table.append(f"| {part} | {shown} | {values['ours'] / values['floor']:.2f} |")
    text = (
        f"{line_table(lines)}\n"
        + "\n".join(table)
        + f"\n\nTokens of both ways were equal in {contest.compared:,} "
        f"captions. Floor: multiply-adds at the measured {2 * rates.product / 1e9:,.0f} GFLOP/s of a float32 matrix "
        f"product, bytes at the measured {rates.copy / 1e9:,.1f} GB/s of a copy.\n"
    )
    extra = {
        "lines": [asdict(line) for line in lines],
        "rates": asdict(rates),
        "captions_compared": contest.compared,
        "timings": {label: list(found.seconds) for label, found in contest.timings.items()},
        "breakdown": parts,
    }
    return _finish(arguments, text, extra)


def memory_lines(arguments: argparse.Namespace, work: Path) -> list[Line]:
    """Peak memory of ours with rows of each precision against the published way, each in a process of its own."""

    def child(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.speed", "--suite", "cpu", "--child", name]
        chunks, threads = str(arguments.naive_chunks), str(torch.get_num_threads())
        command += ["--shapes", arguments.shapes, "--naive-chunks", chunks, "--threads", threads]
        answer: dict[str, Any] = json.loads(
            run_process([*command, "--work", str(work)]).splitlines()[-1]
        )
        return answer | {"tokens": [tuple(ids) for ids in answer["tokens"]]}

    other = child("published")
    found = {name: child(name) for name in PRECISIONS}
    check_equal(found["float32"]["tokens"], other["tokens"], "captions of a process of its own")
    same = {
        name: [a == b for a, b in zip(one["tokens"], other["tokens"], strict=True)]
        for name, one in found.items()
    }
    lines = []
    for name, equal in same.items():
        boxes = SHAPES[arguments.shapes].breakdown
        label = f"peak memory, {boxes:,} boxes, {name} rows, MiB"
        ours, theirs = found[name]["peak_mb"], other["peak_mb"]
        if ours is None or theirs is None:
            lines.append(Line(label, "no count", "no count", float("nan")))
            continue
        note = f"{sum(equal)} of {len(equal)} captions equal"
        lines.append(Line(label, f"{ours:,.0f}", f"{theirs:,.0f}", theirs / ours, note))
    return lines


def run_child(name: str, shapes: Shapes, work: Path, most_chunks: int) -> int:
    """Caption as one side does, and write tokens and peak memory to standard output as one JSON line."""
    photo = open_photo(make_photo(work / f"photo-{name}.jpg"))
    boxes = random_boxes(shapes.breakdown, photo.size, seed=0)
    if name == "published":
        tokens = Published(shapes, work, most_chunks=most_chunks).token_ids(photo, boxes)
        peak = peak_memory_mb()
    else:
        precision = next(known for known in get_args(Precision) if known == name)
        ours = Ours(shapes, work, precision=precision)
        ours.model.caption(photo, boxes)
        peak = peak_memory_mb()
        tokens = ours.token_ids(photo, boxes[: CHUNK * most_chunks])
    sys.stdout.write(json.dumps({"peak_mb": peak, "tokens": tokens}) + "\n")
    return 0


# ---- ours on a CUDA device


def run_gpu_suite(arguments: argparse.Namespace) -> int:
    """Networks in bfloat16, the whole bank resident in half precision; OptionError: there is no CUDA device."""
    if not torch.cuda.is_available():
        raise OptionError(
            "--suite gpu needs a CUDA device and a torch built for it, and torch finds none here; "
            "--suite cpu compares on the CPU"
        )
    shapes, images = SHAPES[arguments.shapes], _GPU_IMAGES[arguments.shapes]
    with _work(arguments) as work:
        write_bank(shapes, work)
        lines, text, extra = measure_engine(
            shapes, work, "cuda", torch.bfloat16, images=images, rounds=arguments.rounds or 5
        )
    card = f"card {torch.cuda.get_device_name()}, "
    return _finish(arguments, f"{line_table(lines)}\n{text}\n{card}", extra)


def measure_engine(
    shapes: Shapes, work: Path, device: str, dtype: torch.dtype, *, images: int, rounds: int
) -> tuple[list[Line], str, dict[str, Any]]:
    """Caption `images` different photos with 16 boxes each, over and over, on any device.

    Returns:
        Lines (is the backbone what the time goes to?), other figures as a sentence, all of it for a file.
    """
    ours = Ours(shapes, work, precision="float16", device=device, dtype=dtype)
    photos: list[Image.Image] = []
    for seed in range(images):
        photos.append(open_photo(make_photo(work / "photo.jpg", seed=seed)))
    items = [
        (photo, random_boxes(_GPU_REGIONS, photo.size, seed=seed))
        for seed, photo in enumerate(photos)
    ]
    captions = images * _GPU_REGIONS
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(captions, shapes.dim, generator=generator)
    vectors = functional.normalize(vectors, dim=1).to(device)
    works: dict[str, Callable[[], object]] = {
        "whole": lambda: list(ours.model.caption_many(items)),
        "backbone": lambda: ours.model.encode(list(photos)),
        "decoding": lambda: ours.model.parts.decoder.generate(vectors, OPTIONS),
    }
    synchronize = synchronizer(device)
    found = {
        label: time_function(label, clocked(run, synchronize), rounds=rounds)
        for label, run in works.items()
    }
    rates = measure_rates(device, dtype, side=8192 if device == "cuda" else 64, elements=2**16)
    contest = Contest.__new__(Contest)  # whose floors need no more than this
    contest.shapes, contest.photo, contest.ours, contest.rates = shapes, photos[0], ours, rates
    whole, backbone, step = (found[name].median for name in ("whole", "backbone", "decoding"))
    step /= OPTIONS.max_tokens
    least = images * contest.floors(1)["backbone"]
    lines = [
        Line(
            "share of time in the backbone", duration(backbone), duration(whole), backbone / whole
        ),
        Line("backbone, times its floor", duration(backbone), duration(least), backbone / least),
    ]
    text = (
        f"{images / whole:,.1f} images/s and {captions / whole:,.0f} captions/s at {_GPU_REGIONS} regions an image; "
        f"a decoding step of {captions:,} captions takes {duration(step)}; "
        f"measured matrix product: {2 * rates.product / 1e12:,.2f} TFLOP/s."
    )
    return (
        lines,
        text,
        {"timings": {name: asdict(one) for name, one in found.items()}, "least": least},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time a model (report only), or our engine against the published way.",
    )
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
    model("--no-starts", action="store_true", help="skip import and cold start")
    suites = parser.add_argument_group("suites cpu and gpu").add_argument
    suites("--shapes", choices=list(SHAPES), default="published", help="default: %(default)s")
    chunks = "chunks of four boxes that the published way really runs; the rest is scaled"
    suites("--naive-chunks", type=positive, default=3, help=chunks)
    suites("--child", help=argparse.SUPPRESS)
    return run_command(parser, _run, argv)


_SUITES = {"model": run_model_suite, "cpu": run_cpu_suite, "gpu": run_gpu_suite}


def _run(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return _SUITES[arguments.suite](arguments)


if __name__ == "__main__":
    sys.exit(main())
