"""The measures of sentences, things and attributes that are calibrated, and in which order they stand.

Knows: `Evidence` and the parts of a sentence. Does NOT know: weights and thresholds (`calibration`), verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from patchioner.detail.filter.attributes import FAMILIES, SEEN, Stated, stated
from patchioner.detail.filter.evidence import Evidence, View, with_article

FloatArray = npt.NDArray[np.float64]

SENTENCE_INPUTS: Final = ("pooled", "peak", "worst thing", "mean thing", "log things")
ATTRIBUTE_INPUTS: Final = ("pooled", "peak", "pooled over best other", "peak over best other")


def object_inputs(evidence: Evidence) -> tuple[str, ...]:
    """Names of the measures of a thing; a model without memory texts has one less."""
    return ("pooled", "peak") if evidence.memory is None else ("pooled", "peak", "memory")


def seen_attributes(sentence: str) -> list[Stated]:
    """What a sentence states of attributes of the families that a model can see at all."""
    return [one for one in stated(sentence) if one.family in SEEN and one.phrase is not None]


def object_rows(evidence: Evidence, view: View, names: Sequence[str]) -> FloatArray:
    """(n, `object_inputs`) float64."""
    compared = evidence.compare(view, [with_article(name) for name in names])
    return np.concatenate([compared, evidence.remembered(view, names)], axis=1)


def sentence_rows(
    evidence: Evidence,
    view: View,
    sentences: Sequence[str],
    object_logits: Sequence[Sequence[float]],
) -> FloatArray:
    """(n, `SENTENCE_INPUTS`) float64; `object_logits` are those of each sentence's things."""
    of_things = [
        (min(logits), sum(logits) / len(logits), np.log(len(logits) + 1))
        if logits
        else (0.0, 0.0, 0.0)
        for logits in object_logits
    ]
    compared = evidence.compare(view, sentences)
    return np.concatenate([compared, np.array(of_things).reshape(-1, 3)], axis=1)


def attribute_rows(evidence: Evidence, view: View, attributes: Sequence[Stated]) -> FloatArray:
    """(n, `ATTRIBUTE_INPUTS`) float64: each phrase against the same thing with the family's other values."""
    rows = []
    for one in attributes:
        others = [
            value for value in dict.fromkeys(FAMILIES[one.family].values()) if value != one.value
        ]
        texts = [f"a {value} {one.name}" for value in (one.value, *others)]
        compared = evidence.compare(view, texts)
        means, best = compared[1:].mean(0), compared[1:].max(0)
        rows.append([*(compared[0] - means), *(compared[0] - best)])
    return np.array(rows).reshape(-1, len(ATTRIBUTE_INPUTS))
