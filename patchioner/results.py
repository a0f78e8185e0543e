"""What a captioner answers with: `Caption`, `Label`, `Explanation`. Values only; nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchioner.regions import Region


@dataclass(frozen=True)
class Caption:
    """A caption of one region.

    Attributes:
        text: the caption.
        score: mean log-probability per generated token, the end token included; at most 0, higher is surer. NaN where
            none was asked for (`DecodeOptions.scores`).
        region: the region that was asked about.
    """

    text: str
    score: float
    region: Region


@dataclass(frozen=True)
class Label:
    """The text that fits a region best, of those that were given.

    Attributes:
        text: that text.
        probability: its share of the softmax over the given texts.
        probabilities: of all of them, in the order given; they sum to 1.
        region: the region that was asked about.
    """

    text: str
    probability: float
    probabilities: tuple[float, ...]
    region: Region


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a region got its caption.

    Attributes:
        texts: the nearest memory texts, best first.
        similarities: their cosines with the region's embedding.
        weights: (rows, columns) float32, how much each patch counted; sums to 1.
    """

    texts: tuple[str, ...]
    similarities: tuple[float, ...]
    weights: npt.NDArray[np.float32]
