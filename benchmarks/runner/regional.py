"""Scores that only regions have: distinctness, grounding, one reference at a time, and objects named.

Knows: which of them a task has, and what makes two samples the same region. Does NOT know: how any of them computes.
None of the published tables has them (`benchmarks.metrics.distinctness`, `.grounding`, `.region_sets` define them).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.bootstrap import bootstrap_ratio
from benchmarks.metrics import (
    distinctness,
    fixed_cider,
    grounding,
    object_hits,
    one_reference_each,
    score_captions,
)
from benchmarks.metrics.class_names import named_classes
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.scores import Score, caption_score
from benchmarks.runner.settings import RunSettings

ONE_REFERENCE = "_one_reference"
PERSON = "person"

_OURS = "patchioner, benchmarks.metrics"


def regional_scores(said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
    """Distinctness and grounding, where some photo has two different regions; else nothing.

    Example:
        >>> sorted(regional_scores(predictions, RunSettings("dense")))  # doctest: +SKIP
        ['grounding_margin', 'grounding_wins', 'repeated_pairs', 'unique_captions']
    """
    captions = [prediction.caption or "" for prediction in said]
    photos = [prediction.photo for prediction in said]
    regions = region_names(said)
    if len(set(zip(photos, regions, strict=True))) == len(set(photos)):
        return {}
    how: dict[str, Any] = {"rounds": settings.rounds, "seed": settings.seed}
    references = [prediction.references for prediction in said]
    ground = grounding(
        captions, references, photos, fixed_cider(references), regions=regions, **how
    )
    # Resampling the only photo that has two regions gives that photo again, not an interval.
    several = len({photos[index] for index in ground.samples}) > 1
    return _distinct(said, how) | {
        "grounding_margin": Score(
            "grounding_margin", ground.margin.value, ground.margin if several else None, None,
            f"{_OURS}.grounding: CIDEr against own references minus those of the photo's other regions",
        ),
        "grounding_wins": Score(
            "grounding_wins", ground.win_rate.value, ground.win_rate if several else None, None,
            f"{_OURS}.grounding: share of the photo's other regions whose references fit worse, %",
        ),
    }  # fmt: skip


def _distinct(said: Sequence[Prediction], how: dict[str, Any]) -> dict[str, Score]:
    captions = [prediction.caption or "" for prediction in said]
    found = distinctness(captions, [prediction.photo for prediction in said], region_names(said))
    if not found.photos:
        return {}
    repeats = 100.0 * np.array(found.repeats, dtype=np.float64)
    repeated = bootstrap_ratio(repeats, found.pairs, found.photos, **how)
    return {
        "repeated_pairs": Score(
            "repeated_pairs", repeated.value, repeated if len(found.photos) > 1 else None, None,
            f"{_OURS}.distinctness: share of pairs of regions of one photo with the same caption, %",
            higher_is_better=False,
        ),
        "unique_captions": Score(
            "unique_captions", 100.0 * found.unique_captions, None, None,
            f"{_OURS}.distinctness: different captions per photo, % of its regions",
        ),
    }  # fmt: skip


def region_names(said: Sequence[Prediction]) -> list[str]:
    """One name per region; where one region got two captions (a human's, the oracle's), one per sample.

    Example:
        >>> region_names([])
        []
    """
    names = [json.dumps(prediction.region) for prediction in said]
    captions: dict[tuple[str, str], str | None] = {}
    for prediction, name in zip(said, names, strict=True):
        if captions.setdefault((prediction.photo, name), prediction.caption) != prediction.caption:
            return [other.id for other in said]
    return names


def one_reference_scores(
    said: Sequence[Prediction], settings: RunSettings, *, java: bool
) -> dict[str, Score]:
    """CIDEr, ROUGE-L and BLEU-4 with each reference a sample of its own; nothing where no sample has several.

    Region sets come with one to five references, and papers count them both ways.

    Args:
        said: predictions with captions.
        settings: rounds and seed of the bootstrap.
        java: by the official programs.

    Example:
        >>> sorted(one_reference_scores(said, RunSettings("region_set"), java=False))  # doctest: +SKIP
        ['bleu4_one_reference', 'cider_one_reference', 'rouge_l_one_reference']
    """
    rows = one_reference_each(
        [prediction.caption or "" for prediction in said],
        [prediction.references for prediction in said],
    )
    if len(rows.origin) == len(said):
        return {}
    results = score_captions(
        rows.predictions, rows.references, ["cider", "rouge_l", "bleu4"], java="yes" if java else "no"
    )  # fmt: skip
    photos = [said[index].photo for index in rows.origin]
    scores = {}
    for name, result in results.items():
        # Its interval is made of the rows; what is kept by sample is the mean of its rows.
        found = caption_score(result, photos, settings)
        key = name + ONE_REFERENCE
        scores[key] = Score(
            key, found.value, found.interval, tuple(rows.back(result.samples).tolist()), found.made, found.mean
        )  # fmt: skip
    return scores


def object_scores(said: Sequence[Prediction], settings: RunSettings) -> dict[str, Score]:
    """Of class boxes, whose one reference is the name of the class: how often the caption names it.

    Returns:
        "object_hits": % of boxes; "object_hits_but_person": of those of other classes than the commonest;
        "object_margin" and "object_wins": the hit rate minus the rate at which captions name the classes of the photo's
        other boxes, and the share of those that are named less; "repeated_pairs", "unique_captions".

    Example:
        >>> object_scores(said, RunSettings("objects"))["object_hits"].value  # doctest: +SKIP
    """
    how: dict[str, Any] = {"rounds": settings.rounds, "seed": settings.seed}
    captions = [prediction.caption or "" for prediction in said]
    classes = [prediction.references[0] for prediction in said]
    photos = [prediction.photo for prediction in said]
    made = f"{_OURS}.object_hits: boxes whose caption names their class by a table of synonyms, %"
    hits = object_hits(captions, classes, photos, **how)
    samples = tuple(100.0 * hit for hit in hits.hits)
    found = {"object_hits": Score("object_hits", hits.rate.value, hits.rate, samples, made)}
    others = [index for index, name in enumerate(classes) if name != PERSON]
    if others:
        columns = ([column[i] for i in others] for column in (captions, classes, photos))
        rate = object_hits(*columns, **how).rate
        key = "object_hits_but_person"
        found[key] = Score(key, rate.value, rate, None, f"{made}; boxes of people left out")
    return found | _object_grounding(captions, classes, photos, how) | _distinct(said, how)


def _object_grounding(
    captions: Sequence[str], classes: Sequence[str], photos: Sequence[str], how: dict[str, Any]
) -> dict[str, Score]:
    if len(set(zip(photos, classes, strict=True))) == len(set(photos)):
        return {}

    def names(texts: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
        named = {text: named_classes(text) for text in set(texts)}
        pairs = zip(texts, due, strict=True)
        return [100.0 * (wanted[0] in named[text]) for text, wanted in pairs]

    # Boxes of one class are one region here: a caption that names it is right for all of them.
    ground = grounding(
        captions, [(name,) for name in classes], photos, names, regions=classes, **how
    )
    return {
        "object_margin": Score(
            "object_margin", ground.margin.value, ground.margin, None,
            f"{_OURS}.grounding: own class named minus classes of the photo's other boxes named, %",
        ),
        "object_wins": Score(
            "object_wins", ground.win_rate.value, ground.win_rate, None,
            f"{_OURS}.grounding: share of the photo's other classes that are named less than the own, %",
        ),
    }  # fmt: skip
