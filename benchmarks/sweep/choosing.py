"""Choosing among settings without choosing luck.

Knows: the scores of grids of settings, photos, halves of them. Does NOT know: models or files.

A grid's best score is the best partly because it was lucky. So the photos are split in two at random, again and again:
the best setting (by the smoothed index) of one half is scored on the other, which had no say in it. What is left of its
gain there is what a choice is worth. A kind of region gets a setting of its own only where that beats one setting that
all kinds share, on photos that had no say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.sweep.measures import Measured, index
from benchmarks.sweep.samples import KindSamples
from benchmarks.sweep.space import Choice, smoothed

Grid = Mapping[Choice, Measured]
CONVINCING = 0.75  # share of the halves that must confirm


@dataclass(frozen=True)
class HeldOut:
    """What choosing on one half of the photos is worth on the other.

    Attributes:
        gains: `index` over the present default, one per half.
        chosen: how often each setting was chosen, most often first.
    """

    gains: tuple[float, ...]
    chosen: tuple[tuple[Choice, int], ...]

    @property
    def mean(self) -> float:
        """Mean gain over the halves."""
        return float(np.mean(self.gains))

    @property
    def wins(self) -> float:
        """Share of the halves in which there is a gain."""
        return float(np.mean(np.array(self.gains) > 0))

    def beats(self, other: HeldOut) -> bool:
        """Whether it gains more on the mean, and in three quarters of the halves."""
        ahead = np.array(self.gains) > np.array(other.gains)
        return self.mean > other.mean and float(ahead.mean()) >= CONVINCING


@dataclass(frozen=True)
class Chosen:
    """What is proposed for one kind of region, and why.

    Attributes:
        choice: the proposal.
        why: "own", "shared" or "present".
        own, shared: the best of all photos, for this kind and for all kinds together.
        held_out_own, held_out_shared: what choosing so is worth on photos that had no say.
    """

    choice: Choice
    why: str
    own: Choice
    shared: Choice
    held_out_own: HeldOut
    held_out_shared: HeldOut


def halves(
    photos: Sequence[str], *, splits: int, seed: int
) -> Iterator[tuple[frozenset[str], ...]]:
    """Random splits of the photos into two halves.

    Example:
        >>> [len(half) for half in next(halves(["a", "b", "c", "d"], splits=1, seed=0))]
        [2, 2]
    """
    names = sorted(set(photos))
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        order = [names[place] for place in generator.permutation(len(names))]
        middle = len(order) // 2
        yield frozenset(order[:middle]), frozenset(order[middle:])


def choose(
    kinds: Sequence[KindSamples],
    grids: Mapping[str, Grid],
    starts: Mapping[str, Choice],
    *,
    splits: int,
    seed: int,
) -> dict[str, Chosen]:
    """Propose a setting for each kind of region.

    Args:
        kinds: with their samples.
        grids: kind -> measured settings. They differ by weighting and context only, the same ones for all kinds.
        starts: kind -> its present setting, in its grid.
        splits: how often the photos are split in two.
        seed: of the splits.

    Example:
        >>> choose(kinds, grids, starts, splits=20, seed=0)["box"].why  # doctest: +SKIP
        'shared'
    """
    everyone = [sample.photo for kind in kinds for sample in kind.regions]
    own: dict[str, list[tuple[Choice, float]]] = {kind.kind: [] for kind in kinds}
    shared: dict[str, list[tuple[Choice, float]]] = {kind.kind: [] for kind in kinds}
    for pair in halves(everyone, splits=splits, seed=seed):
        for tune, hold in (pair, pair[::-1]):
            scored = {k.kind: _scores(k, grids[k.kind], starts[k.kind], tune) for k in kinds}
            common = _best_shared(scored)
            for kind in kinds:
                name, grid = kind.kind, grids[kind.kind]
                for found, best in (
                    (own, _best(scored[name])),
                    (shared, _like(common, grid)),
                ):
                    gain = index(kind, grid[best], grid[starts[name]], hold)
                    found[name].append((best, gain))
    overall = {k.kind: _scores(k, grids[k.kind], starts[k.kind], None) for k in kinds}
    common = _best_shared(overall)
    return {
        name: _proposal(
            _best(overall[name]), _like(common, grids[name]), starts[name],
            _held_out(own[name]), _held_out(shared[name]),
        )
        for name in overall
    }  # fmt: skip


def _proposal(
    own: Choice, shared: Choice, start: Choice, held_own: HeldOut, held_shared: HeldOut
) -> Chosen:
    if held_own.beats(held_shared) and held_own.mean > 0:
        choice, why = own, "own"
    elif held_shared.mean > 0:
        choice, why = shared, "shared"
    else:
        choice, why = start, "present"
    return Chosen(choice, why, own, shared, held_own, held_shared)


def _held_out(found: Sequence[tuple[Choice, float]]) -> HeldOut:
    counted = Counter(choice for choice, _ in found)
    return HeldOut(tuple(gain for _, gain in found), tuple(counted.most_common()))


def _scores(
    kind: KindSamples, grid: Grid, start: Choice, photos: frozenset[str] | None
) -> dict[Choice, float]:
    below = grid[start]
    return smoothed({choice: index(kind, found, below, photos) for choice, found in grid.items()})


def _best(scores: Mapping[Choice, float]) -> Choice:
    """The first of the best."""
    return max(scores, key=lambda choice: scores[choice])


def _best_shared(scored: Mapping[str, Mapping[Choice, float]]) -> Choice:
    """The weighting and context with the best mean index over the kinds."""
    totals: dict[Choice, float] = {}
    for scores in scored.values():
        for choice, score in scores.items():
            bare = replace(choice, size=0, temperature=1.0)
            totals[bare] = totals.get(bare, 0.0) + score
    return _best(totals)


def _like(bare: Choice, grid: Grid) -> Choice:
    """The setting of a grid with the weighting and context of `bare`."""
    return next(
        choice
        for choice in grid
        if (choice.weighting, choice.context) == (bare.weighting, bare.context)
    )
