"""From photo and boxes to captions, both sides; and every patch of the photo, ours alone.

Knows: the works that begin with a photo. Does NOT know how a side does them.
"""

from __future__ import annotations

from benchmarks.speed import floor
from benchmarks.speed.arena import Arena
from benchmarks.speed.contest import OPTIONS, Ours, Published
from benchmarks.speed.floor import Work
from benchmarks.speed.targets import BOXES, FLOOR, PATCHES, REPORT, Line, spread, timed_line
from benchmarks.speed.units import duration
from benchmarks.timing import Timing, clocked
from patchioner.regions import Patch

COCO = ", captions of COCO's length"


def box_lines(arena: Arena, *, ending: bool) -> list[Line]:
    """Every number of boxes, both sides in turns, tokens checked first (which also warms both up).

    Args:
        arena: the two sides.
        ending: captions of COCO's length, which are reported; else captions that never end early, which have targets.

    Raises:
        PatchionerError: tokens differ.
    """
    ours, other = (arena.ours_ending, arena.other_ending) if ending else (arena.ours, arena.other)
    return [_box_line(arena, count, ours, other, ending) for count in arena.shapes.counts]


def _box_line(arena: Arena, count: int, ours: Ours, other: Published, ending: bool) -> Line:
    photo, boxes, run = arena.photo, arena.boxes[:count], other.run(count)
    label = f"{count:,} box{'es' if count > 1 else ''}{COCO if ending else ''}"
    arena.see_equal(label, ours.token_ids(photo, boxes[:run]), other.token_ids(photo, boxes))
    found = arena.turns(
        label,
        {
            "ours": clocked(lambda: ours.caption(photo, boxes)),
            "published": lambda: other.seconds(photo, boxes),
        },
    )
    target = REPORT if ending else BOXES.get(count, REPORT)
    note = f"published: {run} boxes run, rest scaled" if other.scaled(count) else ""
    return timed_line(label, found["ours"], found["published"], target, note)


def floor_line(arena: Arena) -> Line:
    """The largest number of boxes beside the floor; `box_lines` has been timed before."""
    count = max(arena.shapes.counts)
    label = f"{count:,} boxes"
    ours = arena.timings[f"{label}: ours"]
    least = floor.total_floor(list(floor_works(arena, count).values()), arena.rates)
    ratio = ours.median / least
    return Line(f"{label}, times the floor", spread(ours), duration(least), ratio, FLOOR, "floor")


def floor_works(arena: Arena, count: int) -> dict[str, Work]:
    """The work of each of `PARTS` for so many boxes whose captions never end early."""
    shapes, patches = arena.shapes, arena.grid[0] * arena.grid[1]
    lengths = [OPTIONS.max_tokens] * count
    return {
        "backbone": floor.backbone_work(arena.backbone, patches),
        "pooling": floor.pooling_work(count, patches, shapes.dim),
        "projection": floor.projection_work(count, shapes.rows, shapes.dim),
        "decoding": floor.decoding_work(arena.ours.decoder.network, lengths),
    }


def patch_lines(arena: Arena) -> list[Line]:
    """Every patch of the photo captioned once by ours, in backbone passes; one round, nothing to compare with."""
    found = arena.turns("backbone", {"ours": clocked(lambda: arena.ours.model.encode(arena.photo))})
    return [
        _patch_line(arena, side, kind, found["ours"])
        for side, kind in ((arena.ours, ""), (arena.ours_ending, COCO))
    ]


def _patch_line(arena: Arena, side: Ours, kind: str, one_pass: Timing) -> Line:
    rows, columns = arena.grid
    patches = [Patch(row, column) for row in range(rows) for column in range(columns)]
    label = f"all {len(patches):,} patches{kind}"
    taken = Timing(label, (clocked(lambda: side.caption(arena.photo, patches))(),))
    arena.timings[f"{label}: ours"] = taken
    ratio = taken.median / one_pass.median
    work = f"{label}, backbone passes"
    return Line(work, spread(taken), spread(one_pass), ratio, PATCHES, "one pass")
