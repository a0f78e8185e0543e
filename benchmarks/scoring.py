"""Scores of a run with percentile intervals: photos are drawn with replacement, each with all of its samples (cluster
bootstrap; Efron and Tibshirani, 1993). Scores that depend on their set (CIDEr's idf) are computed once, then resampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from benchmarks.answerers import Prediction
from benchmarks.metrics import Meteor, MetricResult, cosine, regions, score_captions, stem_f
from benchmarks.metrics.caption import Floats
from benchmarks.metrics.cosine import ClipSpace
from benchmarks.metrics.regions import Counts, DenseMatches, DensePhoto
from benchmarks.settings import RunSettings
from patchioner.base.errors import MissingExtraError, OptionError
from patchioner.base.optional import require
from patchioner.images import load_image

DEFAULT_METRICS: Final = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "stem_f")
POOLED: Final = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor")
"""Metrics that pool their counts over the set, so that their value is not the mean of the samples."""
_OF_REGIONS = {
    "grounding_margin": "CIDEr against own references minus those of the photo's other regions",
    "grounding_wins": "share of the photo's other regions whose references fit worse, %",
}
_OF_CLASSES = {
    "object_margin": "own class named minus classes of the photo's other boxes named, %",
    "object_wins": "share of the photo's other classes that are named less than the own, %",
}
ONE_REFERENCE: Final = "_one_reference"
PERSON: Final = "person"
RED: Final = (255, 0, 0)
MAP_ROUNDS: Final = 200  # a resample of the mAP sorts thirty times, one of a mean once
LEVEL: Final = 0.95  # share of resampled values between the bounds
_PIECE = 2_000_000  # counts at a time: 16 MB; all rounds of a large set together are gigabytes
_OURS: Final = "patchioner, benchmarks.metrics.regions"
_AT_ONCE: Final = 32

Photos = Sequence[Hashable]
"""The photo of each of n samples."""
Said = Sequence[Prediction]
How = Mapping[str, int]
"""Rounds and seed of a bootstrap."""


@dataclass(frozen=True)
class Interval:
    """A measured value with percentile bounds, NaN where resampling leaves the statistic undefined."""

    value: float
    low: float
    high: float
    level: float = LEVEL


def bootstrap_mean(values: ArrayLike, photos: Photos, *, rounds: int = 2000, seed: int = 0) -> Interval:
    """Mean of n `values`; of the gains of two runs, their paired difference."""
    ones = np.ones(np.shape(values))
    return bootstrap_ratio(values, ones, photos, rounds=rounds, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:  # fmt: skip
    """sum(numerators) / sum(denominators), both resampled together; NaN where the denominators sum to zero."""
    sides = np.stack([np.asarray(side, np.float64) for side in (numerators, denominators)], axis=1)

    def resample(often: Counts) -> Floats:
        above, below = (often.astype(np.float64) @ sides).T
        ratio: Floats = np.divide(above, below, np.full_like(above, np.nan), where=below != 0)
        return ratio

    return bootstrap_pooled(resample, photos, rounds=rounds, seed=seed)


def bootstrap_statistic(
    statistic: Callable[[Counts], float], photos: Photos, *, rounds: int = 1000, seed: int = 0
) -> Interval:
    """Any statistic of whole photos, of how often each of the n samples counts, (n,); of all ones it is the value."""
    one_by_one = lambda often: np.array([statistic(one) for one in often], np.float64)  # noqa: E731
    return bootstrap_pooled(one_by_one, photos, rounds=rounds, seed=seed)


def bootstrap_pooled(
    resample: Callable[[Counts], Floats], photos: Photos, *, rounds: int = 2000, seed: int = 0
) -> Interval:
    """As `bootstrap_statistic`, on the same resamples, for what takes many at once: (some, n) -> (some,)."""
    index = {photo: position for position, photo in enumerate(dict.fromkeys(photos))}
    groups, count = np.array([index[photo] for photo in photos]), len(index)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    piece = max(1, _PIECE // len(photos))
    starts = range(0, rounds, piece)
    found = np.concatenate([resample(draws[at : at + piece][:, groups]) for at in starts])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = resample(np.ones((1, len(photos)), dtype=np.int64))[0]
    return Interval(float(value), float(low), float(high))


@dataclass(frozen=True)
class Score:
    """One measured value of the whole set, as papers print it, and how it was made; `interval` None: not resampled.

    `samples` has the score of each answered sample (None: it has none); `pairs` are, of "repeated_pairs", those of each
    photo with one caption, and all.
    """

    value: float
    interval: Interval | None
    made: str
    samples: tuple[float | None, ...] | None = None
    higher_is_better: bool = True
    pairs: Mapping[str, tuple[int, int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the samples, which results.json keeps elsewhere; an undefined bound is null."""
        values: dict[str, Any] = {"value": self.value, "interval": finite(self.interval)}
        return values | {"higher_is_better": self.higher_is_better, "made": self.made}


def finite(interval: Interval | None) -> dict[str, float | None] | None:
    """An interval for JSON: null where a value is undefined."""
    if interval is None:
        return None
    return {key: float(n) if np.isfinite(n) else None for key, n in vars(interval).items()}


def caption_score(result: MetricResult, photos: Photos, how: How) -> Score:
    """A metric's result with its interval."""
    interval: Interval | None = bootstrap_mean(result.samples, photos, **how)
    # A score that pools its counts over the set is not the mean, so the mean's interval is not its own.
    if result.name in POOLED or not np.isclose(np.mean(result.samples), result.corpus, rtol=1e-9):
        resample = result.resample
        interval = None if resample is None else bootstrap_pooled(resample, photos, **how)
    return Score(result.corpus, interval, result.made, result.samples)


class Scorer(ExitStack):
    """Scores any number of runs with one METEOR process, by the official programs unless `java` is "no"; "auto": if
    they are there, "yes": JavaError or MissingExtraError if not. A context manager.
    """

    def __init__(self, java: str = "auto") -> None:
        super().__init__()
        self._meteor: Meteor | None = None
        self._spaces: dict[str, ClipSpace] = {}
        if java == "no":
            return
        try:
            require("pycocoevalcap", "metrics")
            self._meteor = self.enter_context(Meteor())
        except (OptionError, MissingExtraError):  # a JavaError is an OptionError
            if java == "yes":
                raise

    def prepare(self, settings: RunSettings) -> None:
        """Open the weights of CLIP-S and PAC-S, so that what is missing is known before any captioning."""
        for given in (settings.clip_score, settings.pac_score):
            if given is None or given in self._spaces:
                continue
            architecture, _, path = given.partition("=")
            if not (architecture and path):
                example = "ViT-B-32-quickgelu=B32.pt"
                raise OptionError(f"{given!r} is no ARCHITECTURE=FILE, such as {example}")
            self._spaces[given] = ClipSpace.load(architecture, path)

    def score(self, predictions: Said, settings: RunSettings) -> dict[str, Score]:
        """All scores of a task; those of regions only where photos have several.

        What has no caption is left out, though its box stays a ground truth of the dense mAP. OptionError: nothing has.
        """
        said = [prediction for prediction in predictions if prediction.caption is not None]
        if not said:
            raise OptionError("no sample has a caption: there is nothing to score")
        how = {"rounds": settings.rounds, "seed": settings.seed}
        scores = self._of_captions(said, settings, how)
        if settings.task == "objects":
            scores = object_scores(said, how) | scores
        if settings.task == "dense":
            scores |= dense_scores(predictions, stem_f_measure, "stem-F", how)
            if (meteor := self._meteor) is not None:
                measure = lambda text, due: meteor.score(text, due)[1] / 100.0  # noqa: E731
                scores |= dense_scores(predictions, measure, "METEOR", how)
        if settings.task == "region_set":
            scores |= one_reference_scores(said, how, self._meteor)
        if settings.task not in ("image", "objects"):
            scores |= regional_scores(said, how)
        self.prepare(settings)
        for kind, given in (("clip", settings.clip_score), ("pac", settings.pac_score)):
            if given is not None:
                space, images = self._spaces[given], Path(settings.images)
                results = image_text_scores(said, images, space, kind=kind, source=given)
                scores |= _with_intervals(results, said, how)
        return scores

    def _of_captions(self, said: Said, settings: RunSettings, how: How) -> dict[str, Score]:
        own = [name for name in settings.metrics if ":" in name]
        # A metric of the user's is called by its function's name, with its module where two share one.
        shorts = [name.partition(":")[2] for name in own]
        pairs = zip(own, shorts, strict=True)
        extra = {name if shorts.count(short) > 1 else short: name for name, short in pairs}
        # The name of a class is no caption: only what was asked for is measured against it.
        usual = () if settings.task == "objects" else DEFAULT_METRICS
        names = [*usual, *(("meteor",) if self._meteor is not None and usual else ())]
        names += [name for name in settings.metrics if ":" not in name]
        _, captions, references = _columns(said)
        asked: dict[str, Any] = {"extra": extra, "samples": said, "meteor": self._meteor}
        results = score_captions(captions, references, list(dict.fromkeys(names)), **asked)
        return _with_intervals(results, said, how)


def _columns(said: Said) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Photos, captions and references."""
    captions = [prediction.caption or "" for prediction in said]
    return [p.photo for p in said], captions, [p.references for p in said]


def _with_intervals(results: dict[str, MetricResult], said: Said, how: How) -> dict[str, Score]:
    photos, *_ = _columns(said)
    return {name: caption_score(result, photos, how) for name, result in results.items()}


def stem_f_measure(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Stem-F within 0..1, for a dense mAP."""
    return stem_f(captions, references)[1] / 100.0


def _alone(photos: Sequence[str], names: Sequence[str]) -> bool:
    return len(set(zip(photos, names, strict=True))) == len(set(photos))


def region_names(said: Said) -> list[str]:
    """One name per region; where one region got two captions (a human's, the oracle's), one per sample."""
    names = [json.dumps(prediction.region) for prediction in said]
    captions: dict[tuple[str, str], str | None] = {}
    for prediction, name in zip(said, names, strict=True):
        if captions.setdefault((prediction.photo, name), prediction.caption) != prediction.caption:
            return [other.id for other in said]
    return names


def regional_scores(said: Said, how: How, *, classes: bool = False) -> dict[str, Score]:
    """Distinctness and grounding with intervals, where some photo has two different regions; else nothing.

    With `classes` the one reference of each is the name of its class, and for the grounding a class is one region.
    """
    names, (photos, captions, references) = region_names(said), _columns(said)
    if _alone(photos, names):
        return {}
    pairs = regions.distinctness(captions, photos, names)
    same, every = np.array(list(pairs.values()), dtype=np.float64).T
    repeated = bootstrap_ratio(100.0 * same, every, list(pairs), **how)
    made = f"{_OURS}: share of pairs of regions of one photo with the same caption, %"
    several = repeated if len(pairs) > 1 else None
    scores = {"repeated_pairs": Score(repeated.value, several, made, None, False, pairs)}
    kinds = [due[0] for due in references]
    if classes and _alone(photos, kinds):
        return scores
    fit = (regions.class_named, kinds) if classes else (regions.fixed_cider(references), names)
    found = regions.grounding(captions, references, photos, *fit)
    of = [photos[index] for index in found.samples]
    told = (_OF_CLASSES if classes else _OF_REGIONS).items()
    for (name, made), values in zip(told, (found.margins, 100.0 * found.wins), strict=True):
        mean = bootstrap_mean(values, of, **how)
        by_index = dict(zip(found.samples, values.tolist(), strict=True))
        samples = tuple(by_index.get(index) for index in range(len(said)))
        # Resampling the only photo that has two regions gives that photo again, not an interval.
        interval = mean if classes or len(set(of)) > 1 else None
        scores[name] = Score(mean.value, interval, f"{_OURS}: {made}", samples)
    return scores


def object_scores(said: Said, how: How) -> dict[str, Score]:
    """Of class boxes, whose one reference is the name of the class: how often the caption names it, of all boxes
    ("object_hits") and of all but people ("object_hits_but_person"); and what `regional_scores` has of classes.
    """
    made = f"{_OURS}: boxes whose caption names their class, %"
    photos, captions, references = _columns(said)
    hits = regions.class_named(captions, references)
    rate = bootstrap_mean(hits, photos, **how)
    scores = {"object_hits": Score(rate.value, rate, made, tuple(hits.tolist()))}
    others = [index for index, due in enumerate(references) if due[0] != PERSON]
    if others:
        rate = bootstrap_mean(hits[others], [photos[i] for i in others], **how)
        made = f"{made}; boxes of people left out"
        of_others = tuple(hit if at in others else None for at, hit in enumerate(hits.tolist()))
        scores["object_hits_but_person"] = Score(rate.value, rate, made, of_others)
    return scores | regional_scores(said, how, classes=True)


def one_reference_scores(said: Said, how: How, meteor: Meteor | None) -> dict[str, Score]:
    """CIDEr, ROUGE-L and BLEU-4 with each reference a sample of its own; nothing where no sample has several."""
    pairs = [(index, due) for index, one in enumerate(said) for due in one.references]
    if len(pairs) == len(said):
        return {}
    origin = np.array([index for index, _ in pairs])
    photos, captions, _ = _columns([said[index] for index in origin])
    alone = [[due] for _, due in pairs]
    results = score_captions(captions, alone, ["cider", "rouge_l", "bleu4"], meteor=meteor)
    scores = {}
    for name, result in results.items():
        # Its interval is made of the rows; what is kept by sample is the mean of its rows.
        found = caption_score(result, photos, how)
        rows = np.bincount(origin, result.samples) / np.bincount(origin)
        scores[name + ONE_REFERENCE] = replace(found, samples=tuple(rows.tolist()))
    return scores


def dense_scores(said: Said, measure: regions.Measure, name: str, how: How) -> dict[str, Score]:
    """The dense mAP with one text measure; its published name is for METEOR."""
    photos, matches = dense_matches(said, measure)
    rounds = min(how["rounds"], MAP_ROUNDS)
    value = partial(regions.dense_map, matches)
    found = bootstrap_statistic(value, photos, rounds=rounds, seed=how["seed"])
    over = f"{len(matches.photo)} given boxes, {matches.truths.sum()} merged ground truths"
    made = f"benchmarks.metrics.regions over {over}; text: {name}; {rounds} resamples"
    return {"mAP" if name == "METEOR" else f"mAP ({name})": Score(found.value, found, made)}


def dense_matches(predictions: Said, measure: regions.Measure) -> tuple[list[str], DenseMatches]:
    """Photos, and their detections with what they matched: the given boxes, as in the published protocol."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.photo, []).append(prediction)
    found = []
    for group in groups.values():
        said = [prediction for prediction in group if prediction.caption is not None]
        boxes, truths = ([one.region["box"] for one in part] for part in (said, group))
        scores, (_, captions, _) = [one.score or 0.0 for one in said], _columns(said)
        due = [prediction.references for prediction in group]
        found.append(DensePhoto(boxes, scores, captions, truths, due))
    return list(groups), regions.match(found, measure)


def image_text_scores(said: Said, images: Path, space: ClipSpace, *, kind: str, source: str) -> dict[str, MetricResult]:
    """CLIP-S ("clip") or PAC-S ("pac") of captions and photos with their region in red: KIND_s, ref_KIND_s and
    KIND_text_cosine, which the published tables call "P" or RefPAC-S.
    """
    _, captions, references = _columns(said)
    pictures: list[Floats] = []
    for start in range(0, len(said), _AT_ONCE):
        group = said[start : start + _AT_ONCE]
        drawn = [draw_region(load_image(images / p.photo), p.region) for p in group]
        pictures.append(space.embed_images(drawn))
    texts = space.embed_text([cosine.PROMPT + caption for caption in captions])
    score = cosine.image_score(np.concatenate(pictures), texts, kind)
    near = cosine.best_reference_cosine(captions, references, space.embed_text)
    both = cosine.with_references(score[1], near[1])
    made = f"open_clip {source}; tokenizer: none; image: the photo with its region drawn in red"
    found = {f"{kind}_s": score, f"ref_{kind}_s": both, f"{kind}_text_cosine": near}
    pairs = found.items()
    return {n: MetricResult(n, mean, tuple(each.tolist()), made) for n, (mean, each) in pairs}


def draw_region(image: Image.Image, region: Mapping[str, Any]) -> Image.Image:
    """A copy of the photo with a region (as JSON) in red, lines a hundredth of its longer side; a whole photo as is."""
    drawn = image.copy()
    pencil = ImageDraw.Draw(drawn)
    width = max(1, round(max(image.size) / 100))
    for member in region.get("set", [region]):
        if "box" in member:
            pencil.rectangle(member["box"], outline=RED, width=width)
        if "trace" in member:
            scale = image.size if member.get("normalized") else (1, 1)
            points = [(x * scale[0], y * scale[1]) for x, y in member["trace"]]
            points = points if len(points) > 1 else points * 2  # a line needs two ends
            pencil.line(points, fill=RED, width=width, joint="curve")
    return drawn
