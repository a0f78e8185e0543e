"""How the patches of a region are weighted: one immutable value. Does NOT know how."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, get_args

from patchioner.base.errors import OptionError
from patchioner.regions.base import Rounding

Kind = Literal["uniform", "gaussian", "attention", "cls"]


@dataclass(frozen=True)
class Weighting:
    """What a patch of a region counts for.

    Args:
        kind: ``uniform``: by the share of the patch that the region covers. ``gaussian``: that,
            times exp(-(u^2 + v^2) / variance), u and v from -1 to 1 over the region's extent.
            ``attention``: that, times the image's CLS attention, mean over the heads; where the
            attention inside a region is zero, the coverage alone. ``cls``: no patch at all, but
            the image's CLS token whatever the region (for crops and baselines); weights that are
            asked for all the same, as `explain` does, are those of ``uniform``.
        variance: divisor of the Gaussian, finite and not negative; 0 is the one patch nearest
            to the middle (of several, the upper left). Not a variance in the strict sense: there
            is no factor 2, as published.
        rounding: ``coverage`` is exact. ``reference`` repeats the published arithmetic for boxes,
            sets of boxes, traces and the whole image, to 1e-5, for the sake of published numbers
            (source: facts about the published Patch-ioner code); other kinds of region, which were
            never published, stay exact. What it repeats, beside what the default does right:

            * Boxes: origin and size are floored separately, and a crop shifts a box instead of
              cutting it (`patchioner.regions.reference`). Default: what is covered, as it is.
            * Traces: points are counted, so a slow hand weighs more, a crop is ignored, and the
              embedding is the mean over ALL patches of count x token, so its length grows with
              the points. Default: lengths of the path; a weighted mean.
            * ``gaussian``, variance 0, an even span: one of the two middle patches of each axis
              by chance; here drawn from `seed` and the patches the box touches. Default: the
              upper left one.
            * ``gaussian``, variance 100 or more, the whole image: exactly uniform.
            * ``attention``: the mean of the heads' LOGITS, then one softmax, with 16 heads assumed
              (`PatchFeatures.reference_attention`); the whole image is the mean, not the sum,
              over patches of attention x token, so its length shrinks with the grid. Default:
              the mean of the heads' maps; a weighted mean. NOT repeated: each box changed the
              map that later, overlapping boxes of the same call saw. No published number used it,
              and a caption must not depend on what else is asked.
            * Where the published result is NaN, there is a `RegionError`.
        seed: of the chance under variance 0, an integer. The same patches get the same choice.

    Raises:
        OptionError: a value outside of these.

    Example:
        >>> Weighting("gaussian", variance=0.5).rounding
        'coverage'
    """

    kind: Kind = "uniform"
    variance: float = 1.0
    rounding: Rounding = "coverage"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible numbers."""
        _one_of("kind", self.kind, get_args(Kind))
        _one_of("rounding", self.rounding, get_args(Rounding))
        number = isinstance(self.variance, (int, float)) and not isinstance(self.variance, bool)
        if not number or not math.isfinite(self.variance) or self.variance < 0:
            raise OptionError(
                f"variance of the weighting is {self.variance!r}; give a finite number, 0 or more"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise OptionError(f"seed of the weighting is {self.seed!r}; give an integer")


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise OptionError(f"{what} of the weighting is {value!r}{guess}; use one of {allowed}")
