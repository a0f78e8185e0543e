"""Scorers that are not the captioner: BLIP's image-text matching, CLIP. They do not decode what they score.

Knows: transformers and open_clip, through their own classes; crops. Does NOT know: the captioner, its features, other
claims. Nothing is downloaded but what the libraries download for a name that is given; the libraries come with the
extras `language-models` and `clip`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.optional import require
from patchioner.base.registry import Registry
from patchioner.detail.filter.logistic import Logistic
from patchioner.detail.filter.support import unverifiable
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, Support

FloatArray = npt.NDArray[np.float64]
PUBLISHED_THRESHOLD: Final = 0.3
"""Of (ITM + ITC) / 2 in the published system; it means nothing for other scores."""


class Matcher(Protocol):
    """Matches a picture with sentences."""

    @property
    def name(self) -> str:
        """What it is called in settings."""

    def match(self, picture: Image.Image, sentences: Sequence[str]) -> FloatArray:
        """(n,) float64, higher where a sentence fits better; on a scale of its own."""


class IndependentScorer:
    """Fulfils `patchioner.detail.stages.Scorer` with any matcher, on the crop of each region.

    Args:
        matcher: scores a crop and sentences.
        calibration: one input to a probability (`calibrate_matcher` of `patchioner.detail.filter.calibration`, or
            `python -m patchioner.detail.filter.calibrate --scorer ...`); None gives the matcher's own numbers, cut to
            0..1.
        threshold: in place of the calibration's; without either 0.3, which was published for BLIP alone.

    Example:
        >>> scorer = blip_scorer("Salesforce/blip-itm-large-coco")  # doctest: +SKIP
        >>> scorer.score(photo, [(region, "A dog lies on a couch.")])[0].score  # doctest: +SKIP
        0.74
    """

    def __init__(
        self,
        matcher: Matcher,
        *,
        calibration: Logistic | None = None,
        threshold: float | None = None,
    ) -> None:
        self.matcher = matcher
        self.calibration = calibration
        stored = PUBLISHED_THRESHOLD if calibration is None else calibration.threshold
        self._threshold = stored if threshold is None else threshold

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON."""
        calibration = None if self.calibration is None else self.calibration.to_json()
        return {"type": self.matcher.name, "threshold": self.threshold, "calibration": calibration}

    @property
    def threshold(self) -> float:
        """Score from which a sentence counts as supported."""
        return self._threshold

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order; each crop is encoded once."""
        scores = np.zeros(len(sentences))
        places: dict[str, list[int]] = {}
        for place, (region, _) in enumerate(sentences):
            places.setdefault(region.id, []).append(place)
        for asked in places.values():
            crop = _crop(photo.image, sentences[asked[0]][0])
            scores[asked] = self.matcher.match(crop, [sentences[place][1] for place in asked])
        fitted = self.calibration
        scores = np.clip(scores, 0.0, 1.0) if fitted is None else fitted(scores[:, None])
        return [
            Support(float(score), unverifiable=unverifiable(text))
            for score, (_, text) in zip(scores, sentences, strict=True)
        ]


def _crop(image: Image.Image, region: DetailRegion) -> Image.Image:
    left, top, right, bottom = region.box
    corners = (max(0, int(left)), max(0, int(top)), round(right + 0.499), round(bottom + 0.499))
    width, height = image.size
    return image.crop((corners[0], corners[1], min(width, corners[2]), min(height, corners[3])))


class BlipMatcher:
    """(Matching probability + cosine) / 2 of BLIP, as published; `transformers.BlipForImageTextRetrieval`.

    Args:
        model, processor: of one checkpoint.
        name: for the settings.
        max_tokens: of a sentence; the published system reads 35, so the tail of a long one is never seen.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str = "blip", max_tokens: int = 64
    ) -> None:
        self._model = model.eval()
        self._processor = processor
        self._max_tokens = max_tokens
        self.name = name

    @torch.inference_mode()
    def match(self, picture: Image.Image, sentences: Sequence[str]) -> FloatArray:
        """(n,) float64, about 0 to 1."""
        model = self._model
        device = next(model.parameters()).device
        pixels = self._processor.image_processor(images=picture, return_tensors="pt")[
            "pixel_values"
        ]
        seen = model.vision_model(pixel_values=pixels.to(device)).last_hidden_state
        texts = self._processor.tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(device)
        ids, mask = texts["input_ids"], texts["attention_mask"]
        patches = seen.expand(len(sentences), -1, -1)
        joint = model.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=device),
        ).last_hidden_state
        alone = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        matching = model.itm_head(joint[:, 0]).softmax(dim=1)[:, 1]
        cosine = _unit(model.text_proj(alone[:, 0])) @ _unit(model.vision_proj(seen[:, 0]))[0]
        return np.asarray(((matching + cosine) / 2).double().cpu().numpy())


class ClipMatcher:
    """Cosine of CLIP, through open_clip.

    Args:
        model: with `encode_image` and `encode_text`.
        preprocess: picture -> (3, H, W) tensor.
        tokenize: list of sentences -> (n, tokens) tensor.
        name: for the settings.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], Tensor],
        tokenize: Callable[[list[str]], Tensor],
        *,
        name: str = "clip",
    ) -> None:
        self._model = model.eval()
        self._preprocess = preprocess
        self._tokenize = tokenize
        self.name = name

    @torch.inference_mode()
    def match(self, picture: Image.Image, sentences: Sequence[str]) -> FloatArray:
        """(n,) float64 cosines."""
        device = next(self._model.parameters()).device
        pixels = self._preprocess(picture)[None].to(device)
        seen = _unit(self._model.encode_image(pixels))
        said = _unit(self._model.encode_text(self._tokenize(list(sentences)).to(device)))
        return np.asarray((said @ seen[0]).double().cpu().numpy())


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.float(), dim=-1)


LoadMatcher = Callable[[str], Matcher]
SCORERS: Registry[LoadMatcher] = Registry("independent scorer")
"""Name -> makes a matcher from the name or folder of a checkpoint."""


@SCORERS.register("blip")
def load_blip(checkpoint: str) -> Matcher:
    """BLIP from a hub id or folder, e.g. "Salesforce/blip-itm-large-coco"."""
    transformers = require("transformers", "language-models")
    model = transformers.BlipForImageTextRetrieval.from_pretrained(checkpoint, use_safetensors=True)
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    return BlipMatcher(model, processor, name=f"blip:{checkpoint}")


@SCORERS.register("clip")
def load_clip(checkpoint: str) -> Matcher:
    """CLIP by open_clip's spelling: "ViT-B-32@laion2b_s34b_b79k" or "hf-hub:owner/name"."""
    open_clip = require("open_clip", "clip")
    name, _, weights = checkpoint.partition("@")
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights or None)
    return ClipMatcher(model, preprocess, open_clip.get_tokenizer(name), name=f"clip:{checkpoint}")


def blip_scorer(checkpoint: str, *, calibration: Logistic | None = None) -> IndependentScorer:
    """An `IndependentScorer` with BLIP; see `load_blip`."""
    return IndependentScorer(load_blip(checkpoint), calibration=calibration)


def clip_scorer(checkpoint: str, *, calibration: Logistic) -> IndependentScorer:
    """An `IndependentScorer` with CLIP, whose cosines need a calibration; see `load_clip`."""
    return IndependentScorer(load_clip(checkpoint), calibration=calibration)
