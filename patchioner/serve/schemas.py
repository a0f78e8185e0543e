"""The bodies of our own API; what a client sends is checked against these, and `/openapi.json` shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from decoders import DecodeOptions
from patchioner.base.errors import OptionError
from patchioner.model import Patchioner
from patchioner.regions import Weighting
from patchioner.results import Caption, Label
from patchioner.serve.engine import Asked
from patchioner.serve.errors import told

RegionJson = dict[str, Any]
_MOST = {"max_tokens": 128, "beam_width": 16, "banned_words": 100}
_OWN = ("rerank", "min_confidence", "weighting")


class Body(BaseModel):
    """Of a request; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Decoding(Body):
    """How captions are wanted; the defaults are the model's. See `DecodeOptions`."""

    strategy: str | None = Field(None, description="greedy, beam or sample")
    max_tokens: int | None = None
    min_tokens: int | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    banned_words: list[str] | None = None
    no_repeat_ngram: int | None = None
    rerank: bool | None = Field(None, description="choose among candidates of the model's own")
    min_confidence: float | None = Field(None, description="captions below it have no text")
    weighting: str | None = Field(None, description="uniform, gaussian, attention or cls")

    def asked(self, model: Patchioner) -> Asked:
        """The same for a model; OptionError for a number that makes no sense or is too large."""
        given = {
            name: getattr(self, name)
            for name in Decoding.model_fields
            if getattr(self, name) is not None
        }
        for name, most in _MOST.items():
            value = given.get(name, 0)
            if (len(value) if isinstance(value, list) else value) > most:
                raise OptionError(f"{name} is too large: give at most {most}")
        own = {name: given.pop(name) for name in _OWN if name in given}
        if "weighting" in own:
            own["weighting"] = Weighting(own["weighting"])
        if "banned_words" in given:
            given["banned_words"] = tuple(given["banned_words"])
        options: DecodeOptions = replace(model.settings.decode, **given)
        return Asked(options, **own)


class Upload(Body):
    """A photo as base64 or a data URL, or the name of one in the server's `--root`."""

    image: str | None = None
    path: str | None = None


class CaptionQuestion(Decoding):
    """Regions to caption; none is the whole photo. With candidates, one of those is chosen."""

    regions: list[RegionJson] | None = None
    candidates: list[str] | None = None


class OneGo(CaptionQuestion, Upload):
    """A photo and its regions."""


class LabelQuestion(Body):
    """Regions to label, and the names to choose from."""

    regions: list[RegionJson] | None = None
    names: list[str]
    threshold: float | None = None


class EmbedQuestion(Body):
    """Regions to embed."""

    regions: list[RegionJson] | None = None


class ExplainQuestion(Body):
    """A region, and how many memory texts are wanted."""

    region: RegionJson
    k: int = Field(5, ge=1, le=100)


class PatchQuestion(Decoding):
    """Words to look for, or [row, column] of patches to caption."""

    text: str | None = None
    cells: list[tuple[int, int]] | None = None


class DetailQuestion(Body):
    """How a long description is drawn."""

    seed: int = Field(0, ge=0, lt=2**63)


class ErrorInfo(BaseModel):
    """What went wrong."""

    type: str
    message: str


class Failure(BaseModel):
    """An error, of a request or of one region."""

    error: ErrorInfo


class ImageAnswer(BaseModel):
    """A photo that is encoded: upright pixels, and [rows, columns] of patches."""

    id: str
    width: int
    height: int
    grid: tuple[int, int]


class CaptionAnswer(BaseModel):
    """A caption of one region."""

    text: str | None
    score: float | None
    confidence: float | None
    reason: str | None
    region: RegionJson

    @classmethod
    def of(cls, caption: Caption) -> dict[str, Any]:
        """The caption as JSON."""
        absent = {"confidence": None, "reason": None}
        return absent | caption.to_dict()

    @classmethod
    def chosen(cls, label: Label) -> dict[str, Any]:
        """A candidate as JSON."""
        reason = None if label.text is not None else "none of the candidates is likely enough"
        return {
            "text": label.text,
            "score": None,
            "confidence": round(label.probability, 6),
            "reason": reason,
            "region": label.region.to_json(),
        }


class CaptionsAnswer(BaseModel):
    """One entry for each region, in their order."""

    captions: list[CaptionAnswer | Failure]


class OneGoAnswer(ImageAnswer, CaptionsAnswer):
    """A photo and its captions."""


class LabelAnswer(BaseModel):
    """A label of one region."""

    text: str | None
    probability: float
    cosines: list[float]
    probabilities: list[float]
    region: RegionJson


class LabelsAnswer(BaseModel):
    """One entry for each region, in their order."""

    labels: list[LabelAnswer | Failure]


class EmbedAnswer(BaseModel):
    """One row for each region, in their order."""

    dim: int
    embeddings: list[list[float] | Failure]


class MemoryText(BaseModel):
    """A text of the memory, its cosine with the region, and its share among those that are shown."""

    text: str
    similarity: float
    weight: float


class ExplainAnswer(BaseModel):
    """What a caption rests on."""

    texts: list[MemoryText]
    weights: list[list[float]]


class PatchesAnswer(BaseModel):
    """Cosines of all patches with the words, or captions of some."""

    grid: tuple[int, int] | None = None
    similarities: list[list[float]] | None = None
    captions: list[CaptionAnswer | Failure] | None = None


def failure(error: BaseException) -> dict[str, Any]:
    """The error of one region as JSON."""
    return {"error": told(error).to_dict()}
