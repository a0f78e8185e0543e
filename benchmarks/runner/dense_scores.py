"""The dense-caption mAP of a run, with its interval over photos.

Knows: predictions of given boxes. Does NOT know: how precision is averaged (`benchmarks.metrics.dense_map`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import Interval, bootstrap_statistic
from benchmarks.metrics import DensePhoto
from benchmarks.metrics.dense_map import match, summarize
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.scores import Score
from benchmarks.runner.settings import RunSettings

MAP_ROUNDS = 200  # a resample of the mAP sorts thirty times, one of a mean once


def dense_scores(
    predictions: Sequence[Prediction], measure: Any, name: str, settings: RunSettings
) -> dict[str, Score]:
    """The mAP of one text measure, and without any ("detmap", beside stem-F alone, as it is the same for all).

    Args:
        predictions: of one run, those without a caption included.
        measure: scores captions between 0 and 1 (`benchmarks.metrics.text_measure`).
        name: of the measure.
        settings: rounds and seed of the bootstrap.

    Example:
        >>> list(dense_scores(predictions, measure, "METEOR", RunSettings("dense")))  # doctest: +SKIP
        ['mAP']
    """
    photos = dense_photos(predictions)
    matches = match(list(photos.values()), measure)

    def value(often: NDArray[np.int64], *, detection: bool) -> float:
        found = summarize(matches, name=name, weights=often)
        return found.detection if detection else found.value

    rounds = min(settings.rounds, MAP_ROUNDS)
    whole = summarize(matches, name=name)
    note = f"benchmarks.metrics.dense_map over {whole.detections} given boxes, {whole.truths} merged ground truths"
    scores = {}
    wanted = {whole.name: False} | ({"detmap": True} if name == "stem-F" else {})
    for key, detection in wanted.items():
        spread = bootstrap_statistic(
            partial(value, detection=detection), list(photos), rounds=rounds, seed=settings.seed
        )
        interval = Interval(spread.value, spread.low, spread.high, spread.level)
        made = f"{note}; text: {'none' if detection else name}; {rounds} resamples"
        scores[key] = Score(key, spread.value, interval, None, made)
    return scores


def dense_photos(predictions: Sequence[Prediction]) -> dict[str, DensePhoto]:
    """What the dense mAP takes, photo by photo; boxes without a caption are ground truths only.

    Example:
        >>> dense_photos([])
        {}
    """
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.photo, []).append(prediction)
    return {photo: _dense_photo(group) for photo, group in groups.items()}


def _dense_photo(group: Sequence[Prediction]) -> DensePhoto:
    """Detections are the given boxes, as in the published protocol."""
    said = [prediction for prediction in group if prediction.caption is not None]
    return DensePhoto(
        boxes=[prediction.region["box"] for prediction in said],
        scores=[prediction.score or 0.0 for prediction in said],
        captions=[prediction.caption or "" for prediction in said],
        truth_boxes=[prediction.region["box"] for prediction in group],
        truth_captions=[prediction.references for prediction in group],
    )
