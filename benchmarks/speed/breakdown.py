"""Where the time of one number of boxes goes, part by part: ours, the published way, the floor.

Knows: the parts and their table. Does NOT know how a part is done.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks.speed.arena import Arena
from benchmarks.speed.end_to_end import floor_works
from benchmarks.speed.floor import PARTS
from benchmarks.speed.units import duration

Breakdown = Mapping[str, Mapping[str, float]]
"""Seconds by column ("ours", "published", "floor"), then by part."""


def break_down(arena: Arena, *, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each part for `arena.shapes.breakdown` boxes, both sides in turns."""
    boxes = arena.boxes[: arena.shapes.breakdown]
    laps: dict[str, list[dict[str, float]]] = {"ours": [], "published": []}
    for _ in range(rounds):
        laps["ours"].append(arena.ours.by_part(arena.photo, boxes))
        laps["published"].append(arena.other.by_part(arena.photo, boxes))
    found = {
        side: {part: statistics.median(lap[part] for lap in taken) for part in PARTS}
        for side, taken in laps.items()
    }
    works = floor_works(arena, len(boxes))
    found["floor"] = {part: works[part].floor(arena.rates) for part in PARTS}
    return found


def breakdown_table(found: Breakdown, boxes: int) -> str:
    """The seconds as a Markdown table.

    Example:
        >>> same = dict.fromkeys(PARTS, 1.0)
        >>> breakdown_table({"ours": same, "published": same, "floor": same}, 9).splitlines()[-1]
        '| all | 4.00 s | 4.00 s | 4.00 s | 1.00 |'
    """
    lines = [
        f"| part, {boxes:,} boxes | ours | published | floor | ours, x floor |",
        "|---|---|---|---|---|",
    ]
    sums = {side: sum(seconds.values()) for side, seconds in found.items()}
    for part in (*PARTS, "all"):
        values = {side: sums[side] if part == "all" else found[side][part] for side in found}
        shown = " | ".join(duration(values[side]) for side in ("ours", "published", "floor"))
        lines.append(f"| {part} | {shown} | {values['ours'] / values['floor']:.2f} |")
    return "\n".join(lines) + "\n"
