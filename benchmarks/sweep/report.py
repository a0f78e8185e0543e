"""A sweep's findings as Markdown.

Knows: how figures are printed. Does NOT know: how they are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.bootstrap import Difference
from benchmarks.sweep.choosing import Chosen, HeldOut
from benchmarks.sweep.measures import LABELS, Measured, dense_map_of, differences, index
from benchmarks.sweep.samples import KindSamples
from benchmarks.sweep.space import Choice, weighting_label

WHY = {
    "own": "its own best, which beats the shared one on photos that had no say",
    "shared": "the best one for all kinds together",
    "present": "the present default: nothing else holds up on photos that had no say",
}


class Bootstrapped:
    """Rows of tables with paired differences; rounds and seed of the bootstrap."""

    def __init__(self, rounds: int, seed: int) -> None:
        self._how = {"rounds": rounds, "seed": seed}

    def table(
        self,
        kind: KindSamples,
        start: tuple[str, Measured],
        rows: Sequence[tuple[str, Measured]],
    ) -> str:
        """Settings down, measures across: values in the first row, differences to it in the others.

        Args:
            kind: of all rows.
            start: label and scores that the others are compared with.
            rows: labels and scores.
        """
        label, below = start
        values = [f"{value:.1f}" for value in means(kind, below).values()]
        lines = [
            " | ".join([label, *values, ""]),
            *(self._line(kind, name, found, below) for name, found in rows),
        ]
        heads = ["setting", *(LABELS[name] for name in means(kind, below)), "index"]
        text = "".join(f"| {line.rstrip()} |\n" for line in lines)
        return f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n{text}"

    def _line(self, kind: KindSamples, name: str, found: Measured, below: Measured) -> str:
        compared = differences(kind, found, below, **self._how)
        cells = [difference_cell(compared[key]) for key in means(kind, below)]
        return " | ".join([name, *cells, f"{index(kind, found, below):+.1f}"])


def means(kind: KindSamples, found: Measured) -> dict[str, float]:
    """All measures of a kind over its set, the mAP of boxes after the captions' scores."""
    values = {name: found.mean(name) for name in found.values}
    if kind.kind != "box":
        return values
    return {"cider": values.pop("cider"), "stem_f": values.pop("stem_f"),
            "map": dense_map_of(kind, found), **values}  # fmt: skip


def difference_cell(found: Difference) -> str:
    """A difference with its interval, bold where the interval leaves out zero.

    Example:
        >>> difference_cell(Difference(2.0, 1.0, 3.0, 0.95, 0.0))
        '**+2.0** (+1.0 to +3.0)'
    """
    value = f"{found.value:+.1f}"
    return (
        f"{f'**{value}**' if found.beyond_noise else value} ({found.low:+.1f} to {found.high:+.1f})"
    )


def grid_table(kind: KindSamples, grid: Mapping[Choice, Measured], start: Choice) -> str:
    """Index of every setting of a grid over the present one: weightings down, contexts across."""
    contexts = sorted({choice.context for choice in grid})
    weightings = dict.fromkeys(choice.weighting for choice in grid)
    below = grid[start]
    found = {(c.weighting, c.context): index(kind, m, below) for c, m in grid.items()}
    lines = [
        f"| index | {' | '.join(f'context {context:g}' for context in contexts)} |",
        f"|{'---|' * (len(contexts) + 1)}",
    ]
    for weighting in weightings:
        cells = [f"{found[weighting, context]:+.1f}" for context in contexts]
        lines.append(f"| {weighting_label(weighting)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chosen_lines(kind: str, chosen: Chosen) -> str:
    """What is proposed for a kind, and what choosing is worth on photos that had no say."""
    return (
        f"Best of its own: {chosen.own.label}; {_worth(chosen.held_out_own)}.\n"
        f"Best shared by all kinds: {chosen.shared.label}; {_worth(chosen.held_out_shared)}.\n"
        f"Taken for {kind}: {chosen.choice.label} ({WHY[chosen.why]}).\n"
    )


def _worth(held: HeldOut) -> str:
    often, count = held.chosen[0]
    return (
        f"choosing so gains {held.mean:+.1f} on the other half of the photos, more than nothing in"
        f" {100 * held.wins:.0f} % of {len(held.gains)} halves (most often {weighting_label(often.weighting)},"
        f" context {often.context:g}: {count} times)"
    )


def global_table(rows: Sequence[tuple[str, Mapping[str, float], float]]) -> str:
    """Settings that all kinds share: index per kind, their mean, and the share of halves in which the mean is above 0.

    Example:
        >>> global_table([("518 px", {"box": 1.0, "trace": 2.0}, 0.9)]).splitlines()[-1]
        '| 518 px | +1.0 | +2.0 | +1.5 | 90 % |'
    """
    if not rows:
        return ""
    kinds = list(rows[0][1])
    lines = [
        f"| index | {' | '.join(kinds)} | mean | halves with a gain |",
        f"|{'---|' * (len(kinds) + 3)}",
    ]
    for label, found, wins in rows:
        cells = [f"{found[kind]:+.1f}" for kind in kinds]
        mean = sum(found.values()) / len(found)
        lines.append(f"| {label} | {' | '.join(cells)} | {mean:+.1f} | {100 * wins:.0f} % |")
    return "\n".join(lines) + "\n"
