"""What scoring captions by one metric gives: the value, the scores of the samples, and how it was made.

Knows: numbers and where they come from. Does NOT know: how any metric computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class Provenance:
    """How a score was made, so that a report can say so.

    Attributes:
        library: "pycocoevalcap" or "patchioner" (the Java-free metrics of this repository), or "module:function" of a
            metric of the user's own.
        versions: (what, version) pairs of everything that takes part in the number (library, METEOR, Java).
        tokenizer: what cut the captions into words; "none" where the metric takes whole captions.
        note: a setting or quirk that a reader of the figure should know; may be empty.

    Example:
        >>> Provenance("patchioner", tokenizer="patchioner").java
        False
    """

    library: str
    versions: tuple[tuple[str, str], ...] = ()
    tokenizer: str = "none"
    note: str = ""

    @property
    def java(self) -> bool:
        """Whether a Java program took part."""
        return any(name == "java" for name, _ in self.versions)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions)
        parts = [self.library, versions, f"tokenizer: {self.tokenizer}", self.note]
        return "; ".join(part for part in parts if part)


Resample = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""How often each of n samples counts, (rounds, n) -> the value of each such set, (rounds,)."""


@dataclass(frozen=True)
class MetricResult:
    """One metric over one set of captions.

    Attributes:
        name: key of the metric ("cider", "bleu4", ...).
        corpus: the value of the whole set, on the scale of papers' tables (x 100).
        samples: the n scores of the single samples, same scale. Their mean need not be `corpus`: BLEU and METEOR pool
            their counts over the set first.
        made: how it was made.
        resample: of a metric that pools its counts, its values for other mixtures of the samples; None where the value
            is the mean of the samples, or there is no way. That of METEOR works while its program runs.

    Raises:
        OptionError: a number is not finite.

    Example:
        >>> MetricResult("cider", 50.0, (0.0, 100.0), Provenance("patchioner")).mean
        50.0
    """

    name: str
    corpus: float
    samples: tuple[float, ...]
    made: Provenance = field(repr=False)
    resample: Resample | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for index, score in enumerate(self.samples):
            if not math.isfinite(score):
                raise OptionError(
                    f"{self.name}: the score of sample {index} is {score}, not finite"
                )
        if not math.isfinite(self.corpus):
            raise OptionError(f"{self.name}: the corpus score is {self.corpus}, not finite")

    @property
    def mean(self) -> float:
        """Mean of the sample scores."""
        return float(self.array.mean()) if self.samples else math.nan

    @property
    def array(self) -> NDArray[np.float64]:
        """The sample scores as a float64 array of shape (n,)."""
        return np.array(self.samples, dtype=np.float64)
