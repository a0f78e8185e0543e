"""When is an index over a memory bank worth it? `python -m benchmarks.bank --rows 10000 1000000 --bank BANK`.

Exact and approximate projections onto banks of many sizes: of random rows, and with --bank of the rows of a real one
(past its size, of noised copies), asked for with regions of photos; changed captions are counted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import command
from benchmarks.command import as_json, markdown_table, natural, positive
from benchmarks.data import SAMPLE
from benchmarks.run import machine, versions
from benchmarks.speed import clocked, time_function
from memory_bank import IndexKind, IndexOptions, MemoryBank, Precision
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.base.files import write_json
from patchioner.base.progress import progress
from patchioner.images import load_image
from patchioner.regions import Box, Region, WholeImage

KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
_PART = 250_000
_NOISE = 0.5  # length of what is added to a copy of a unit row: their cosine is about 0.89
Decode = Callable[[Tensor], list[str]]


@dataclass(frozen=True)
class Source:
    """Where rows and queries come from: its name in the table; (first row, number) -> (number, dim) embeddings, always
    the same; queries (n, dim); embeddings (n, dim) -> n captions, None without a model.
    """

    name: str
    draw: Callable[[int, int], Tensor]
    queries: Tensor
    decode: Decode | None = None

    def bank(self, rows: int, storage: Precision) -> MemoryBank:
        """A bank of the first `rows` rows, drawn part by part into a file, so that float32 takes no memory."""
        with tempfile.TemporaryFile() as file:
            drawn = np.memmap(file, np.float32, "w+", shape=(rows, self.queries.shape[1]))
            for at in range(0, rows, _PART):
                drawn[at : at + _PART] = self.draw(at, min(_PART, rows - at)).numpy()
            return MemoryBank(drawn, dtype=storage)


def random_source(dim: int, queries: int, *, seed: int) -> Source:
    """Directions drawn uniformly: no row is near a query, so a softmax has weight everywhere."""

    def draw(first: int, number: int) -> Tensor:
        return torch.randn(number, dim, generator=_generator(seed, first))

    return Source("random", draw, torch.randn(queries, dim, generator=_generator(seed, -1)))


def real_source(bank: MemoryBank, queries: Tensor, decode: Decode | None, *, seed: int) -> Source:
    """The rows of a bank in random order, and noised copies past their number; OptionError: another width."""
    if queries.shape[1] != bank.dim:
        sizes = f"queries are {queries.shape[1]} wide, the bank {bank.dim}"
        raise OptionError(f"{sizes}: give both of one model")
    order = torch.randperm(len(bank), generator=_generator(seed, -1))

    def draw(first: int, number: int) -> Tensor:
        wanted = torch.arange(first, first + number)
        rows = bank.units(order[wanted % len(bank)])
        noise = torch.randn(rows.shape, generator=_generator(seed, first))
        noise *= _NOISE / bank.dim**0.5 * (wanted >= len(bank))[:, None]
        return rows + noise

    return Source(f"real ({len(bank):,} rows)", draw, queries, decode)


def _generator(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + part + 1) % 2**63)


def region_queries(model: Patchioner, photos: Sequence[Path], count: int) -> Tensor:
    """Embeddings of whole photos and of their quarters, (count, dim), photo by photo; OptionError: too few photos."""
    found: list[Tensor] = []
    for photo in progress(photos[: -(-count // 5)], description="photos", unit="photo"):
        x, y = (size / 2 for size in load_image(photo).size)
        corners = [(0.0, 0.0), (x, 0.0), (0.0, y), (x, y)]
        regions: list[Region] = [WholeImage(), *(Box(a, b, a + x, b + y) for a, b in corners)]
        found.append(model.embed_regions(model.encode(str(photo)), regions))
    queries = torch.cat(found)[:count] if found else torch.empty(0, 0)
    if len(queries) < count:
        given = f"{len(photos)} photos give {len(queries)} queries"
        raise OptionError(f"{given}, {count} are asked for: give more photos")
    return queries.float().cpu()


@dataclass(frozen=True)
class Line:
    """One way to project onto one bank: by number of queries, the median of a call; build and size of an index; mean
    and least share of the softmax that was kept; share of captions that differ from the exact projection's.
    """

    source: str
    rows: int
    way: str
    milliseconds: dict[int, float]
    build_seconds: float | None = None
    index_mb: float | None = None
    mass: float = 1.0
    least_mass: float = 1.0
    changed: float | None = None

    def cells(self) -> list[str]:
        """A row of the Markdown table."""
        changed = "" if self.changed is None else f"{100 * self.changed:.1f} %"
        numbers = [*self.milliseconds.values(), self.build_seconds, self.index_mb]
        shown = ["" if number is None else f"{number:,.1f}" for number in numbers]
        mass = f"{self.mass:.4f} ({self.least_mass:.4f})"
        return [f"{self.rows:,}", self.source, self.way, *shown, mass, changed]


def measure(bank: MemoryBank, source: Source, options: argparse.Namespace) -> Iterator[Line]:
    """Time all ways of projecting onto one bank."""
    queries, name, count = source.queries, source.name, len(bank)

    def times(work: Callable[[Tensor], Tensor]) -> dict[int, float]:
        clocks = {size: clocked(partial(work, queries[:size])) for size in options.queries}
        found = {n: time_function("", one, rounds=options.rounds) for n, one in clocks.items()}
        return {size: 1e3 * timing.median for size, timing in found.items()}

    yield Line(name, count, "exact", times(bank.project))
    if not options.kind or options.top_k >= count:
        return
    wanted = None if source.decode is None else source.decode(bank.project(queries))
    for kind in (None, *options.kind):
        started = time.perf_counter()
        indexed = bank if kind is None else bank.with_index(IndexOptions(kind))
        index, build, size = indexed.index, time.perf_counter() - started, None
        if index is not None:
            width = bank.dim * (1 if index.options.kind == "ivfsq" else 4)
            size = count * (width + 8 * index.options.has_lists) / 2**20
        (found, mass), changed = indexed.approximate(queries, options.top_k), None
        if source.decode is not None and wanted is not None:
            said = source.decode(found)
            changed = sum(a != b for a, b in zip(wanted, said, strict=True)) / len(said)
        yield Line(
            name, count, kind or "top-k, no index", times(partial(indexed.project, top_k=options.top_k)),
            None if index is None else build, size, float(mass.mean()), float(mass.min()), changed,
        )  # fmt: skip


def sources(options: argparse.Namespace, model: Patchioner | None = None) -> Iterator[Source]:
    """Random rows, then those of --bank; a model is loaded where none is given."""
    count = max(*options.queries, options.compared)
    bank = None if options.bank is None else MemoryBank.load(options.bank)
    if bank is None or options.dim is not None:
        yield random_source(options.dim or 384, count, seed=options.seed)
    if bank is not None:
        model = model or Patchioner.from_pretrained(options.model, device="cpu")
        decoder, settings, own = model.parts.decoder, model.settings, model.parts.bank
        photos = sorted((options.data / "photos").glob("*.jpg"))

        def decode(embeddings: Tensor) -> list[str]:
            return [said.text for said in decoder.generate(embeddings, settings.decode, own)]

        queries = functional.normalize(region_queries(model, photos, count))
        yield real_source(bank, queries, decode, seed=options.seed)


def main(argv: Sequence[str] | None = None, *, model: Patchioner | None = None) -> int:
    """Run the command (with `model` in place of the one that --model names); 0, or 1 after an error."""
    return command.run_command(_parser(), partial(_work, model=model), argv)


def _work(options: argparse.Namespace, model: Patchioner | None) -> None:
    asked = itertools.product(sources(options, model), options.rows)
    banks = ((source.bank(rows, options.storage), source) for source, rows in asked)
    lines = [line for bank, source in banks for line in measure(bank, source, options)]
    sizes = [f"{n:,} {'query' if n == 1 else 'queries'}, ms" for n in options.queries]
    kept = ["mass kept (least)", "captions changed"]
    names = ["rows", "of", "way", *sizes, "built, s", "index, MiB", *kept]
    sys.stdout.write(
        f"{markdown_table(names, [line.cells() for line in lines])}\n"
        f"CPU, {torch.get_num_threads()} thread(s), rows in {options.storage}, medians of {options.rounds} calls. "
        f"Ways other than exact take the {options.top_k} nearest rows; mass kept is their share of the full softmax at "
        "temperature 0.01, mean and least over the queries. The index comes on top of the bank.\n"
    )
    if options.json is not None:
        found = {"settings": as_json(options), "machine": versions() | machine("cpu")}
        write_json(options.json, found | {"lines": [asdict(line) for line in lines]})


def _parser() -> argparse.ArgumentParser:
    parser = command.command_parser("bank", "When is an index over a memory bank worth it?")
    add = parser.add_argument
    some: Any = {"type": positive, "nargs": "+"}
    add("--rows", **some, default=[10_000, 100_000], help="sizes of banks")
    add("--dim", type=positive, help="width of random rows; with --bank only these make any (384)")
    add("--bank", type=Path, metavar="DIR", help="of real captions, without counts, for --model")
    add("--model", default="patchioner-mini", help="its regions are the real queries")
    add("--data", type=Path, default=SAMPLE, help="holds photos/ (default: the sample)")
    kinds = ["ivf", "ivfsq"]
    add("--kind", choices=KINDS, nargs="*", default=kinds, help="indexes; none: only exact")
    add("--top-k", type=positive, default=256, help="rows that take part (256)")
    add("--queries", **some, default=[1, 100], help="of one call")
    add("--compared", type=positive, default=100, help="queries whose mass and captions count")
    add("--storage", choices=get_args(Precision), default="float16")
    add("--rounds", type=positive, default=5)
    add("--seed", type=natural, default=0)
    add("--json", type=Path, help="write the table as JSON as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
