"""Command: finds the best defaults per kind of region by measurement, and says what each choice brings.

    python -m benchmarks.sweep --model patchioner-mini --data ../shared/data --out build/sweep

Each development photo is encoded once per input size. Then, for each kind of region (on its own task): every setting
that differs in one factor from the present default; the grid of weighting x context; a choice that has to hold up on
photos that had no say in it (`benchmarks.sweep.choosing`); and from there input size, temperature and crops once more.

Everything that is found is kept in the folder: a killed command goes on where it was, and a second one prints the same.

Knows: arguments and the order of the work. Does NOT know: how anything of it is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import not_negative, positive, positive_number
from benchmarks.captioner import Captioner, LoadModel, load_pretrained, parts_of
from benchmarks.sweep.answers import Sweeper
from benchmarks.sweep.choosing import CONVINCING, choose, halves
from benchmarks.sweep.measures import Measured, index
from benchmarks.sweep.report import Bootstrapped, chosen_lines, global_table, grid_table
from benchmarks.sweep.samples import KindSamples, read_kinds, read_uncaptioned
from benchmarks.sweep.space import CONTEXTS, CROP_AREAS, TEMPERATURES, Choice, grid, one_at_a_time
from patchioner.aggregate import Weighting
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import atomic_path, write_json

REPORT_FILE, PROPOSAL_FILE = "sweep.md", "proposal.json"
DEFAULT_SIZES = (392, 448, 518)


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0; 1 after an error.

    Example:
        >>> main(["--data", "../shared/data", "--out", "build/sweep"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        kinds = read_kinds(arguments.data, arguments.limit)
        asked = {region.photo for kind in kinds for region in kind.regions}
        others = read_uncaptioned(arguments.data, asked, arguments.limit)
        model = load_model(arguments.model, arguments.device)
        sweep = Sweep(model, kinds, others, arguments)
        text = sweep.run()
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with atomic_path(arguments.out / REPORT_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(arguments.out / PROPOSAL_FILE, sweep.proposal)
    sys.stdout.write(text)
    return 0


class Sweep:
    """One sweep, from the present defaults to a proposal.

    Args:
        model: to be swept.
        kinds: the samples.
        others: kinds of region without captions, which are named only, and follow the boxes.
        arguments: of the command.
    """

    def __init__(
        self,
        model: Captioner,
        kinds: Sequence[KindSamples],
        others: Sequence[KindSamples],
        arguments: argparse.Namespace,
    ) -> None:
        self._kinds, self._others, self._arguments = kinds, others, arguments
        every = (*kinds, *others)
        self._starts = {kind.kind: _start(model, kind, arguments) for kind in every}
        self._sweeper = Sweeper(
            model, every, arguments.data / "photos", arguments.out, list(self._starts.values())
        )
        self._bootstrap = Bootstrapped(arguments.rounds, arguments.seed)
        self.proposal: dict[str, Any] = {}

    def run(self) -> str:
        """All rounds; the report as Markdown."""
        text = f"# Sweep of {self._arguments.model}\n\n## One factor at a time\n"
        for kind in self._kinds:
            text += f"\n### {kind.kind} ({len(kind.samples)} samples)\n\n{self._ladders(kind)}"
        chosen, found = self._grids()
        text += f"\n## Weighting and context together\n{found}"
        final, found = self._shared(chosen)
        text += f"\n## Input size and temperature, shared by all kinds\n\n{found}"
        text += f"\n## Kinds without captions, named only\n{self._uncaptioned()}"
        text += f"\n## Crops of small regions, from there\n{self._crops(final)}"
        text += f"\n## Proposed and present\n{self._proposed(final)}"
        self.proposal = {name: _as_json(choice) for name, choice in final.items()}
        return text

    def _measure(self, kind: KindSamples, choice: Choice) -> Measured:
        return self._sweeper.measure(kind, choice)

    def _ladders(self, kind: KindSamples) -> str:
        start = self._starts[kind.kind]
        tried = one_at_a_time(start, self._arguments.sizes, crops=False)
        rows = [(name, self._measure(kind, choice)) for name, choice in tried]
        label = f"present: {start.label}"
        return self._bootstrap.table(kind, (label, self._measure(kind, start)), rows)

    def _grids(self) -> tuple[dict[str, Choice], str]:
        """The chosen setting of each kind, and its account."""
        # Every start is in every grid, so that all kinds choose among the same settings.
        extra = [(start.weighting, start.context) for start in self._starts.values()]
        grids = {
            kind.kind: {
                choice: self._measure(kind, choice)
                for choice in grid(self._starts[kind.kind], extra)
            }
            for kind in self._kinds
        }
        chosen = choose(
            self._kinds, grids, self._starts,
            splits=self._arguments.splits, seed=self._arguments.seed,
        )  # fmt: skip
        text = ""
        for kind in self._kinds:
            name = kind.kind
            table = grid_table(kind, grids[name], self._starts[name])
            text += f"\n### {name}\n\n{table}\n{chosen_lines(name, chosen[name])}"
        return {name: one.choice for name, one in chosen.items()}, text

    def _shared(self, chosen: Mapping[str, Choice]) -> tuple[dict[str, Choice], str]:
        """Input size, then temperature: taken where most halves gain on the mean over the kinds."""
        text, best = "", dict(chosen)
        ladders: tuple[tuple[str, str, Sequence[float]], ...] = (
            ("size", "px", self._arguments.sizes), ("temperature", "", TEMPERATURES),
        )  # fmt: skip
        for field, unit, values in ladders:
            rows, candidates = [], []
            for value in values:
                change: dict[str, Any] = {field: value}
                other = {name: replace(one, **change) for name, one in best.items()}
                if other == best:
                    continue
                gains, wins = self._compared(other, best)
                rows.append((f"{field} {value:g} {unit}".strip(), gains, wins))
                candidates.append((float(np.mean(list(gains.values()))), wins, other))
            text += f"{global_table(rows)}\n"
            good = [one for one in candidates if one[0] > 0 and one[1] >= CONVINCING]
            if good:
                best = max(good, key=lambda one: one[0])[2]
            text += f"Taken: {field} {getattr(next(iter(best.values())), field):g}.\n\n"
        return best, text

    def _compared(
        self, other: Mapping[str, Choice], best: Mapping[str, Choice]
    ) -> tuple[dict[str, float], float]:
        """Index of each kind over `best`, and the share of halves in which their mean is above 0."""
        pairs = [
            (kind, self._measure(kind, other[kind.kind]), self._measure(kind, best[kind.kind]))
            for kind in self._kinds
        ]
        photos = [asked.photo for kind in self._kinds for asked in kind.regions]
        means = [
            np.mean([index(kind, after, before, half) for kind, after, before in pairs])
            for pair in halves(photos, splits=self._arguments.splits, seed=self._arguments.seed)
            for half in pair
        ]
        gains = {kind.kind: index(kind, after, before) for kind, after, before in pairs}
        return gains, float(np.mean(np.array(means) > 0))

    def _uncaptioned(self) -> str:
        text = ""
        for kind in self._others:
            start = self._starts[kind.kind]
            tried = {f"context {share:g}": replace(start, context=share) for share in CONTEXTS}
            rows = [(n, self._measure(kind, one)) for n, one in tried.items() if one != start]
            label = f"present: {start.label}"
            table = self._bootstrap.table(kind, (label, self._measure(kind, start)), rows)
            text += f"\n### {kind.kind} ({len(kind.named)} regions)\n\n{table}"
        return text or "\nNone.\n"

    def _crops(self, final: Mapping[str, Choice]) -> str:
        text = ""
        for kind in self._kinds:
            counts = {
                area: sum(asked.area_share < area for asked in kind.regions) for area in CROP_AREAS
            }
            if kind.kind == "whole_image" or not self._arguments.crops or not max(counts.values()):
                continue
            start = final[kind.kind]
            tried = one_at_a_time(start, (), crops=True)
            rows = [(name, self._measure(kind, one)) for name, one in tried if one.crop_share]
            passes = ", ".join(f"{n} below {100 * area:g} %" for area, n in counts.items())
            table = self._bootstrap.table(kind, ("none", self._measure(kind, start)), rows)
            text += (
                f"\n### {kind.kind}\n\nA further backbone pass per small region, of {len(kind.regions)}"
                f" in {len({asked.photo for asked in kind.regions})} photos: {passes}.\n\n{table}"
            )
        return text or "\nNone tried.\n"

    def _proposed(self, final: Mapping[str, Choice]) -> str:
        text = ""
        for kind in self._kinds:
            start, choice = self._starts[kind.kind], final[kind.kind]
            rows = [] if choice == start else [(choice.label, self._measure(kind, choice))]
            table = self._bootstrap.table(kind, (start.label, self._measure(kind, start)), rows)
            text += f"\n### {kind.kind}\n\n{table}"
        return text


def _start(model: Captioner, kind: KindSamples, arguments: argparse.Namespace) -> Choice:
    """The model's own setting for a kind of region, with what the arguments change."""
    parts = parts_of(model)
    size = getattr(getattr(parts.backbone, "preprocessing", None), "size", None) if parts else None
    if parts is None or size is None:
        raise OptionError(f"the input size of this {type(model).__name__} cannot be changed")
    weighting, context = parts.settings.for_region(kind.regions[0].region)
    if arguments.weighting is not None:
        weighting = Weighting(arguments.weighting, variance=arguments.variance)
    given = arguments.context, arguments.temperature
    return Choice(
        arguments.size or size,
        weighting,
        context if given[0] is None else given[0],
        parts.settings.temperature if given[1] is None else given[1],
    )


def _as_json(choice: Choice) -> dict[str, Any]:
    return {
        "size": choice.size,
        "weighting": {"kind": choice.weighting.kind, "variance": choice.weighting.variance},
        "context": choice.context,
        "temperature": choice.temperature,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description="Find the best defaults per kind of region on the development sets.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder, YAML file or hub id")
    add("--data", type=Path, default=Path("../shared/data"), help="holds annotations/ and photos/")
    add("--out", type=Path, required=True, help="folder that keeps everything found")
    add("--sizes", type=positive, nargs="+", default=list(DEFAULT_SIZES), help="input sizes to try")
    add("--no-crops", dest="crops", action="store_false", help="leave out crops of small regions")
    add("--limit", type=positive, help="only the first N samples of each set")
    add("--splits", type=positive, default=20, help="random splits of the photos into halves")
    add("--rounds", type=positive, default=2000, help="bootstrap resamples")
    add("--seed", type=int, default=0, help="of splits and bootstrap")
    add("--device", default="cpu")
    group = parser.add_argument_group(
        "what is compared with", "default: what the model itself says"
    )
    add = group.add_argument
    add("--weighting", choices=["uniform", "gaussian", "attention", "cls"], help="of patches")
    add("--variance", type=not_negative, default=1.0, help="of --weighting gaussian")
    add("--context", type=not_negative, help="share of the whole photo mixed into a region")
    add("--temperature", type=positive_number, help="of the projection onto the memory")
    add("--size", type=positive, help="input size")
    return parser


if __name__ == "__main__":
    sys.exit(main())
