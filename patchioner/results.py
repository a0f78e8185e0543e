"""What a captioner answers with: `Caption`, `Label`, `Explanation`; as JSON, for supervision, as alt text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from patchioner.base.optional import require
from patchioner.geometry import ImageGeometry
from patchioner.regions import Mask, Region


@dataclass(frozen=True)
class Caption:
    """A caption of one region.

    Attributes:
        text: the caption; None where the model is not sure enough of any.
        score: mean log-probability per generated token, the end token included; higher is surer. Of guided captions the
            mean score of tokens (`decoders.guidance`).
        region: the region that was asked about.
        confidence: that the caption is right, 0 to 1; None where the checkpoint is not calibrated.
        reason: why there is no text.
    """

    text: str | None
    score: float
    region: Region
    confidence: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: region (as `--regions` reads it), text, score (None for NaN), confidence and reason if any."""
        score = None if math.isnan(self.score) else round(self.score, 6)
        said: dict[str, Any] = {"region": self.region.to_json(), "text": self.text, "score": score}
        if self.confidence is not None:
            said["confidence"] = round(self.confidence, 6)
        return said | ({} if self.reason is None else {"reason": self.reason})


@dataclass(frozen=True)
class Label:
    """The text that fits a region best, of those that were given.

    Attributes:
        text: that text; None where none of them is likely enough.
        probability: that the best text is right: calibrated where the model is, else its share of the softmax.
        cosines: of the region with each text, in the order given.
        probabilities: the softmax over the cosines; they sum to 1.
        region: the region that was asked about.
    """

    text: str | None
    probability: float
    cosines: tuple[float, ...]
    probabilities: tuple[float, ...]
    region: Region

    def to_dict(self) -> dict[str, Any]:
        """The label for JSON."""
        return {
            "region": self.region.to_json(),
            "text": self.text,
            "probability": round(self.probability, 6),
            "cosines": [round(value, 6) for value in self.cosines],
            "probabilities": [round(value, 6) for value in self.probabilities],
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a region got its caption.

    Attributes:
        texts: the nearest memory texts, best first.
        similarities: their cosines with the region's embedding.
        weights: (rows, columns) float32, how much each patch counted; sums to 1.
    """

    texts: tuple[str, ...]
    similarities: tuple[float, ...]
    weights: npt.NDArray[np.float32]


def as_supervision(captions: Sequence[Caption], geometry: ImageGeometry) -> Any:
    """The captions of one photo, of `features.geometry`, as `supervision.Detections`, for its annotators and files.

    The regions' bounds are boxes, the masks are there where all regions are `Mask`s; texts stand under
    ``data["caption"]``, scores under ``data["score"]``. MissingExtraError where supervision is not installed.
    """
    supervision = require("supervision", "supervision")
    boxes = [caption.region.bounds(geometry) for caption in captions]
    masks = [caption.region.array for caption in captions if isinstance(caption.region, Mask)]
    return supervision.Detections(
        xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks and len(masks) == len(captions) else None,
        class_id=np.arange(len(captions)),
        data={
            "caption": np.array([caption.text or "" for caption in captions]),
            "score": np.array([caption.score for caption in captions], dtype=np.float32),
        },
    )


LONGEST = 125  # characters; screen readers cut or hurry through what is longer
NOTICE = "Machine-made: "  # begins a text that the model is not sure of
_SURE = 0.5
# A photo does not say what somebody is.
_NEUTRAL = {
    "person": "gal male female", "people": "gentlemen", "child": "son daughter", "children": "sons daughters",
    "parent": "mother father mom dad", "partner": "husband wife", "sibling": "brother sister", "actor": "actress",
    "waiter": "waitress", "themself": "himself herself",
}  # fmt: skip
_TWO = re.compile(r"\ban? ((?:\w+ )?)(person|child) and an? \1\2\b", re.IGNORECASE)
_MANY = re.compile(r"\b(people|children) and \1\b", re.IGNORECASE)
# What a sentence that was cut cannot end with.
_LOOSE = re.compile(
    r"(?:[\s,;:-]+(?:an?|the|with|of|on|in|and|or|at|to|by|for|from|next|near|that|is|are|their|its|while))+[\s,]*$"
)


def alt_text(caption: Caption | str) -> str | None:
    """One sentence of at most 125 characters, in sentence case, that names nobody's gender.

    Args:
        caption: of the whole photo; one of a low `confidence` begins with a notice that a machine made it.

    Returns:
        The sentence; None where the caption has no text.

    Example:
        >>> alt_text("a man and a woman riding on  his horse")
        'Two people riding on their horse.'
    """
    text, confidence = (caption, None) if isinstance(caption, str) else (caption.text, caption.confidence)
    sentence = re.split(r"[.!?](?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0].strip()
    if not sentence:
        return None
    words, gendered = _neutral_words()
    sentence = re.sub(r"(?i)\bher\b(?= \w)", "their", sentence)
    sentence = re.sub(r"(?i)\bher\b(?!-)", "them", sentence)
    sentence = gendered.sub(lambda found: words[found[0].lower()], sentence)
    many = {"person": "people", "child": "children"}
    sentence = _TWO.sub(lambda found: f"two {found[1]}{many[found[2].lower()]}", sentence)
    sentence = _MANY.sub(r"\1", sentence)
    notice = NOTICE if confidence is not None and confidence < _SURE else ""
    sentence = notice + _cut(sentence, LONGEST - len(notice) - 1) + "."
    return sentence[0].upper() + sentence[1:]


@cache
def _neutral_words() -> tuple[dict[str, str], re.Pattern[str]]:
    """Words that say what somebody is -> such as do not; and what finds them."""
    from decoders.guidance import NEUTRAL

    told = [(new, olds) for table in (NEUTRAL, _NEUTRAL) for new, olds in table.items()]
    words = {old: new for new, olds in told for old in olds.split()}
    return words, re.compile(rf"\b(?:{'|'.join(words)})\b(?!-)", re.IGNORECASE)


def _cut(sentence: str, longest: int) -> str:
    """The words that fit, without those that lead nowhere."""
    if len(sentence) <= longest:
        return sentence
    whole = sentence[: longest + 1].rpartition(" ")[0] or sentence[:longest]
    return _LOOSE.sub("", whole)
