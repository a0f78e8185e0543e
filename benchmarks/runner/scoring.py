"""Scores of the predictions of one run.

Knows: which metrics a task has, and what they need to be opened. Does NOT know: how a metric computes, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.metrics import METRICS, Meteor, score_captions, text_measure
from benchmarks.metrics.clip_space import ClipSpace
from benchmarks.runner.clip_scores import image_text_scores, load_space
from benchmarks.runner.dense_scores import dense_photos, dense_scores
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.regional import (
    object_scores,
    one_reference_scores,
    region_names,
    regional_scores,
)
from benchmarks.runner.scores import Score, caption_score
from benchmarks.runner.settings import RunSettings
from patchioner.base.errors import MissingExtraError, OptionError
from patchioner.base.optional import require

__all__ = [
    "Score",
    "Scorer",
    "check_metric_names",
    "dense_photos",
    "region_names",
    "regional_scores",
]

DEFAULT_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "stem_f")


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
        if settings.task == "objects":
            scores = object_scores(said, settings) | scores
        if settings.task == "dense":
            scores |= self._dense(predictions, settings)
        if settings.task == "region_set":
            scores |= one_reference_scores(said, settings, java=self._meteor is not None)
        if settings.task not in ("image", "objects"):
            scores |= regional_scores(said, settings)
        return scores | self._with_images(said, settings)

    def _of_captions(self, said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        asked = [name for name in settings.metrics if ":" not in name]
        extra = _own_metrics([name for name in settings.metrics if ":" in name])
        java = self._meteor is not None
        # The name of a class is no caption: only what was asked for is measured against it.
        usual = () if settings.task == "objects" else DEFAULT_METRICS
        names = [*usual, *(("meteor",) if java and usual else ()), *asked]
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
        return {name: caption_score(result, photos, settings) for name, result in results.items()}

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
            found |= {n: caption_score(r, photos, settings) for n, r in results.items()}
        return found

    def _dense(self, predictions: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
        names = ["stem-F", *(("METEOR",) if self._meteor is not None else ())]
        found: dict[str, Score] = {}
        for name in names:
            with text_measure(name, meteor=self._meteor) as measure:
                found |= dense_scores(predictions, measure, name, settings)
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


def _own_metrics(given: Sequence[str]) -> dict[str, str]:
    """Name in tables -> "module:function": the function's, with its module where two functions share one."""
    shorts = [name.partition(":")[2] for name in given]
    return {
        name if shorts.count(short) > 1 else short: name
        for name, short in zip(given, shorts, strict=True)
    }
