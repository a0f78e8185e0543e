"""Projection and decoding by themselves, both sides.

Knows: which vectors go in. Does NOT know photos, or how a side does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.naive import CHUNK
from benchmarks.speed.arena import Arena
from benchmarks.speed.contest import OPTIONS, decode_in_chunks, project_in_chunks
from benchmarks.speed.targets import DECODING, PROJECTION, PROJECTION_AIM, REPORT, Line, timed_line
from benchmarks.timing import clocked
from memory_bank import MemoryBank
from patchioner.base.errors import OptionError, PatchionerError

_OTHER_PRECISIONS = ("float16", "int8")
_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 0.2}
"""Largest distance of a projected unit vector from the published way's, by the precision of rows."""


def projection_lines(arena: Arena) -> list[Line]:
    """Few and many queries, rows of each precision that the bank knows, against the published way's calls of four.

    One call with more than four, which the published evaluation never makes, is reported beside it.

    Raises:
        PatchionerError: a projection is not the published way's.
    """
    banks = {"float32": arena.ours.bank}
    for precision in _OTHER_PRECISIONS:
        banks |= _in_precision(arena.ours.bank, precision)
    return [line for count in arena.shapes.projected for line in _projections(arena, banks, count)]


def _projections(arena: Arena, banks: dict[str, MemoryBank], count: int) -> list[Line]:
    queries = _vectors(count, arena.shapes.dim)
    expected = arena.other.captioner.bridge(queries)
    for name, bank in banks.items():
        _see_close(bank.project(queries), expected, name)
    label = f"projection alone, {count:,} quer{'ies' if count > 1 else 'y'}"
    clocks = {name: clocked(_call(bank.project, queries)) for name, bank in banks.items()}
    clocks["published"] = clocked(_call(arena.other.captioner.bridge, queries))
    if count > CHUNK:
        clocks["fours"] = project_in_chunks(arena.other, queries)
    found = arena.turns(label, clocks)
    ways = [("published", "published: one call", REPORT if count > CHUNK else None)]
    if count > CHUNK:
        ways.append(("fours", "published: calls of four, scaled", None))
    return [
        timed_line(
            f"{label}, {name} rows",
            found[name],
            found[way],
            target or PROJECTION.get(name, PROJECTION_AIM),
            note,
        )
        for way, note, target in ways
        for name in banks
    ]


def _in_precision(bank: MemoryBank, precision: Any) -> dict[str, MemoryBank]:
    """The bank in another precision, by its name; nothing where the bank knows no such precision."""
    try:
        return {precision: bank.to(dtype=precision)}
    except OptionError:
        return {}


def _see_close(found: Tensor, expected: Tensor, name: str) -> None:
    distance = float((found - expected).norm(dim=1).max())
    if not distance <= _TOLERANCE[name]:
        raise PatchionerError(
            f"projected with {name} rows, a vector is {distance:.2g} from the published way's, more than "
            f"{_TOLERANCE[name]:g}: the two do not do the same work"
        )


def decoding_lines(arena: Arena) -> list[Line]:
    """Captions that never end early, ours against one batch of the published way; batches of four are reported.

    Raises:
        PatchionerError: tokens differ.
    """
    count = arena.shapes.decoded
    vectors = functional.normalize(_vectors(count, arena.shapes.dim), dim=1)
    decoder, naive = arena.ours.decoder, arena.other.captioner.decoder
    label = f"decoding alone, {count:,} rows"
    expected = [naive.until_end(ids) for ids in naive.token_ids(vectors)]
    arena.see_equal(label, [one.token_ids for one in decoder.generate(vectors, OPTIONS)], expected)
    found = arena.turns(
        label,
        {
            "ours": clocked(lambda: decoder.generate(vectors, OPTIONS)),
            "published": clocked(_call(naive.token_ids, vectors)),
            "fours": decode_in_chunks(arena.other, vectors),
        },
    )
    return [
        timed_line(label, found["ours"], found["published"], DECODING, "published: one batch"),
        timed_line(
            label, found["ours"], found["fours"], REPORT, "published: batches of four, scaled"
        ),
    ]


def _call(function: Callable[[Tensor], object], argument: Tensor) -> Callable[[], object]:
    return lambda: function(argument)


def _vectors(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
