"""Support of sentences by a photo, from the dense image-text alignment of the loaded checkpoint.

Knows: the parts of a sentence, what the model says of each, its calibration. Does NOT know: other sentences about the
photo, or what becomes of the score.

**What cannot be verified this way.** Text encoders trained by contrast weigh nouns. They are nearly blind to numbers
above one, left and right, who does what to whom, negation, and which of two things has which attribute; colours and
materials they see a little. Those parts are named in `Support.unverifiable` and count neither for nor against. And a
captioner that decodes from the same alignment will find its own captions well supported: agreement among samples, or an
independent scorer, says more of those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from patchioner import Patchioner
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.detail.filter.attributes import SEEN, stated
from patchioner.detail.filter.calibration import Calibration, full_row
from patchioner.detail.filter.evidence import Evidence, View
from patchioner.detail.filter.measures import (
    attribute_rows,
    object_inputs,
    object_rows,
    seen_attributes,
)
from patchioner.detail.filter.things import things
from patchioner.detail.stages import Photo
from patchioner.detail.text import word_weights
from patchioner.detail.values import DetailRegion, Support

_RELATION: Final = re.compile(
    r"\b(?:(?:on|to|at) the (?:far |upper |lower )?(?:left|right)\b|left|right|above|below|behind|in front of|next to|"
    r"beside|between|under(?:neath)?|over|facing|towards?|on top of|inside|near)\b",
    re.I,
)
_NEGATION: Final = re.compile(r"\b(?:no|not|without|none|never|isn't|aren't|doesn't|don't)\b", re.I)


class DenseScorer:
    """Scores sentences against the region that they speak of; fulfils `patchioner.detail.stages.Scorer`.

    A sentence's cosine and those of its things are compared with what the names of 350 other things get in the same
    region: as a whole and at its best window of patches; where the model keeps memory texts, with how often the texts
    near the region name the thing. Logistic regressions, fitted against distractors and stored with the model
    (`calibration`), make probabilities of them. Colours and materials are compared with the other values of their
    family on the same thing.

    Args:
        model: with a text tower.
        calibration: in place of the model's own.

    Raises:
        OptionError: the model has no text tower, or no calibration (the message names the command that makes one), or
            one that was made with other measures.

    Example:
        >>> scorer = DenseScorer(Patchioner.from_pretrained())  # doctest: +SKIP
        >>> scorer.score(photo, [(region, "A dog lies on a couch.")])[0].objects  # doctest: +SKIP
        (('dog', 0.97), ('couch', 0.88))
    """

    def __init__(self, model: Patchioner, *, calibration: Calibration | None = None) -> None:
        self.calibration = Calibration.of(model) if calibration is None else calibration
        self._model = model
        self._evidence = Evidence(model)
        expected, given = object_inputs(self._evidence), self.calibration.objects.inputs
        if expected != given:
            raise OptionError(
                f"the calibration of {model.settings.name!r} measures {given}, this model {expected} (was its memory "
                "exchanged?): calibrate it again with python -m patchioner.detail.filter.calibrate"
            )

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON."""
        return {
            "type": "dense",
            "model": self._model.settings.name,
            "threshold": self.threshold,
            "calibration": self.calibration.to_json(),
        }

    @property
    def threshold(self) -> float:
        """Score from which a sentence counts as supported."""
        return self.calibration.sentences.threshold

    @property
    def object_threshold(self) -> float:
        """Score below which a thing counts as not there, where its sentence is not supported."""
        return self.calibration.objects.threshold

    @property
    def attribute_threshold(self) -> float:
        """Score below which an attribute counts as wrong."""
        return self.calibration.attributes.threshold

    @torch.inference_mode()
    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order.

        Each distinct text is embedded once, each distinct region pooled once. The photo is encoded here if it comes
        without features.
        """
        if not sentences:
            return []
        features = photo.features or self._model.encode(photo.image)
        views: dict[str, View] = {}
        for region, _ in sentences:
            if region.id not in views:
                views[region.id] = self._evidence.view(features, region.region)
        self._evidence.embed(
            list(dict.fromkeys(text for _, text in sentences))
        )  # one batch, not one each
        return [self._support(views[region.id], text) for region, text in sentences]

    def _support(self, view: View, sentence: str) -> Support:
        fitted = self.calibration
        names = things(sentence)
        rows = object_rows(self._evidence, view, names)
        whole = self._evidence.compare(view, [sentence])[0]
        score = float(fitted.sentences(full_row(whole, rows, fitted.objects))[0])
        said = seen_attributes(sentence)
        values = fitted.attributes(attribute_rows(self._evidence, view, said))
        phrases = [f"{one.value} {one.name}" for one in said]
        return Support(
            score,
            _scored(names, fitted.objects(rows)),
            _scored(phrases, values),
            unverifiable(sentence),
        )

    @torch.inference_mode()
    def heat_map(self, photo: Photo, sentence: str) -> npt.NDArray[np.float32]:
        """Where in the photo a sentence is borne out: (rows, columns) float32 cosines of its patches, -1 to 1."""
        features: PatchFeatures = photo.features or self._model.encode(photo.image)
        return self._evidence.heat_map(features, sentence)


def unverifiable(sentence: str) -> tuple[str, ...]:
    """What of a sentence no contrastive score can bear out, in words; nothing for a sentence all of which can be.

    Example:
        >>> unverifiable("Two dogs are sitting to the left of a red bus.")
        ('number: two dog', 'posture: sitting dog', 'place: to the left')
    """
    parts = [
        f"{one.family}: {one.value} {one.name}"
        for one in stated(sentence)
        if one.family not in (*SEEN, "presence")
    ]
    parts += [f"place: {match.group().lower()}" for match in _RELATION.finditer(sentence)]
    parts += [f"negation: {match.group().lower()}" for match in _NEGATION.finditer(sentence)]
    if not things(sentence):
        parts.append("names no thing" if word_weights(sentence) else "says nothing")
    return tuple(dict.fromkeys(parts))


def _scored(names: Sequence[str], scores: npt.NDArray[np.float64]) -> tuple[tuple[str, float], ...]:
    return tuple((name, round(float(score), 4)) for name, score in zip(names, scores, strict=True))
