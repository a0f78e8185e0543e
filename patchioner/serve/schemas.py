"""Requests: photos and regions out of them, within limits; errors, never in a library's words; our API's bodies."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import unquote

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model

from decoders import DecodeOptions
from patchioner.base import errors
from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionError
from patchioner.checkpoints.folder import Style
from patchioner.images import PILLOW_QUIET, load_image, readable_formats
from patchioner.model import Patchioner
from patchioner.regions import Mask, Region, Weighting, WholeImage, from_coco
from patchioner.regions.mask import rle_pixels
from patchioner.results import Caption, Label, alt_text
from patchioner.serve import ServeSettings

T = TypeVar("T")
_URLSAFE = str.maketrans("-_", "+/")  # base64's other spelling
Size = tuple[int, int]
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "MPO", "PPM")
_MOST_NUMBERS, _DEEPEST = 50_000, 8  # of a region
_MOST_SCANS = 100  # of a JPEG, each of which takes as long as the whole photo
_TILE = (322, 323)  # TIFF's tags for width and height of tiles
_MOST_MASK_PIXELS = 2**28  # of a request: a byte each, when unpacked
# The last column replaces messages that quote a library.
_TOLD: tuple[tuple[Any, int, str, str | None], ...] = (
    ((errors.RegionError, errors.RegionFileError), 400, "bad_region", None),
    ((errors.OptionError, errors.DecoderError), 400, "bad_option", None),
    (errors.TextError, 400, "bad_text", None),
    (errors.UnknownNameError, 404, "unknown_model", None),
    (errors.ImageError, 400, "bad_image", "the photo is damaged, or of no known kind"),
    (errors.OutOfMemoryError, 413, "too_large", "too little memory: give fewer regions"),
)


class RequestError(PatchionerError):
    """A request without an answer: HTTP's status, a word for programs, seconds after which to try again."""

    def __init__(self, status: int, kind: str, message: str, wait: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, wait

    def to_dict(self) -> dict[str, Any]:
        """As it stands in answers, under "error"."""
        return {"type": self.kind, "message": str(self)}


bad_request = partial(RequestError, 400, "bad_request")  # it cannot be understood
bad_image = partial(RequestError, 400, "bad_image")  # there is no such photo, or it is none
too_large = partial(RequestError, 413, "too_large")  # a limit is passed


def told(error: BaseException) -> RequestError:
    """What a client is told of an error; of one that nobody foresaw, nothing but that."""
    if isinstance(error, RequestError):
        return error
    for sort, status, kind, words in _TOLD:
        if isinstance(error, sort):
            return RequestError(status, kind, words or str(error))
    return RequestError(500, "failed", "the server failed at this request; its log says more")


def photo_bytes(text: str) -> bytes:
    """The file in base64 or a data URL; RequestError for a link, a path, or no base64."""
    head, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if re.match(r"[a-z]{2,10}://", text, re.IGNORECASE) or (head and not comma):
        raise bad_image("photos are not fetched: send the file as base64 or a data URL")
    text = "".join((unquote(body) if head else body).split())
    try:
        return base64.b64decode(text.translate(_URLSAFE), validate=True)
    except ValueError:
        raise bad_image("the image is no base64 and no data URL") from None


def open_photo(data: bytes, settings: ServeSettings) -> Image.Image:
    """A file of a known kind as upright RGB; RequestError where it is too large, damaged, or of another kind."""
    readable_formats()  # those of extras, too
    formats, most = [one for one in _FORMATS if one in Image.OPEN], settings.max_pixels
    try:
        with PILLOW_QUIET, Image.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if width * height > most:
                raise too_large(f"the photo has {width} x {height} pixels, more than {most:,}")
            if _is_costly(picture, data, most):
                raise too_large("the photo takes far more work than its size: save it anew")
            return load_image(picture)
    except RequestError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise too_large("the photo is too large for this server") from None
    except Exception as error:  # decoders fail in any way at hostile files
        raise told(error if isinstance(error, ImageError) else ImageError()) from error


def _is_costly(picture: Image.Image, data: bytes, most: int) -> bool:
    """Whether a decoder would need far more time or memory than the pixels: many scans, tiles beyond the photo."""
    if picture.format in ("JPEG", "MPO"):
        return data.count(b"\xff\xda") > _MOST_SCANS
    tags: Any = getattr(picture, "tag_v2", {})
    return math.prod(int(tags.get(tag, 1)) for tag in _TILE) > most


def named_photo(name: str, settings: ServeSettings) -> bytes:
    """A file of the server's `--root`; RequestError where it is not there, lies elsewhere, or is too large."""
    refused = bad_image(f"no photo {name!r:.80} in the server's --root")
    if settings.root is None or "\0" in name:
        raise refused
    try:
        base = settings.root.resolve()
        path = (base / name).resolve()
        if not path.is_relative_to(base) or not path.is_file():
            raise refused
        if path.stat().st_size > settings.max_bytes:
            raise too_large(f"the photo {name!r:.80} is too large")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        raise refused from None


def region_list(entries: Sequence[Any] | None, size: Size, settings: ServeSettings) -> list[Region | PatchionerError]:
    """Each entry as a region or its error; None is the whole photo, `size` its (width, height).

    Entries are our JSON, ``{"format": "coco" | "rle", ...}``, or the error that another dialect found. RequestError for
    none, or more than are allowed, by number or by the pixels of their masks.
    """
    if entries is None:
        return [WholeImage()]
    if not entries:
        raise bad_request("'regions' is empty: leave it out for the whole photo")
    most, room = settings.max_regions, _MOST_MASK_PIXELS
    if len(entries) > most:
        raise too_large(f"{len(entries)} regions: give at most {most}")
    found: list[Region | PatchionerError] = []
    for entry in entries:
        pixels = _attempt(_mask_pixels, entry, size)
        room -= pixels if isinstance(pixels, int) else 0
        if room < 0:
            raise too_large(f"masks of over {_MOST_MASK_PIXELS:,} pixels in all: send fewer")
        found.append(_attempt(_region, entry, size) if isinstance(pixels, int) else pixels)
    return found


def _attempt(work: Callable[[Any, Size], T], entry: Any, size: Size) -> T | PatchionerError:
    try:
        return work(entry, size)
    except PatchionerError as error:
        return error
    except RecursionError:
        return RegionError("the region is nested too deeply")
    except Exception:  # what only looks like a region fails in any way
        return RegionError(f"{entry!r:.80} is no region: see docs/regions.md")


def _region(entry: Any, size: Size) -> Region:
    form = entry.get("format") if isinstance(entry, Mapping) else None
    if form not in (None, "coco", "rle"):
        raise RegionError(f"format {form!r:.40} is unknown: use coco, rle, or leave it out")
    if isinstance(entry, Mapping):
        entry = {key: entry[key] for key in entry if key not in ("format", "label", "id")}
    if form is None:
        region = Region.from_json(entry)
    else:
        region = from_coco(entry, size) if form == "coco" else Mask.from_rle(entry, size)
    region.require_fit(size)
    return region


def _mask_pixels(entry: Any, size: Size) -> int:
    """Pixels of the masks in an entry; what would take much memory or time is refused before it is read."""
    if isinstance(entry, PatchionerError):
        raise entry
    numbers, level = 0, [entry]
    for _ in range(_DEEPEST):
        numbers += sum(len(one) for one in level if isinstance(one, list))
        if numbers > _MOST_NUMBERS:
            raise RegionError(f"the region has more than {_MOST_NUMBERS:,} numbers: simplify it")
        held = [one for one in level if isinstance(one, Mapping) and "counts" not in one]
        parts = [part for one in held for part in one.values()]
        parts += [part for one in level if isinstance(one, list) for part in one]
        level = [part for part in parts if isinstance(part, list | Mapping)]
    if level:
        raise RegionError("the region is nested too deeply")
    return rle_pixels(entry, size)


Json = dict[str, Any]
_MOST = {"max_tokens": 128, "beam_width": 16, "temperature": 100.0, "length_penalty": 100.0}
_MOST_WORDS, _COLDEST = 100, 1e-3  # that are banned; of temperatures
_OF_CAPTIONS = ("plain", "gendered", "style", "min_confidence")
Asked: TypeAlias = tuple[tuple[str, Any], ...]
"""How captions are wanted: arguments of `Patchioner.caption_many`."""


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
        own = {name: given.pop(name) for name in _OF_CAPTIONS if name in given}
        if "weighting" in given:
            own["weighting"] = Weighting(given.pop("weighting"))
        if given:
            own["options"] = decoding(model, **given)
        return tuple(own.items())


class Upload(Strict):
    """A photo as base64 or a data URL, or the name of one in the server's `--root`."""

    image: str | None = None
    path: str | None = None


class CaptionQuestion(Decoding):
    """Regions to caption; none is the whole photo. With candidates, one of those is chosen."""

    regions: list[Json] | None = None
    candidates: list[str] | None = None


class OneGo(CaptionQuestion, Upload):
    """A photo and its regions."""


class RegionQuestion(Strict):
    """Regions; none is the whole photo."""

    regions: list[Json] | None = None


class LabelQuestion(RegionQuestion):
    """Regions to label, and the names to choose from."""

    names: list[str]
    threshold: float | None = None


class ExplainQuestion(Strict):
    """A region, and how many memory texts are wanted."""

    region: Json
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
_text: Any = {"text": str | None, "region": Json}
_confident: Any = {"score": float | None, "confidence": float | None, "reason": str | None, "alt": str | None}
_chosen: Any = {"probability": float, "cosines": list[float], "probabilities": list[float]}
_near = _answer("MemoryText", text=str, similarity=float, weight=float)
_captions: Any = {"captions": list[_answer("Caption", **_text, **_confident) | Failure]}  # type: ignore[misc]
_pair = tuple[float, float]
_image: Any = {"id": str, "width": int, "height": int, "grid": tuple[int, int], "origin": _pair, "cell": _pair}
ImageAnswer = _answer("Image", **_image)
CaptionsAnswer = _answer("Captions", **_captions)
OneGoAnswer = _answer("ImageAndCaptions", **_image, **_captions)
LabelsAnswer = _answer("Labels", labels=list[_answer("Label", **_text, **_chosen) | Failure])  # type: ignore[misc]
EmbedAnswer = _answer("Embeddings", dim=int, embeddings=list[list[float] | Failure])  # type: ignore[valid-type]
ExplainAnswer = _answer("Explanation", texts=list[_near], weights=list[list[float]])  # type: ignore[valid-type]
PatchesAnswer = _answer("Similarities", grid=tuple[int, int], similarities=list[list[float]])


def caption_json(caption: Caption) -> Json:
    """A caption with all its fields."""
    alt = alt_text(caption) if isinstance(caption.region, WholeImage) else None
    return {"confidence": None, "reason": None, **caption.to_dict(), "alt": alt}


def choice_json(label: Label) -> Json:
    """A candidate that was chosen, as a caption."""
    reason = "none of the candidates is likely enough" if label.text is None else None
    sure = {"score": None, "confidence": round(label.probability, 6), "reason": reason}
    return {"text": label.text, **sure, "region": label.region.to_json(), "alt": None}


def failure(error: BaseException) -> Json:
    """The error of one region, or of a request."""
    return {"error": told(error).to_dict()}
