"""Scores of the predictions of one run.

Knows: which metrics a task has, and how to put an interval around each. Does NOT know: how a metric computes, models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_statistic,
)
from benchmarks.metrics import (
    METRICS,
    DensePhoto,
    Meteor,
    MetricResult,
    distinctness,
    fixed_cider,
    grounding,
    score_captions,
    text_measure,
)
from benchmarks.metrics.clip_space import ClipSpace
from benchmarks.metrics.dense_map import match, summarize
from benchmarks.runner.clip_scores import image_text_scores, load_space
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.settings import RunSettings
from patchioner_base.errors import MissingExtraError, OptionError
from patchioner_base.optional import require

POOLED = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor")
MAP_ROUNDS = 200  # a resample of the mAP sorts thirty times, one of a mean once
DEFAULT_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "stem_f")


@dataclass(frozen=True)
class Score:
    """One measured value.

    Attributes:
        name: its key.
        value: of the whole set, as papers print it.
        interval: its bounds over photos; None where resampling was not done (pooled scores: see `mean`).
        mean: for a score that pools counts over the set (BLEU, METEOR), the mean of the samples with its interval.
        samples: the score of each answered sample, in the order of the predictions; None where it has none.
        made: how it was made, in words.
        higher_is_better: False for a rate of repetition.
    """

    name: str
    value: float
    interval: Interval | None
    samples: tuple[float, ...] | None
    made: str
    mean: Interval | None = None
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """All but the samples, which results.json keeps in a place of their own."""
        values: dict[str, Any] = {"value": self.value, "interval": _bounds(self.interval)}
        if self.mean is not None:
            values["mean_of_samples"] = _bounds(self.mean)
        return values | {"higher_is_better": self.higher_is_better, "made": self.made}


class Scorer:
    """Scores any number of runs with one METEOR process. A context manager.

    Args:
        java: "yes" uses the official programs, "no" never starts Java, "auto" is "yes" where they are there.

    Raises:
        JavaError, MissingExtraError: java="yes" without Java or pycocoevalcap.

    Example:
        >>> with Scorer("no") as scorer:  # doctest: +SKIP
        ...     scores = scorer.score(predictions, RunSettings("dense"))
    """

    def __init__(self, java: str = "auto") -> None:
        self._meteor: Meteor | None = None
        self._spaces: dict[str, ClipSpace] = {}
        if java == "no":
            return
        try:
            require("pycocoevalcap", "metrics")
            self._meteor = Meteor()
        except (OptionError, MissingExtraError):  # a JavaError is an OptionError
            if java == "yes":
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._meteor is not None:
            self._meteor.close()

    def prepare(self, settings: RunSettings) -> None:
        """Open what the scores of a run need, so that what is missing is known before any captioning.

        Raises:
            MissingExtraError, UnknownNameError, CheckpointError: weights of `clip_score` or `pac_score`.
        """
        for given in (settings.clip_score, settings.pac_score):
            if given is not None and given not in self._spaces:
                self._spaces[given] = load_space(given, "cpu")

    def score(self, predictions: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        """All scores of a task; those of regions only where photos have several.

        Args:
            predictions: of one run. Those without a caption are left out of every score; in the dense mAP their boxes
                stay among the ground truths.
            settings: task, further metrics, seed and rounds of the bootstrap.

        Raises:
            OptionError: no prediction has a caption, or a metric cannot be computed.
        """
        said = [prediction for prediction in predictions if prediction.caption is not None]
        if not said:
            raise OptionError("no sample has a caption: there is nothing to score")
        scores = self._of_captions(said, settings)
        if settings.task == "dense":
            scores |= self._dense(predictions, settings)
        if settings.task != "image":
            scores |= regional_scores(said, settings)
        return scores | self._with_images(said, settings)

    def _of_captions(self, said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        asked = [name for name in settings.metrics if ":" not in name]
        extra = {name.partition(":")[2]: name for name in settings.metrics if ":" in name}
        java = self._meteor is not None
        names = [*DEFAULT_METRICS, *(("meteor",) if java else ()), *asked]
        results = score_captions(
            [prediction.caption or "" for prediction in said],
            [prediction.references for prediction in said],
            list(dict.fromkeys(names)),
            java="yes" if java else "no",
            extra=extra,
            samples=said,
            meteor=self._meteor,
        )
        photos = [prediction.photo for prediction in said]
        return {name: _caption_score(result, photos, settings) for name, result in results.items()}

    def _with_images(self, said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        """CLIP-S, PAC-S and their kin, where the weights are given."""
        photos = [prediction.photo for prediction in said]
        found: dict[str, Score] = {}
        for kind, given in (("clip", settings.clip_score), ("pac", settings.pac_score)):
            if given is None:
                continue
            self.prepare(settings)
            results = image_text_scores(
                said, Path(settings.images), self._spaces[given], kind=kind, source=given
            )
            found |= {n: _caption_score(r, photos, settings) for n, r in results.items()}
        return found

    def _dense(self, predictions: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        names = ["stem-F", *(("METEOR",) if self._meteor is not None else ())]
        found: dict[str, Score] = {}
        for name in names:
            with text_measure(name, meteor=self._meteor) as measure:
                found |= _dense_scores(predictions, measure, name, settings)
        return found


def check_metric_names(metrics: Sequence[str]) -> None:
    """Refuse a further metric that is neither built in nor "module:function".

    Example:
        >>> check_metric_names(["spice", "my_metrics:length"])
    """
    for name in metrics:
        if ":" not in name and name not in METRICS:
            raise OptionError(
                f"metric {name!r} is unknown: give one of {', '.join(METRICS)}, or module:function"
            )


def _caption_score(result: MetricResult, photos: Sequence[str], settings: RunSettings) -> Score:
    mean = bootstrap_mean(result.samples, photos, rounds=settings.rounds, seed=settings.seed)
    # A score that pools its counts over the set is not the mean, so the mean's interval is not its own.
    pooled = result.name in POOLED or not np.isclose(mean.value, result.corpus, rtol=1e-9)
    return Score(
        result.name,
        result.corpus,
        None if pooled else mean,
        result.samples,
        str(result.made),
        mean if pooled else None,
    )


def regional_scores(said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
    """Distinctness and grounding, where some photo has two different regions; else nothing.

    Example:
        >>> sorted(regional_scores(predictions, RunSettings("dense")))  # doctest: +SKIP
        ['grounding_margin', 'grounding_wins', 'repeated_pairs', 'unique_captions']
    """
    captions = [prediction.caption or "" for prediction in said]
    photos = [prediction.photo for prediction in said]
    regions = _region_names(said)
    if len(set(zip(photos, regions, strict=True))) == len(set(photos)):
        return {}
    how = {"rounds": settings.rounds, "seed": settings.seed}
    found = distinctness(captions, photos, regions)
    repeats = 100.0 * np.array(found.repeats, dtype=np.float64)
    repeated = bootstrap_ratio(repeats, found.pairs, found.photos, **how)
    references = [prediction.references for prediction in said]
    ground = grounding(
        captions, references, photos, fixed_cider(references), regions=regions, **how
    )
    ours = "patchioner, benchmarks.metrics"
    return {
        "repeated_pairs": Score(
            "repeated_pairs", repeated.value, repeated, None,
            f"{ours}.distinctness: share of pairs of regions of one photo with the same caption, %",
            higher_is_better=False,
        ),
        "unique_captions": Score(
            "unique_captions", 100.0 * found.unique_captions, None, None,
            f"{ours}.distinctness: different captions per photo, % of its regions",
        ),
        "grounding_margin": Score(
            "grounding_margin", ground.margin.value, ground.margin, None,
            f"{ours}.grounding: CIDEr against own references minus those of the photo's other regions",
        ),
        "grounding_wins": Score(
            "grounding_wins", ground.win_rate.value, ground.win_rate, None,
            f"{ours}.grounding: share of the photo's other regions whose references fit worse, %",
        ),
    }  # fmt: skip


def _region_names(said: Sequence[Prediction]) -> list[str]:
    """One name per region; where one region got two captions (a human's, the oracle's), one per sample."""
    names = [json.dumps(prediction.region) for prediction in said]
    captions: dict[tuple[str, str], str | None] = {}
    for prediction, name in zip(said, names, strict=True):
        if captions.setdefault((prediction.photo, name), prediction.caption) != prediction.caption:
            return [other.id for other in said]
    return names


def _dense_scores(
    predictions: Sequence[Prediction], measure: Any, name: str, settings: RunSettings
) -> dict[str, Score]:
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.photo, []).append(prediction)
    matches = match([_dense_photo(group) for group in groups.values()], measure)

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
            partial(value, detection=detection), list(groups), rounds=rounds, seed=settings.seed
        )
        interval = Interval(spread.value, spread.low, spread.high, spread.level)
        made = f"{note}; text: {'none' if detection else name}; {rounds} resamples"
        scores[key] = Score(key, spread.value, interval, None, made)
    return scores


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


def _bounds(interval: Interval | None) -> dict[str, float | None] | None:
    """As JSON, where an undefined bound is null."""
    if interval is None:
        return None
    return {
        key: float(number) if np.isfinite(number) else None
        for key, number in vars(interval).items()
    }
