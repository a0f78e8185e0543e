"""How the patches of a region are weighted: one immutable value. Does NOT know how."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, get_args

from patchioner.regions.base import Rounding
from patchioner_base.errors import OptionError

Kind = Literal["uniform", "gaussian", "attention"]


@dataclass(frozen=True)
class Weighting:
    """What a patch of a region counts for.

    Args:
        kind: ``uniform``: by the share of the patch that the region covers. ``gaussian``: that,
            times exp(-(u^2 + v^2) / variance), u and v from -1 to 1 over the region's extent.
            ``attention``: that, times the image's CLS attention, mean over the heads; where the
            attention inside a region is zero, the coverage alone.
        variance: divisor of the Gaussian, finite and not negative; 0 is the one patch nearest
            to the middle (of several, the upper left). Not a variance in the strict sense: there
            is no factor 2, as published.
        rounding: ``coverage`` is exact; ``reference`` repeats the published integer arithmetic for
            boxes, traces and the whole image (source: facts about the published Patch-ioner code).

    Raises:
        OptionError: a value outside of these.

    Example:
        >>> Weighting("gaussian", variance=0.5).rounding
        'coverage'
    """

    kind: Kind = "uniform"
    variance: float = 1.0
    rounding: Rounding = "coverage"

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible numbers."""
        _one_of("kind", self.kind, get_args(Kind))
        _one_of("rounding", self.rounding, get_args(Rounding))
        number = isinstance(self.variance, (int, float)) and not isinstance(self.variance, bool)
        if not number or not math.isfinite(self.variance) or self.variance < 0:
            raise OptionError(
                f"variance of the weighting is {self.variance!r}; give a finite number, 0 or more"
            )


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise OptionError(f"{what} of the weighting is {value!r}{guess}; use one of {allowed}")
