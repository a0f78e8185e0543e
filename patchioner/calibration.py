"""Logistic calibration: what measures of a model mean as probabilities; and the photos with captions to fit it on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.images import ImageSource

FloatArray = npt.NDArray[np.float64]
Captioned = tuple[ImageSource, Sequence[str]]
"""A photo and its true captions."""


@dataclass(frozen=True)
class Logistic:
    """p = 1 / (1 + exp(-(bias + sum of weight * (value - mean) / deviation))); yes from `threshold` on.

    `inputs` are the names of the k measures; `mean`, `deviation` and `weights` have k numbers each.
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
        return {name: _short(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read what `to_json` wrote; `CheckpointError` where it is not finite numbers that fit together."""
        try:
            names = tuple(map(str, values["inputs"]))
            rows = np.array([values[key] for key in ("mean", "deviation", "weights")], dtype=float)
            bias, threshold = float(values["bias"]), float(values["threshold"])
            finite = np.isfinite([*rows.ravel(), bias, threshold]).all()
            if rows.shape != (3, len(names)) or not finite or (rows[1] <= 0).any():
                raise ValueError("its numbers do not fit together")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: not a stored calibration ({error!r})") from error
        mean, deviation, weights = map(tuple, rows.tolist())
        return cls(names, mean, deviation, weights, bias, threshold)


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def fit_logistic(
    inputs: Sequence[str], values: npt.ArrayLike, answers: npt.ArrayLike, *, penalty: float = 1.0
) -> Logistic:
    """Fit by Newton's method; both answers weigh the same, however many there are of each.

    `OptionError`: fewer than two samples of an answer.
    """
    rows = np.asarray(values, dtype=np.float64).reshape(-1, len(inputs))
    yes = np.asarray(answers, dtype=bool)
    counts = int(yes.sum()), int((~yes).sum())
    if min(counts) < 2:
        raise OptionError(
            f"{counts[0]} true and {counts[1]} false samples are too few to calibrate with: "
            "give more photos and captions"
        )
    mean, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    standard = np.column_stack([(rows - mean) / deviation, np.ones(len(rows))])
    share = np.where(yes, 0.5 / counts[0], 0.5 / counts[1]) * len(rows)
    ridge = np.diag([penalty] * len(inputs) + [1e-9])
    weights = np.zeros(len(inputs) + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(standard @ weights, -60, 60)))
        slope = standard.T @ (share * (p - yes)) + ridge @ weights
        curve = (standard * (share * p * (1 - p))[:, None]).T @ standard + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-8:
            break
    means, spreads, slopes = (tuple(one.tolist()) for one in (mean, deviation, weights[:-1]))
    return Logistic(tuple(inputs), means, spreads, slopes, float(weights[-1]))


def read_pairs(path: Path, photos: Path, *, limit: int, seed: int = 0) -> list[Captioned]:
    """(Photo, captions) of a JSON list of {"file_name", "captions"}, `limit` of them drawn by the seed.

    `TextError`: the file is not such a list, or a photo of it has no caption.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs: list[Captioned] = [
            (photos / str(row["file_name"]), tuple(map(str, row["captions"]))) for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        form = '[{"file_name", "captions"}, ...]'
        raise TextError(f"{path} is not a JSON list {form}: {error!r}") from error
    if any(not captions for _, captions in pairs):
        raise TextError(f"{path} has a photo without captions: leave it out")
    random.Random(seed).shuffle(pairs)
    return pairs[:limit]
