"""The bodies of our own API; what a client sends is checked against these, and `/openapi.json` shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from decoders import DecodeOptions
from patchioner.alt import alt_text
from patchioner.base.errors import OptionError
from patchioner.checkpoints.folder import Style
from patchioner.model import Patchioner
from patchioner.regions import Weighting, WholeImage
from patchioner.results import Caption, Label
from patchioner.serve.reading import told

_Json = dict[str, Any]
_MOST = {"max_tokens": 128, "beam_width": 16, "temperature": 100.0, "length_penalty": 100.0}
_MOST_WORDS, _COLDEST = 100, 1e-3  # that are banned; of temperatures


@dataclass(frozen=True)
class Asked:
    """How captions are wanted; see `Patchioner.caption_many`."""

    options: DecodeOptions | None = None
    plain: bool = False
    gendered: bool = False
    style: Style = "auto"
    min_confidence: float | None = None
    weighting: Weighting | None = None


def decoding(model: Patchioner, **given: Any) -> DecodeOptions:
    """The model's options with others; OptionError for a number that makes no sense, or is too large for a server."""
    options = replace(model.settings.decode, **given)
    for name, most in _MOST.items():
        if getattr(options, name) > most:
            raise OptionError(f"{name} is too large: give at most {most:g}")
    if len(options.banned_words) > _MOST_WORDS:
        raise OptionError(f"banned_words are too many: give at most {_MOST_WORDS}")
    if options.temperature < _COLDEST:
        raise OptionError(f"temperature is too low: give {_COLDEST:g} or more, or another strategy")
    return options


class Strict(BaseModel):
    """A body with no other fields than these."""

    model_config = ConfigDict(extra="forbid")


class Decoding(Strict):
    """How captions are wanted; the defaults are the model's. See `DecodeOptions`."""

    strategy: str | None = Field(default=None, description="greedy, beam or sample")
    max_tokens: int | None = None
    min_tokens: int | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    banned_words: tuple[str, ...] | None = None
    no_repeat_ngram: int | None = None
    plain: bool = Field(default=False, description="likeliest, not kept to what the region shows")
    gendered: bool = Field(default=False, description="men and women, not persons alone")
    style: Style = Field(default="auto", description="of captions: phrase or sentence")
    min_confidence: float | None = Field(default=None, description="captions below it have no text")
    weighting: str | None = Field(default=None, description="uniform, gaussian, attention or cls")

    def asked(self, model: Patchioner) -> Asked:
        """The same for a model; errors as `decoding`."""
        given = self.model_dump(include=set(Decoding.model_fields), exclude_none=True)
        kind = given.pop("weighting", None)
        own = {
            name: given.pop(name, None) for name in ("plain", "gendered", "style", "min_confidence")
        }
        options = decoding(model, **given) if given else None
        return Asked(options, **own, weighting=None if kind is None else Weighting(kind))


class Upload(Strict):
    """A photo as base64 or a data URL, or the name of one in the server's `--root`."""

    image: str | None = None
    path: str | None = None


class CaptionQuestion(Decoding):
    """Regions to caption; none is the whole photo. With candidates, one of those is chosen."""

    regions: list[_Json] | None = None
    candidates: list[str] | None = None


class OneGo(CaptionQuestion, Upload):
    """A photo and its regions."""


class RegionQuestion(Strict):
    """Regions; none is the whole photo."""

    regions: list[_Json] | None = None


class LabelQuestion(RegionQuestion):
    """Regions to label, and the names to choose from."""

    names: list[str]
    threshold: float | None = None


class ExplainQuestion(Strict):
    """A region, and how many memory texts are wanted."""

    region: _Json
    k: int = Field(default=5, ge=1, le=100)


class PatchQuestion(Decoding):
    """Words to look for, or [row, column] of patches to caption."""

    text: str | None = None
    cells: list[tuple[int, int]] | None = None


class DetailQuestion(Strict):
    """How a long description is drawn."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    preset: Literal["careful", "full"] = "careful"


def _answer(name: str, **kinds: Any) -> type[BaseModel]:
    fields: Any = {field: (kind, ...) for field, kind in kinds.items()}
    return create_model(name, **fields)


Failure = _answer("Failure", error=_answer("Error", type=str, message=str))
_text: Any = {"text": str | None, "region": _Json}
_confident: Any = dict.fromkeys(("score", "confidence"), float | None)
_confident |= dict.fromkeys(("reason", "alt"), str | None)
_chosen: Any = {"probability": float, "cosines": list[float], "probabilities": list[float]}
_near = _answer("MemoryText", text=str, similarity=float, weight=float)
_captions: Any = {"captions": list[_answer("Caption", **_text, **_confident) | Failure]}  # type: ignore[misc]
_pair = tuple[float, float]
_image: Any = {"id": str, "width": int, "height": int, "grid": tuple[int, int]}
_image |= {"origin": _pair, "cell": _pair}
ImageAnswer = _answer("Image", **_image)
CaptionsAnswer = _answer("Captions", **_captions)
OneGoAnswer = _answer("ImageAndCaptions", **_image, **_captions)
LabelsAnswer = _answer("Labels", labels=list[_answer("Label", **_text, **_chosen) | Failure])  # type: ignore[misc]
EmbedAnswer = _answer("Embeddings", dim=int, embeddings=list[list[float] | Failure])  # type: ignore[valid-type]
ExplainAnswer = _answer("Explanation", texts=list[_near], weights=list[list[float]])  # type: ignore[valid-type]
PatchesAnswer = _answer("Similarities", grid=tuple[int, int], similarities=list[list[float]])


def caption_json(caption: Caption) -> _Json:
    """A caption with all its fields."""
    alt = alt_text(caption) if isinstance(caption.region, WholeImage) else None
    return {"confidence": None, "reason": None, **caption.to_dict(), "alt": alt}


def choice_json(label: Label) -> _Json:
    """A candidate that was chosen, as a caption."""
    reason = "none of the candidates is likely enough" if label.text is None else None
    sure = {"score": None, "confidence": round(label.probability, 6), "reason": reason}
    return {"text": label.text, **sure, "region": label.region.to_json(), "alt": None}


def failure(error: BaseException) -> _Json:
    """The error of one region, or of a request."""
    return {"error": told(error).to_dict()}
