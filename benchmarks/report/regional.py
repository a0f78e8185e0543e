"""Distinctness and grounding of a run, photo by photo and sample by sample.

Knows: predictions and the measures. Does NOT know: runs' files, HTML. results.json has only their totals; paired
differences and the histogram need what they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.metrics import Grounding, distinctness, fixed_cider, grounding
from benchmarks.metrics.class_names import named_classes
from benchmarks.runner.predictions import Prediction
from benchmarks.runner.regional import region_names


@dataclass(frozen=True)
class Regional:
    """What the regional scores of a run are made of.

    Attributes:
        margins: by sample id, how much better the caption fits its own region than the photo's others: CIDEr against
            the references, or for class boxes 100 where the class is named.
        wins: by sample id, percent of the photo's other regions that fit worse.
        pairs: by photo, (pairs of regions with the same caption, pairs of regions).
    """

    margins: dict[str, float]
    wins: dict[str, float]
    pairs: dict[str, tuple[int, int]]


def measure_regions(said: Sequence[Prediction], *, classes: bool = False) -> Regional | None:
    """Measure answered predictions; None where no photo has two different regions.

    Args:
        said: predictions with captions.
        classes: the one reference of each is the name of its class, and boxes of one class are one region.

    Example:
        >>> measure_regions([]) is None
        True
    """
    names = region_names(said)
    photos = [prediction.photo for prediction in said]
    if _alone(photos, names):
        return None
    captions = [prediction.caption or "" for prediction in said]
    ground = _of_classes(said) if classes else _of_references(said, names)
    found = distinctness(captions, photos, names)
    pairs = zip(found.photos, found.repeats, found.pairs, strict=True)
    counted = {str(photo): (same, of) for photo, same, of in pairs}
    if ground is None:
        return Regional({}, {}, counted)
    ids = [said[index].id for index in ground.samples]
    margins = [own - other for own, other in zip(ground.own, ground.other, strict=True)]
    wins = [100.0 * share for share in ground.wins]
    return Regional(
        dict(zip(ids, margins, strict=True)), dict(zip(ids, wins, strict=True)), counted
    )


def _alone(photos: Sequence[str], names: Sequence[str]) -> bool:
    return len(set(zip(photos, names, strict=True))) == len(set(photos))


def _of_references(said: Sequence[Prediction], names: Sequence[str]) -> Grounding:
    references = [prediction.references for prediction in said]
    captions, photos = [p.caption or "" for p in said], [p.photo for p in said]
    # One resample: the intervals are in results.json, only the samples are wanted here.
    return grounding(captions, references, photos, fixed_cider(references), regions=names, rounds=1)


def _of_classes(said: Sequence[Prediction]) -> Grounding | None:
    names, photos = [p.references[0] for p in said], [p.photo for p in said]
    if _alone(photos, names):
        return None

    def named(texts: Sequence[str], due: Sequence[Sequence[str]]) -> list[float]:
        found = {text: named_classes(text) for text in set(texts)}
        return [100.0 * (wanted[0] in found[text]) for text, wanted in zip(texts, due, strict=True)]

    captions = [prediction.caption or "" for prediction in said]
    return grounding(captions, [(name,) for name in names], photos, named, regions=names, rounds=1)
