"""Logistic regression: from measures to a probability, small enough to be stored as plain numbers.

Knows: arithmetic. Does NOT know: what its inputs measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import CheckpointError, OptionError

FloatArray = npt.NDArray[np.float64]
_STEPS = 50


@dataclass(frozen=True)
class Logistic:
    """p = 1 / (1 + exp(-(bias + sum of weight * (value - mean) / deviation))).

    Attributes:
        inputs: names of the k measures, in order.
        mean, deviation, weights: k numbers each.
        bias: a number.
        threshold: the probability from which the answer is yes.
    """

    inputs: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float = 0.5

    def __call__(self, values: npt.ArrayLike) -> FloatArray:
        """(n, k) measures -> (n,) float64 probabilities."""
        rows = np.asarray(values, dtype=np.float64).reshape(-1, len(self.inputs))
        found: FloatArray = 1 / (1 + np.exp(-np.clip(self.logits(rows), -60, 60)))
        return found

    def logits(self, rows: FloatArray) -> FloatArray:
        """(n, k) measures -> (n,) float64, the logarithms of the odds."""
        standard = (rows - np.array(self.mean)) / np.array(self.deviation)
        found: FloatArray = standard @ np.array(self.weights) + self.bias
        return found

    def to_json(self) -> dict[str, Any]:
        """Names and numbers, rounded to six digits."""
        return {
            "inputs": list(self.inputs),
            "mean": [_short(value) for value in self.mean],
            "deviation": [_short(value) for value in self.deviation],
            "weights": [_short(value) for value in self.weights],
            "bias": _short(self.bias),
            "threshold": _short(self.threshold),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: a name is missing or unknown, or a value is not a finite number.
        """
        try:
            mean, deviation, weights = (
                tuple(float(one) for one in values[key]) for key in ("mean", "deviation", "weights")
            )
            inputs = tuple(map(str, values["inputs"]))
            bias, threshold = float(values["bias"]), float(values["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: not a stored calibration ({type(error).__name__}: {error})"
            ) from error
        found = cls(inputs, mean, deviation, weights, bias, threshold)
        lengths = {len(found.inputs), len(found.mean), len(found.deviation), len(found.weights)}
        numbers = (*found.mean, *found.deviation, *found.weights, found.bias, found.threshold)
        if (
            len(lengths) > 1
            or not np.isfinite(numbers).all()
            or min(found.deviation, default=1) <= 0
        ):
            raise CheckpointError(f"{source}: the stored calibration's numbers do not fit together")
        return found


def fit_logistic(
    inputs: Sequence[str], values: npt.ArrayLike, answers: npt.ArrayLike, *, penalty: float = 1.0
) -> Logistic:
    """Fit by Newton's method; both answers weigh the same, however many there are of each.

    Args:
        inputs: names of the k measures.
        values: (n, k).
        answers: (n,) bool.
        penalty: of the squared weights, against n / 2 samples of each answer.

    Raises:
        OptionError: fewer than two samples of an answer.

    Example:
        >>> fitted = fit_logistic(["x"], [[0.0], [1.0], [2.0], [3.0]], [False, False, True, True])
        >>> bool(fitted([[0.0]])[0] < 0.5 < fitted([[3.0]])[0])
        True
    """
    rows = np.asarray(values, dtype=np.float64).reshape(-1, len(inputs))
    yes = np.asarray(answers, dtype=bool)
    if min(int(yes.sum()), int((~yes).sum())) < 2:
        raise OptionError(
            f"{int(yes.sum())} true and {int((~yes).sum())} false samples are too few to calibrate with: "
            "give more photos and captions"
        )
    mean, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    standard = np.column_stack([(rows - mean) / deviation, np.ones(len(rows))])
    share = np.where(yes, 0.5 / yes.sum(), 0.5 / (~yes).sum()) * len(rows)
    ridge = np.diag([penalty] * len(inputs) + [1e-9])
    weights = np.zeros(len(inputs) + 1)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(standard @ weights, -60, 60)))
        slope = standard.T @ (share * (p - yes)) + ridge @ weights
        curve = (standard * (share * p * (1 - p))[:, None]).T @ standard + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return Logistic(
        tuple(inputs),
        tuple(mean.tolist()),
        tuple(deviation.tolist()),
        tuple(weights[:-1].tolist()),
        float(weights[-1]),
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")
