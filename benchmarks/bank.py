"""Command: when is an index worth it? Times exact and approximate projections onto banks of many sizes.

    patchioner bank build captions.txt.gz --storage float32 --out captions-bank
    python -m benchmarks.bank --rows 10000 100000 1000000 --bank captions-bank --data ../shared/data
    python -m benchmarks.bank --rows 10000000 --storage int8 --of real --bank captions-bank --kind ivfsq
    python -m benchmarks.bank --rows 591753 --dim 768 --queries 1 100 1000 --published --kind

Knows: arguments, the order of the work, the table. Does NOT know: how rows are made (`benchmarks.bank_rows`) or how
anything is timed (`benchmarks.bank_timing`).
Random rows, and with --bank the rows of a real one, asked for with regions of the photos in --data, and the captions
that change are counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.answerers import LoadModel
from benchmarks.bank_rows import Source, random_source, real_source, region_queries
from benchmarks.bank_timing import (
    KINDS,
    Decode,
    Line,
    time_exact,
    time_published,
    time_top_k,
)
from benchmarks.command import natural, positive
from benchmarks.provenance import machine, versions
from benchmarks.run import load_pretrained
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import write_json


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0, or 1 after an error.

    Example:
        >>> main(["--rows", "10000", "--dim", "384"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        lines = []
        sys.stdout.write(header(arguments.queries))
        for line in _lines(arguments, load_model):
            lines.append(line)
            sys.stdout.write(table_row(line, arguments.queries))
            sys.stdout.flush()
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"\n{_explanation(arguments)}\n")
    if arguments.json is not None:
        settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(arguments).items()}
        report = {"settings": settings, "versions": versions(), "machine": machine("cpu")}
        write_json(arguments.json, report | {"lines": [asdict(line) for line in lines]})
    return 0


def _lines(arguments: argparse.Namespace, load_model: LoadModel) -> Iterator[Line]:
    sizes, rounds = arguments.queries, arguments.rounds
    for source, decode in _sources(arguments, load_model):
        for rows in arguments.rows:
            bank = source.bank(rows, arguments.storage)
            name = source.name
            if source.real is not None and rows > source.real:
                name = f"{name}, noised copies past {source.real:,}"
            if arguments.published:
                yield time_published(bank, source.queries, sizes, name, rounds)
            yield time_exact(bank, source.queries, sizes, name, rounds)
            for kind in (None, *arguments.kind) if arguments.kind else ():
                if arguments.top_k < rows:
                    yield from time_top_k(
                        bank, kind, source.queries, sizes, top_k=arguments.top_k, source=name,
                        rounds=rounds, probes=arguments.probes, decode=decode, memory_mb=arguments.memory,
                    )  # fmt: skip


def _sources(
    arguments: argparse.Namespace, load_model: LoadModel
) -> Iterator[tuple[Source, Decode | None]]:
    count = max(*arguments.queries, arguments.compared)
    if arguments.bank is None and "random" not in arguments.of:
        raise OptionError("--of real needs --bank: the folder of a bank of real captions")
    bank = None if arguments.bank is None else MemoryBank.load(arguments.bank)
    if "random" in arguments.of:
        dim = arguments.dim or (384 if bank is None else bank.dim)
        yield random_source(dim, count, seed=arguments.seed), None
    if bank is None or "real" not in arguments.of:
        return
    model = load_model(arguments.model, "cpu")
    photos = sorted((arguments.data / "photos").glob("*.jpg"))
    queries = region_queries(model, photos, count)
    yield real_source(bank, queries, seed=arguments.seed), _decoder_of(model)


def _decoder_of(model: Patchioner) -> Decode | None:
    parts = model.parts

    def decode(embeddings: torch.Tensor) -> list[str]:
        return [
            said.text
            for said in parts.decoder.generate(embeddings, parts.settings.decode, parts.bank)
        ]

    return decode


def header(queries: Sequence[int]) -> str:
    """The head of the Markdown table.

    Example:
        >>> header([1]).splitlines()[0]
        '| rows | of | way | 1 query, ms | built, s | index, MiB | mass kept (least) | captions changed |'
    """
    names = [
        "rows",
        "of",
        "way",
        *(f"{n:,} {'query' if n == 1 else 'queries'}, ms" for n in queries),
    ]
    names += ["built, s", "index, MiB", "mass kept (least)", "captions changed"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"


def table_row(line: Line, queries: Sequence[int]) -> str:
    """One line of the table.

    Example:
        >>> table_row(Line("random", 1000, "exact", {1: 2.5}), [1])
        '| 1,000 | random | exact | 2.5 |  |  |  |  |\\n'
    """
    times = [
        f"{line.milliseconds[n]:,.1f}" if n in line.milliseconds else line.note for n in queries
    ]
    mass = "" if line.mass is None else f"{line.mass:.4f} ({line.least_mass:.4f})"
    cells = [f"{line.rows:,}", line.source, line.way, *times]
    cells += [_cell(line.build_seconds), _cell(line.index_mb), mass]
    cells.append("" if line.changed is None else f"{100 * line.changed:.1f} %")
    return f"| {' | '.join(cells)} |\n"


def _cell(number: float | None) -> str:
    return "" if number is None else f"{number:,.1f}"


def _explanation(arguments: argparse.Namespace) -> str:
    return (
        f"CPU, {torch.get_num_threads()} thread(s), rows in {arguments.storage}, medians of {arguments.rounds} calls. "
        f"Ways other than exact take the {arguments.top_k} nearest rows; mass kept is their share of the full softmax "
        "at temperature 0.01, mean and least over the queries. The index comes on top of the bank."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bank",
        description="When is an index over a memory bank worth it?",
    )
    add: Callable[..., Any] = parser.add_argument
    add("--rows", type=positive, nargs="+", default=[10_000, 100_000], help="sizes of banks")
    add("--dim", type=positive, help="width of random rows (default: that of --bank, else 384)")
    add(
        "--of", choices=["random", "real"], nargs="+", default=["random", "real"],
        help="rows; real ones need --bank (default: both)",
    )  # fmt: skip
    add(
        "--bank",
        type=Path,
        metavar="DIR",
        help="a bank of real captions, without counts, made for --model",
    )
    add(
        "--model",
        default="patchioner-mini",
        help="its regions are the real queries (default: %(default)s)",
    )
    add("--data", type=Path, default=Path("../shared/data"), help="holds photos/")
    add("--kind", choices=KINDS, nargs="*", default=list(KINDS), help="indexes; none: only exact")
    add("--top-k", type=positive, default=256, help="rows that take part (default: %(default)s)")
    add(
        "--probes", type=positive, nargs="+", default=[], metavar="N",
        help="lists looked at by the ivf kinds, besides the default of an eighth of them",
    )  # fmt: skip
    add("--queries", type=positive, nargs="+", default=[1, 100], help="of one call")
    add(
        "--compared",
        type=positive,
        default=100,
        help="queries whose mass and captions are compared",
    )
    add("--storage", choices=["float32", "float16", "int8"], default="float16")
    add(
        "--published", action="store_true", help="time the published way too (float32, all at once)"
    )
    add(
        "--memory",
        type=positive,
        default=6000,
        metavar="MIB",
        help="largest index (default: %(default)s)",
    )
    add("--rounds", type=positive, default=5)
    add("--seed", type=natural, default=0)
    add("--json", type=Path, help="write the table as JSON as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
