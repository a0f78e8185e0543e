"""Times projections onto a bank: exact, as published, and by each kind of index.

Knows: banks, indexes, clocks; how many captions change. Does NOT know: where rows come from, or tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from benchmarks.naive import projection as naive
from benchmarks.timing import time_function
from memory_bank import IndexKind, IndexOptions, MemoryBank
from patchioner.base.errors import OptionError

Decode = Callable[[Tensor], list[str]]
"""Embeddings (n, dim) -> n captions."""

PUBLISHED, EXACT, TOP_K = "as published", "exact", "top-k, no index"
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)


@dataclass(frozen=True)
class Line:
    """One way to project onto one bank.

    Attributes:
        source, rows: the bank.
        way: EXACT, TOP_K, PUBLISHED, or the kind of an index with the lists looked at, if they are not the default.
        milliseconds: number of queries in one call -> median milliseconds of that call.
        build_seconds, index_mb: of an index.
        mass, least_mass: mean and lowest share of the softmax that was kept.
        changed: share of captions that differ from those by the exact projection; None: not asked.
        note: why it was not run.
    """

    source: str
    rows: int
    way: str
    milliseconds: dict[int, float]
    build_seconds: float | None = None
    index_mb: float | None = None
    mass: float | None = None
    least_mass: float | None = None
    changed: float | None = None
    note: str = ""


def time_published(
    bank: MemoryBank, queries: Tensor, sizes: Sequence[int], source: str, rounds: int
) -> Line:
    """Time the published way on the bank's rows in float32, after a check that it says the same.

    Raises:
        OptionError: it does not.
    """
    rows = bank.embeddings()
    few = queries[:2]
    if not torch.allclose(naive.project(few, rows), bank.project(few), atol=1e-3):
        raise OptionError(
            f"{bank!r} does not project as published: counts must be 1, or it is a bug"
        )
    times = _times(lambda part: naive.project(part, rows), queries, sizes, rounds)
    return Line(source, len(bank), PUBLISHED, times)


def time_exact(
    bank: MemoryBank, queries: Tensor, sizes: Sequence[int], source: str, rounds: int
) -> Line:
    """Time the exact projection.

    Example:
        >>> time_exact(MemoryBank(torch.eye(3)), torch.ones(2, 3), [1, 2], "eye", 1).way
        'exact'
    """
    times = _times(bank.project, queries, sizes, rounds)
    return Line(source, len(bank), EXACT, times, mass=1.0, least_mass=1.0)


def time_top_k(
    bank: MemoryBank,
    kind: IndexKind | None,
    queries: Tensor,
    sizes: Sequence[int],
    *,
    top_k: int,
    source: str,
    rounds: int,
    probes: Sequence[int] = (),
    decode: Decode | None = None,
    memory_mb: float | None = None,
) -> Iterator[Line]:
    """Build an index, time projections onto its candidates, and compare them with the exact ones.

    Args:
        bank: without an index.
        kind: of the index; None searches exactly.
        queries: (n, dim); the first ones are timed, all are compared.
        sizes: numbers of queries in one call.
        top_k: rows that take part.
        source: name for the lines.
        rounds: timed, of which the median counts.
        probes: numbers of lists looked at, a line each after that of the default, if the kind has lists.
        decode: captions of embeddings, to count those that change; None: not counted.
        memory_mb: an index that would take more is not built; None: no limit.
    """
    way = TOP_K if kind is None else kind
    if kind is not None and memory_mb is not None and expected_mb(kind, bank) > memory_mb:
        note = f"not run: about {expected_mb(kind, bank):,.0f} MiB"
        yield Line(source, len(bank), way, {}, note=note)
        return
    started = time.perf_counter()
    indexed = bank if kind is None else bank.with_index(IndexOptions(kind))
    build = None if kind is None else time.perf_counter() - started
    size = None if indexed.index is None else indexed.index.bytes() / 2**20
    wanted = None if decode is None else decode(bank.project(queries))
    for name, searched in _searches(indexed, way, probes):
        project = partial(searched.project, top_k=top_k)
        times = _times(project, queries, sizes, rounds)
        found = searched.approximate(queries, top_k)
        mean, least = float(found.mass.mean()), float(found.mass.min())
        changed = None
        if decode is not None and wanted is not None:
            said = decode(found.embeddings)
            changed = sum(a != b for a, b in zip(wanted, said, strict=True)) / len(wanted)
        yield Line(source, len(bank), name, times, build, size, mean, least, changed)


def _searches(
    bank: MemoryBank, way: str, probes: Sequence[int]
) -> Iterator[tuple[str, MemoryBank]]:
    yield way, bank
    if bank.index is not None and bank.index.options.has_lists:
        for number in probes:
            yield f"{way}, {number:,} probes", bank.with_index(bank.index.with_probes(number))


def expected_mb(kind: IndexKind, bank: MemoryBank) -> float:
    """About how many MiB an index of this kind takes in memory.

    Example:
        >>> expected_mb("flat", MemoryBank(torch.eye(4))) < 1
        True
    """
    options = IndexOptions(kind)
    links = 8 * options.links + 16 if kind == "hnsw" else 0
    return len(bank) * (options.row_bytes(bank.dim) + links) / 2**20


def _times(
    work: Callable[[Tensor], Tensor], queries: Tensor, sizes: Sequence[int], rounds: int
) -> dict[int, float]:
    def milliseconds(size: int) -> float:
        return 1e3 * time_function("", lambda: work(queries[:size]), rounds=rounds).median

    return {size: milliseconds(size) for size in sizes}
