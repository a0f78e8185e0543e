"""The settings that a sweep tries: one value, ladders of each factor, and which settings are neighbours.

Knows: numbers and weightings. Does NOT know: models, samples or scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from patchioner.aggregate import Weighting

CONTEXTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
TEMPERATURES = (0.004, 0.007, 0.01, 0.015, 0.02, 0.03)
VARIANCES = (0.25, 0.5, 1.0)
CROP_SHARES = (0.5, 1.0)
CROP_AREAS = (0.02, 0.1)
# From the sharpest to the flattest; uniform is the Gaussian of endless variance.
GAUSSIANS = (
    *(Weighting("gaussian", variance=variance) for variance in VARIANCES),
    Weighting("uniform"),
)
# The CLS token alone is tried for comparison and never chosen: it says the same of every region of a photo.
GRID_WEIGHTINGS = (*GAUSSIANS, Weighting("attention"))
WEIGHTINGS = (*GRID_WEIGHTINGS, Weighting("cls"))


@dataclass(frozen=True)
class Choice:
    """How one kind of region is embedded and bridged.

    Attributes:
        size: side of the backbone's input, pixels.
        weighting: of patches.
        context: share of the photo's CLS token.
        temperature: of the projection onto the memory.
        crop_share: share of the unit embedding of the region's own crop, encoded alone; 0 for none.
        crop_below: only regions of less than this share of the photo's area get a crop.

    Example:
        >>> Choice(448, Weighting("attention"), 0.35, 0.01).label
        '448 px, attention, context 0.35, temperature 0.01'
    """

    size: int
    weighting: Weighting
    context: float
    temperature: float
    crop_share: float = 0.0
    crop_below: float = 0.0

    @property
    def key(self) -> str:
        """The choice as JSON, the same for equal choices."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def label(self) -> str:
        """The choice in words."""
        words = [
            f"{self.size} px",
            weighting_label(self.weighting),
            f"context {self.context:g}",
            f"temperature {self.temperature:g}",
        ]
        if self.crop_share:
            words.append(f"crop {self.crop_share:g} below {100 * self.crop_below:g} %")
        return ", ".join(words)


def weighting_label(weighting: Weighting) -> str:
    """A weighting in words.

    Example:
        >>> weighting_label(Weighting("gaussian", variance=0.5))
        'Gaussian 0.5'
    """
    if weighting.kind == "gaussian":
        return f"Gaussian {weighting.variance:g}"
    return {"cls": "CLS token"}.get(weighting.kind, weighting.kind)


def one_at_a_time(
    start: Choice, sizes: Sequence[int], *, crops: bool
) -> Iterator[tuple[str, Choice]]:
    """Every setting that differs from `start` in one factor, as (what differs, choice).

    Args:
        start: where the others branch off; not among them.
        sizes: input sizes to try.
        crops: whether crops are tried (never of whole photos).

    Example:
        >>> start = Choice(448, Weighting(), 0.0, 0.01)
        >>> [name for name, _ in one_at_a_time(start, [448, 518], crops=False)][0]
        '518 px'
    """
    ladders: list[tuple[str, Choice]] = [
        *((f"{size} px", replace(start, size=size)) for size in sizes),
        *((weighting_label(w), replace(start, weighting=w)) for w in WEIGHTINGS),
        *((f"context {share:g}", replace(start, context=share)) for share in CONTEXTS),
        *((f"temperature {t:g}", replace(start, temperature=t)) for t in TEMPERATURES),
    ]
    if crops:
        ladders += [
            (
                f"crop {share:g} below {100 * area:g} %",
                replace(start, crop_share=share, crop_below=area),
            )
            for area in CROP_AREAS
            for share in CROP_SHARES
        ]
    yield from ((name, choice) for name, choice in ladders if choice != start)


def grid(start: Choice, extra: Sequence[tuple[Weighting, float]] = ()) -> tuple[Choice, ...]:
    """Weighting x context, which interact: what a weighting leaves out, the context may bring in.

    Args:
        start: gives everything else, and is in the grid.
        extra: (weighting, context) pairs whose weightings and contexts are in the grid too.

    Example:
        >>> len(grid(Choice(448, Weighting(), 0.0, 0.01)))
        35
    """
    own = (start.weighting, start.context)
    weightings = dict.fromkeys((*GRID_WEIGHTINGS, own[0], *(weighting for weighting, _ in extra)))
    contexts = sorted({*CONTEXTS, own[1], *(context for _, context in extra)})
    return tuple(
        replace(start, weighting=weighting, context=context)
        for weighting in weightings
        for context in contexts
    )


def smoothed(scores: Mapping[Choice, float]) -> dict[Choice, float]:
    """Scores of a grid, each averaged with those of its neighbours, who weigh half.

    Neighbours are one step away in context, or in the variance of a Gaussian. A score that stands alone is likely luck;
    one among good neighbours is likely a trend.

    Example:
        >>> middle, outer = Choice(448, Weighting(), 0.1, 0.01), Choice(448, Weighting(), 0.2, 0.01)
        >>> smoothed({middle: 3.0, outer: 0.0})[middle]
        2.0
    """
    contexts = sorted({choice.context for choice in scores})
    found = {}
    for choice in scores:
        pairs = [(scores[choice], 1.0)]
        pairs += [(scores[near], 0.5) for near in _neighbours(choice, contexts) if near in scores]
        found[choice] = sum(s * w for s, w in pairs) / sum(w for _, w in pairs)
    return found


def _neighbours(choice: Choice, contexts: list[float]) -> Iterator[Choice]:
    place = contexts.index(choice.context)
    for near in contexts[max(0, place - 1) : place] + contexts[place + 1 : place + 2]:
        yield replace(choice, context=near)
    if choice.weighting in GAUSSIANS:
        place = GAUSSIANS.index(choice.weighting)
        for weighting in GAUSSIANS[max(0, place - 1) : place] + GAUSSIANS[place + 1 : place + 2]:
            yield replace(choice, weighting=weighting)
