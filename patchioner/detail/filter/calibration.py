"""What a checkpoint's measures mean: fitted on photos with captions, against distractors; stored with the model.

Knows: how distractors are made (sentences of other photos; things and attributes exchanged), fitting, thresholds at a
chosen false-accept rate. Does NOT know: annotations of objects, files of pairs, the command (`calibrate`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner import Patchioner
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.progress import progress
from patchioner.detail.filter.attributes import FAMILIES, Stated
from patchioner.detail.filter.evidence import WHOLE, Evidence, View, with_article
from patchioner.detail.filter.logistic import Logistic, fit_logistic
from patchioner.detail.filter.measures import (
    ATTRIBUTE_INPUTS,
    SENTENCE_INPUTS,
    attribute_rows,
    object_inputs,
    object_rows,
    seen_attributes,
)
from patchioner.detail.filter.things import things
from patchioner.detail.text import canonical, content_words, noun_phrases
from patchioner.images import ImageSource, load_image

KEY = "detail"
"""Under which a model's settings hold its calibration."""
VERSION = 1

FloatArray = npt.NDArray[np.float64]
Captioned = tuple[ImageSource, Sequence[str]]


@dataclass(frozen=True)
class FalseAccepts:
    """Which share of distractors a threshold lets through.

    Attributes:
        sentence: of true sentences with one thing exchanged. Sentences of other photos are let through far less often.
        object: of things that are not there.
        attribute: of attributes exchanged. High: what a contrastive model sees of colours is little, and a lower rate
            would cost true sentences.

    Raises:
        OptionError: a rate outside 0..1.
    """

    sentence: float = 0.50
    object: float = 0.10
    attribute: float = 0.80

    def __post_init__(self) -> None:
        for name in ("sentence", "object", "attribute"):
            rate = getattr(self, name)
            if not 0 < rate < 1:
                raise OptionError(
                    f"false-accept rate of {name} is {rate}; it must lie between 0 and 1"
                )


@dataclass(frozen=True)
class Calibration:
    """Three fitted measures with their thresholds, and what was measured when they were fitted.

    Attributes:
        sentences, objects, attributes: see `patchioner.detail.filter.measures`.
        measured: shares of true and false ones that pass the thresholds, number of photos; for people.
    """

    sentences: Logistic
    objects: Logistic
    attributes: Logistic
    measured: Mapping[str, float] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """What `ModelSettings.calibration["detail"]` holds."""
        parts = {
            name: getattr(self, name).to_json() for name in ("sentences", "objects", "attributes")
        }
        return {"version": VERSION, **parts, "measured": {**self.measured}}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read what `to_json` gave.

        Raises:
            CheckpointError: it is damaged, or of another version.
        """
        if not isinstance(values, Mapping) or values.get("version") != VERSION:
            raise CheckpointError(
                f'{source}: no calibration of version {VERSION}; make one with "python -m '
                'patchioner.detail.filter.calibrate"'
            )
        try:
            parts = [
                Logistic.from_json(values[name], f"{source}: {name}")
                for name in ("sentences", "objects", "attributes")
            ]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{source}: the calibration has no {error}") from error
        return cls(parts[0], parts[1], parts[2], dict(values.get("measured", {})))

    @classmethod
    def of(cls, model: Patchioner) -> Self:
        """That of a model.

        Raises:
            OptionError: it has none; the message names the command that makes it.
        """
        stored = model.settings.calibration.get(KEY)
        if stored is None:
            raise OptionError(
                f"{model.settings.name!r} has no calibration for the filter, so its cosines mean nothing as support: "
                "run python -m patchioner.detail.filter.calibrate --model MODEL --pairs pairs.json --photos FOLDER "
                "--out NEWMODEL"
            )
        return cls.from_json(stored, f"calibration of {model.settings.name!r}")


@dataclass(frozen=True)
class _Sample:
    """One sentence about a photo: measures of it, of its things and attributes, and whether they are true."""

    kind: str  # "true", "other", "swap"
    sentence: FloatArray  # pooled, peak
    things: FloatArray


@dataclass
class _Samples:
    sentences: list[_Sample] = field(default_factory=list)
    objects: list[FloatArray] = field(default_factory=list)
    object_truth: list[bool] = field(default_factory=list)
    attributes: list[FloatArray] = field(default_factory=list)
    attribute_truth: list[bool] = field(default_factory=list)


def calibrate_model(
    model: Patchioner,
    pairs: Sequence[Captioned],
    *,
    rates: FalseAccepts | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit the measures of a model on photos with true captions.

    For every true caption a caption of another photo, the caption with one thing exchanged for one that no caption
    of the photo names, and the caption's colours and materials exchanged, are the distractors. Each measure is fitted
    by logistic regression; its threshold is where the chosen share of distractors passes.

    Args:
        model: with a text tower.
        pairs: (photo, true captions); 100 at least, a few hundred are better.
        rates: of false accepts; None is `FalseAccepts()`.
        seed: of the choice of distractors.

    Raises:
        OptionError: too few photos, or no text tower.

    Example:
        >>> calibration = calibrate_model(model, [("1.jpg", ["a cat on a chair"]), ...])  # doctest: +SKIP
    """
    if len(pairs) < 2:
        raise OptionError(
            f"{len(pairs)} photos cannot be calibrated with: give a hundred or more with captions"
        )
    evidence = Evidence(model)
    samples = _Samples()
    generator = random.Random(seed)
    for place, (photo, captions) in enumerate(
        progress(pairs, description="calibrating", unit="photo")
    ):
        others = [captions for other, (_, captions) in enumerate(pairs) if other != place]
        # The memory may hold these very captions; of another photo it would not.
        view = evidence.view(model.encode(photo), WHOLE, without=captions)
        _add(samples, evidence, view, captions, others, generator)
    return _fit(samples, evidence, rates or FalseAccepts(), len(pairs))


def _add(
    samples: _Samples,
    evidence: Evidence,
    view: View,
    captions: Sequence[str],
    others: Sequence[Sequence[str]],
    generator: random.Random,
) -> None:
    named = frozenset().union(*(content_words(caption) for caption in captions))
    for caption in captions:
        foreign = generator.choice(generator.choice(others))
        swapped = swap_thing(caption, _names(others, named, generator), generator)
        texts = [("true", caption), ("other", foreign)]
        texts += [("swap", swapped[0])] if swapped else []
        for kind, text in texts:
            rows = object_rows(evidence, view, things(text))
            samples.sentences.append(_Sample(kind, evidence.compare(view, [text])[0], rows))
            if kind == "true":
                samples.objects += list(rows)
                samples.object_truth += [True] * len(rows)
        if swapped:
            samples.objects += list(object_rows(evidence, view, [swapped[1]]))
            samples.object_truth.append(False)
        said = seen_attributes(caption)
        wrong = [_other_value(one, generator) for one in said]
        samples.attributes += list(attribute_rows(evidence, view, [*said, *wrong]))
        samples.attribute_truth += [True] * len(said) + [False] * len(wrong)


def _names(
    others: Sequence[Sequence[str]], named: frozenset[str], generator: random.Random
) -> Iterator[str]:
    """Things in captions of other photos that no own caption names, at random."""
    for _ in range(50):
        for name in things(generator.choice(generator.choice(others))):
            if canonical(name.rpartition(" ")[2]) not in named:
                yield name


def swap_thing(
    caption: str, names: Iterator[str], generator: random.Random
) -> tuple[str, str] | None:
    """(The caption with one of its things exchanged for the next of `names`, that name); None where it has none."""
    phrases = [phrase for phrase in noun_phrases(caption) if phrase.name in things(caption)]
    name = next(names, None)
    if not phrases or name is None:
        return None
    phrase = generator.choice(phrases)
    return f"{caption[: phrase.start]}{with_article(name)}{caption[phrase.end :]}", name


def _other_value(one: Stated, generator: random.Random) -> Stated:
    values = sorted({value for value in FAMILIES[one.family].values() if value != one.value})
    return replace(one, value=generator.choice(values))


def _fit(samples: _Samples, evidence: Evidence, rates: FalseAccepts, photos: int) -> Calibration:
    objects = _at_rate(object_inputs(evidence), samples.objects, samples.object_truth, rates.object)
    attributes = _at_rate(
        ATTRIBUTE_INPUTS, samples.attributes, samples.attribute_truth, rates.attribute
    )
    rows = np.array([full_row(one.sentence, one.things, objects) for one in samples.sentences])
    kinds = np.array([one.kind for one in samples.sentences])
    sentences = fit_logistic(SENTENCE_INPUTS, rows, kinds == "true")
    scores = sentences(rows)
    threshold = float(np.quantile(scores[kinds == "swap"], 1 - rates.sentence))
    sentences = replace(sentences, threshold=threshold)
    measured = {
        f"accepted {kind}": round(float((scores[kinds == kind] >= threshold).mean()), 4)
        for kind in ("true", "other", "swap")
    }
    return Calibration(sentences, objects, attributes, {"photos": photos, **measured})


def full_row(sentence: FloatArray, rows: FloatArray, objects: Logistic) -> FloatArray:
    """The `SENTENCE_INPUTS` of a sentence from its own two measures and those of its things."""
    logits = objects.logits(rows) if len(rows) else np.zeros(1)
    return np.array([*sentence, logits.min(), logits.mean(), np.log(len(rows) + 1)])


def _at_rate(
    inputs: Sequence[str], rows: Sequence[FloatArray], truth: Sequence[bool], rate: float
) -> Logistic:
    values, answers = np.array(rows).reshape(-1, len(inputs)), np.array(truth, dtype=bool)
    fitted = fit_logistic(inputs, values, answers)
    return replace(fitted, threshold=float(np.quantile(fitted(values[~answers]), 1 - rate)))


def calibrate_matcher(
    match: Callable[[Image.Image, Sequence[str]], npt.ArrayLike],
    pairs: Sequence[Captioned],
    *,
    false_accept: float = FalseAccepts.sentence,
    seed: int = 0,
) -> Logistic:
    """Fit one number of a scorer, on whole photos, as `calibrate_model` does: true captions against exchanged ones.

    Args:
        match: of (picture, n sentences) gives n numbers.
        pairs, seed: as `calibrate_model`.
        false_accept: share of captions with one thing exchanged that passes the threshold.
    """
    generator = random.Random(seed)
    values: list[float] = []
    truth: list[bool] = []
    for place, (photo, captions) in enumerate(
        progress(pairs, description="calibrating", unit="photo")
    ):
        others = [captions for other, (_, captions) in enumerate(pairs) if other != place]
        named = frozenset().union(*(content_words(caption) for caption in captions))
        swaps = [swap_thing(text, _names(others, named, generator), generator) for text in captions]
        false = [swapped[0] for swapped in swaps if swapped]
        values += np.asarray(
            match(load_image(photo), [*captions, *false]), dtype=np.float64
        ).tolist()
        truth += [True] * len(captions) + [False] * len(false)
    return _at_rate(("match",), [np.array([value]) for value in values], truth, false_accept)
