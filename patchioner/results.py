"""What a captioner answers with: `Caption`, `Label`, `Explanation`; each can be written as JSON by `to_dict`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
